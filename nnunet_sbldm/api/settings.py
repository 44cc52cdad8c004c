"""What is asked of a model: how many cases, like what, drawn how. Everything is checked here, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from nnunet_sbldm.generator.spec import SpecEntry, read_entry
from nnunet_sbldm.ldm.config import SAMPLERS, DiffusionConfig, SamplerConfig
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.generator.plan import GeneratorPlan
    from nnunet_sbldm.generator.requests import Request

CUDA_BATCH_SIZE = 8
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SampleSettings:
    """What to draw, and how.

    Attributes:
        num_cases: how many cases; their seeds are ``seed``, ``seed + 1``, ...
        entry: what they shall be like; its own ``count`` is not looked at.
        seed: seed of the first case, 0 to 2^63 - 1.
        diversity: width of the condition model's kernels, 1 as fitted; it decides what is left open.
        sampler: solver, steps, guidance.
        use_gate: draw again what the quality gate rejects; otherwise the first draw of every case is taken.
        max_attempts: draws per case before the gate gives it up.

    Raises:
        UserError: a value out of its range.
    """

    num_cases: int = 1
    entry: SpecEntry = field(default_factory=SpecEntry)
    seed: int = 0
    diversity: float = 1.0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    use_gate: bool = False
    max_attempts: int = 4

    def __post_init__(self) -> None:
        plain = {
            "num_cases": _whole("n", self.num_cases, 1),
            "max_attempts": _whole("attempts", self.max_attempts, 1),
            "seed": _whole("seed", self.seed, 0, MAX_SEED),
            "diversity": _number("diversity", self.diversity, above=0),
            "sampler": _checked(self.sampler),
        }
        for name, value in plain.items():  # numpy's numbers, too, become Python's, which JSON can hold
            object.__setattr__(self, name, value)

    def request(self, plan: GeneratorPlan, number: int) -> Request:
        """The request of one case.

        Args:
            plan: of the model that is asked.
            number: which case, from 0.

        Raises:
            UserError: the model has no such label.
        """
        from nnunet_sbldm.generator.requests import Request

        seed = self.seed + number
        return Request(f"sbldm_{seed:05d}", seed, self.entry.features(plan, seed), self.diversity)


def described(description: Mapping[str, Any]) -> SpecEntry:
    """What cases shall be like, by the names of :class:`SpecEntry`; None leaves a value to the condition model.

    Raises:
        UserError: a value out of its range, or one of a label that shall be absent.
    """
    given = {k: _plain(v) for k, v in description.items() if v is not None}
    return read_entry({"count": 1, **given}, "What is asked")


def _plain(value: Any) -> Any:
    """The value as JSON has it: numpy's numbers and arrays, and tuples, become Python's numbers and lists."""
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def suited_sampler(sampler: SamplerConfig, device: str, batch_size: int | None = None) -> SamplerConfig:
    """The sampler with the arithmetic and the batch size that suit a device.

    Args:
        sampler: solver, steps, guidance, corrections.
        device: ``cpu``, ``cuda`` or ``mps``.
        batch_size: cases denoised together; None takes 8 on a GPU, else 1. Rounding depends on it.

    Raises:
        UserError: an unknown solver, or a value out of its range.
    """
    from nnunet_sbldm.common.devices import best_precision

    size = batch_size or (CUDA_BATCH_SIZE if device == "cuda" else 1)
    return replace(_checked(sampler), batch_size=size, precision=best_precision(device))


def _checked(sampler: SamplerConfig) -> SamplerConfig:
    if sampler.name not in SAMPLERS:
        raise UserError(f"sampler takes {', '.join(SAMPLERS)}; got {sampler.name!r}.")
    if sampler.eta and sampler.name != "ddim":
        raise UserError(f"-eta goes with -sampler ddim, not with {sampler.name}.")
    return replace(
        sampler,
        eta=_number("eta", sampler.eta),
        guidance_scale=_number("guidance", sampler.guidance_scale),
        num_steps=_whole("steps", sampler.num_steps, 1, DiffusionConfig.num_train_timesteps),
        max_corrections=_whole("corrections", sampler.max_corrections, 0),
        batch_size=_whole("batch_size", sampler.batch_size, 1),
    )


def _whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        raise UserError(f"{name} takes a whole number from {least}{'' if most is None else f' to {most}'}; got {value!r}.")
    return int(value)


def _number(name: str, value: Any, above: float = -math.inf) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value <= above:
        raise UserError(f"{name} takes a number{'' if above == -math.inf else f' above {above:g}'}; got {value!r}.")
    return float(value)
