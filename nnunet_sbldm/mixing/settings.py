"""Settings of a training that mixes synthetic cases in, as they stand in a configuration of the plans."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

from nnunet_sbldm.mixing.schedule import SCHEDULES, ratio_at
from nnunet_sbldm.types import UserError

SETTINGS_KEY = "sbldm"
"""Key of the settings block in a configuration of the plans."""

SETTINGS_NAME = "sbldm_settings.json"
"""The settings as they were applied, beside the checkpoints of a fold."""

SOURCES = ("auto", "pool", "expanded", "on_the_fly", "copy_paste")
MODES = ("generate", "edit")
CPU_PRECISIONS = ("fp32", "bf16")
DEVICE_PATTERN = re.compile(r"cpu|mps|cuda(:\d+)?")

COUNTS = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "pool_size", "max_reuse")
TRAINER_ATTRIBUTES = COUNTS[:3]
ON_THE_FLY_ONLY = ("mode", "model", "sbldm_device", "pool_size", "max_reuse", "wait_s")
MAX_WAIT_S = 600
"""Other ranks wait in a barrier meanwhile, whose default time limit this is on GPUs."""


@dataclass(frozen=True)
class MixingSettings:
    """How a training mixes synthetic cases in, and how long it runs.

    Attributes:
        ratio: share of synthetic cases among the drawn cases, 0 to 1.
        num_epochs: epochs; None leaves the trainer's own (nnU-Net: 1000).
        num_iterations_per_epoch: training batches per epoch; None leaves the trainer's own (nnU-Net: 250).
        num_val_iterations_per_epoch: validation batches per epoch; None leaves the trainer's own (nnU-Net: 50).
        schedule: how the share goes over the epochs, one of ``SCHEDULES``; see :func:`nnunet_sbldm.mixing.schedule.ratio_at`.
        source: where synthetic cases come from, one of ``SOURCES``; ``auto`` is what the trainer's name says, otherwise the
            expanded dataset that is trained, otherwise the pool.
        mode: what ``on_the_fly`` makes, one of ``MODES``: whole cases, or edits of the fold's real training cases.
        model: generator of ``on_the_fly``, a fold folder or a name; None takes the one trained for this fold.
        sbldm_device: device of that generator, such as ``cuda:1``; None takes that of the training.
        pool_size: how many cases ``on_the_fly`` keeps ready; None leaves its default.
        max_reuse: how often ``on_the_fly`` lets a case be drawn before a new one takes its place; None leaves its default.
        wait_s: seconds for which ``on_the_fly`` waits, at most, until ``pool_size`` cases are ready, before the first epoch
            begins; None never waits. For trainings so short that the generator's start-up would be a large part of them.
        cpu_precision: precision of nnU-Net's network on a CPU, one of ``CPU_PRECISIONS``. ``bf16`` is mixed precision, as
            nnU-Net always uses on CUDA; fast only where the hardware multiplies bf16 (AMX, AVX512-BF16).
        final_validation: predict the fold's validation cases after the last epoch, as nnU-Net does. In fold ``all`` these are
            the training cases themselves.
    """

    ratio: float = 0.25
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    num_val_iterations_per_epoch: int | None = None
    schedule: str = "constant"
    source: str = "auto"
    mode: str = "generate"
    model: str | None = None
    sbldm_device: str | None = None
    pool_size: int | None = None
    max_reuse: int | None = None
    wait_s: float | None = None
    cpu_precision: str = "fp32"
    final_validation: bool = True

    def __post_init__(self) -> None:
        if not _is_number(self.ratio) or not 0 <= self.ratio <= 1:
            raise UserError("ratio is the share of synthetic cases among the drawn cases, a number from 0 to 1; "
                            f"got {self.ratio!r}.")
        _refuse_unknown("schedule", self.schedule, SCHEDULES)
        _refuse_unknown("source", self.source, SOURCES)
        _refuse_unknown("mode", self.mode, MODES)
        _refuse_unknown("cpu_precision", self.cpu_precision, CPU_PRECISIONS)
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UserError(f"{name} is a whole number from 1; got {value!r}.")
        if not isinstance(self.final_validation, bool):
            raise UserError(f"final_validation is true or false; got {self.final_validation!r}.")
        if self.model is not None and (not isinstance(self.model, str) or not self.model):
            raise UserError(f"model is the folder or the name of a trained SBLDM; got {self.model!r}.")
        if self.sbldm_device is not None and not DEVICE_PATTERN.fullmatch(str(self.sbldm_device)):
            raise UserError(f"sbldm_device is cpu, mps, cuda or cuda:NUMBER; got {self.sbldm_device!r}.")
        if self.wait_s is not None and (not _is_number(self.wait_s) or not 0 <= self.wait_s <= MAX_WAIT_S):
            raise UserError(f"wait_s is a number of seconds from 0 to {MAX_WAIT_S}; got {self.wait_s!r}.")
        self._refuse_what_has_no_effect()

    def _refuse_what_has_no_effect(self) -> None:
        idle = [name for name in ON_THE_FLY_ONLY if getattr(self, name) != getattr(MixingSettings, name)]
        if idle and self.source not in ("auto", "on_the_fly"):
            raise UserError(f"source {self.source} has no setting {' or '.join(idle)}: leave it out or choose on_the_fly.")

    def share_at(self, epoch: int, num_epochs: int) -> float:
        """Share of synthetic cases asked among the draws of an epoch."""
        return ratio_at(self.schedule, self.ratio, epoch, num_epochs)

    def overrides(self) -> dict[str, int]:
        """Attributes of nnU-Net's trainer that these settings replace."""
        return {name: value for name in TRAINER_ATTRIBUTES if (value := getattr(self, name)) is not None}

    def to_block(self) -> dict[str, Any]:
        """The settings block as it stands in the plans: the ratio, and all that differs from the defaults."""
        defaults = asdict(MixingSettings())
        return {name: value for name, value in asdict(self).items() if name == "ratio" or value != defaults[name]}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value is not None)

    @staticmethod
    def from_configuration(configuration: Mapping[str, Any], default_source: str = "auto") -> MixingSettings:
        """Read the ``sbldm`` block of a resolved nnU-Net configuration; without one the defaults hold.

        Args:
            configuration: the resolved configuration.
            default_source: what ``auto`` stands for, and what holds if the block names no source.

        Raises:
            UserError: not a block, unknown key, value out of range.
        """
        block = configuration.get(SETTINGS_KEY, {})
        if not isinstance(block, Mapping):
            raise UserError(f"The {SETTINGS_KEY} entry of a configuration is a block such as {{\"ratio\": 0.5}}; got {block!r}.")
        known = [f.name for f in fields(MixingSettings)]
        for key in block:
            if key not in known:
                raise UserError(f"The {SETTINGS_KEY} block of the configuration has an unknown key {key!r}: did you mean "
                                f"{_nearest(key, known)!r}? Valid keys are {', '.join(known)}.")
        if block.get("source", "auto") == "auto":
            block = {**block, "source": default_source}
        return MixingSettings(**block)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refuse_unknown(name: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UserError(f"{name} is one of {', '.join(valid)}; got {value!r}, did you mean {_nearest(value, valid)!r}?")


def _nearest(word: Any, valid: Sequence[str]) -> str:
    return difflib.get_close_matches(str(word), valid, n=1, cutoff=0)[0]
