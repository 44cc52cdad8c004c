"""From a trained generator to synthetic cases: conditions, latents, decoding, cleaning, the way back to a case.

Everything random about a case comes from its own seed, so it is the same case in any batch, part or order.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nnunet_sbldm import __version__
from nnunet_sbldm.common.seeds import Stream, rng_of
from nnunet_sbldm.data.conditions import FEATURES, as_dict, as_vector, measure
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.decoding import decoded_volume
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request, range_warnings
from nnunet_sbldm.generator.size_correction import draw_to_size
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.ldm.diffusion import sample
from nnunet_sbldm.types import Case, FloatArray, LabelArray, UserError


def check_asked(generator: Generator, asked: Mapping[str, float]) -> list[str]:
    """Refuse unknown features; return a warning for each value outside the training range."""
    names = generator.plan.condition_scaling.names
    for name in asked:
        if name not in names:
            raise UserError(f"This SBLDM has no condition {name}; it has {', '.join(names)}.")
    return range_warnings(generator.plan, [asked])


def condition_of(generator: Generator, request: Request) -> np.ndarray:
    """Condition vector [F] in physical units for a request; asking any feature of a label asks for its presence."""
    asked = dict(request.asked)
    for name in request.asked:
        asked.setdefault(f"{name.rsplit('/', 1)[0]}/{FEATURES[0]}", 1.0)
    return generator.plan.condition_model.sample(rng_of(request.noise_seed, Stream.CONDITION), asked, request.diversity)


@dataclass(frozen=True)
class Draw:
    """One sampled volume, before it becomes a case.

    Attributes:
        request: what was asked for.
        condition: [F] condition vector in physical units, NaN where missing.
        told: [F] what the denoiser was told; another one than ``condition`` where the size was corrected.
        obtained: [F] the same features measured on the label map.
        latent: [Z, D, h, w] standardised latent volume.
        image: [C, D, H, W] in network scale.
        label: [D, H, W] label values, ``OUTSIDE`` outside the anatomy.
        anatomy: [D, H, W] bool.
        num_draws: draws made for it, of which it is the best.
    """

    request: Request
    condition: np.ndarray
    told: np.ndarray
    obtained: np.ndarray
    latent: Tensor
    image: FloatArray
    label: LabelArray
    anatomy: np.ndarray
    num_draws: int = 1

    def case(self, generator: Generator) -> Case:
        """The case: raw intensities, exact zeros outside, reader order."""
        return generator.plan.from_network(self.request.case_id, self.image, self.label, self.anatomy)

    def record(self, generator: Generator, sampler: SamplerConfig) -> SyntheticRecord:
        """Its provenance, without gate and nearest real case."""
        asked = as_dict(generator.plan.condition_scaling.names, self.condition)
        return record_of(generator, self.request, sampler, asked, self.told, self.obtained)


def record_of(
    generator: Generator,
    request: Request,
    sampler: SamplerConfig,
    asked: dict[str, float],
    told: np.ndarray,
    obtained: np.ndarray,
) -> SyntheticRecord:
    """Provenance of a draw or an edit, without gate, nearest real case and what belongs to edits alone.

    Args:
        generator: what made it.
        request: what was requested.
        sampler: how it was sampled.
        asked: condition asked, by feature, in physical units.
        told: [F] condition that the denoiser was told.
        obtained: [F] the same features measured on the label map.
    """
    names = generator.plan.condition_scaling.names
    return SyntheticRecord(
        case_id=request.case_id,
        generator_hash=generator.hash,
        generator_path=str(generator.folder),
        format=request.streams,
        seed=request.seed,
        attempt=request.attempt,
        fold=generator.plan.fold,
        condition_asked=asked,
        condition_obtained=as_dict(names, obtained),
        condition_told=differing(as_dict(names, told), asked),
        sampler={**asdict(sampler), "diversity": request.diversity},
        versions={
            "nnunet_sbldm": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": generator.device.type,
        },
    )


def draw(generator: Generator, requests: Sequence[Request], sampler: SamplerConfig) -> Iterator[Draw]:
    """Sample and decode batch by batch.

    Args:
        generator: trained generator, on the device to use.
        requests: what to make.
        sampler: steps, guidance and batch size.
    """
    for start in range(0, len(requests), sampler.batch_size):
        batch = requests[start : start + sampler.batch_size]
        conditions = [condition_of(generator, r) for r in batch]
        make = partial(_draw_some, generator, batch, conditions, sampler)
        for drawn, num_draws in draw_to_size(generator.plan, conditions, conditions, sampler.max_corrections, make):
            yield replace(drawn, num_draws=num_draws)


def _draw_some(
    generator: Generator,
    requests: Sequence[Request],
    conditions: Sequence[np.ndarray],
    sampler: SamplerConfig,
    chosen: Sequence[int],
    told: Sequence[np.ndarray],
) -> Iterator[Draw]:
    """Those draws of a batch, with what the denoiser is told of each."""
    latents = sample_latents(generator, [requests[i] for i in chosen], told, sampler)
    for i, condition, latent in zip(chosen, told, latents, strict=True):
        yield _decode(generator, requests[i], conditions[i], condition, latent, sampler.precision)


def draw_again(generator: Generator, request: Request, sampler: SamplerConfig, told: Mapping[str, float]) -> Draw:
    """A recorded draw; ``told`` is what the record says that the denoiser was told, empty if that is what was asked."""
    asked = condition_of(generator, request)
    condition = as_vector(generator.plan.condition_scaling.names, told) if told else asked
    (drawn,) = _draw_some(generator, [request], [asked], sampler, [0], [condition])
    return drawn


def differing(told: dict[str, float], asked: dict[str, float]) -> dict[str, float]:
    """What the denoiser was told, if it is not what was asked; else nothing."""
    return {} if told == asked else told


def sample_latents(
    generator: Generator, requests: Sequence[Request], conditions: Sequence[np.ndarray], sampler: SamplerConfig
) -> Tensor:
    """Standardised latent volumes [B, Z, D, h, w] for requests with given conditions.

    A short batch is filled with repetitions, so that a case's rounding depends on the recorded batch size alone.
    """
    plan, n = generator.plan, len(requests)
    filled = [i % n for i in range(sampler.batch_size)]
    c = plan.network_conditions([conditions[i] for i in filled], generator.device)
    noise = plan.noise([requests[i].noise_seed for i in filled])
    return sample(generator.denoiser, plan.preset.diffusion, sampler, noise, c)[:n]


def _decode(
    generator: Generator, request: Request, condition: np.ndarray, told: np.ndarray, latent: Tensor, precision: str
) -> Draw:
    plan = generator.plan
    volume = decoded_volume(plan, generator.autoencoder, latent, request.noise_seed, precision)
    obtained = measure(volume.label, plan.targets, plan.grid.spacing_mm)
    return Draw(request, condition, told, obtained, latent.cpu(), volume.image, volume.label, volume.anatomy)
