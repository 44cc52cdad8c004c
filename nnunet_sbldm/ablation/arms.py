"""The arms of a study: what can be compared, and what each arm may set."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "real_only"
"""Arm that all others are compared with."""


@dataclass(frozen=True)
class ArmKind:
    """What an arm trains on, and how.

    Attributes:
        title: for tables and plots.
        trainer: class that nnU-Net trains with.
        options: keys that the YAML may give.
        pool: synthetic cases it needs: ``generate``, ``edit``, ``both``, or none.
        ratio: default share of synthetic cases among the drawn cases; None if it cannot be chosen.
    """

    title: str
    trainer: str = "nnUNetTrainerSBLDM"
    options: tuple[str, ...] = ()
    pool: str = ""
    ratio: float | None = None

    def needs_generator(self) -> bool:
        """Whether an SBLDM has to be trained for it."""
        return bool(self.pool) or self.trainer.endswith("OnTheFly")


_MIXING = ("name", "ratio", "schedule")
_POOL = ("preset", "size_range", "generator_cases")
ARM_KINDS = {
    REFERENCE: ArmKind("real cases alone"),
    "real_only_no_augmentation": ArmKind("real cases alone, no augmentation", "nnUNetTrainerSBLDMNoDA"),
    "copy_paste": ArmKind("copy-paste", "nnUNetTrainerSBLDMCopyPaste", _MIXING, ratio=0.25),
    "sbldm": ArmKind("SBLDM, whole volumes", options=(*_MIXING, *_POOL), pool="generate", ratio=0.25),
    "sbldm_edit": ArmKind("SBLDM, edited real cases", options=(*_MIXING, *_POOL, "edit_kinds"), pool="edit", ratio=0.25),
    "sbldm_both": ArmKind(
        "SBLDM, whole volumes and edits", options=(*_MIXING, *_POOL, "edit_kinds"), pool="both", ratio=0.25
    ),
    "on_the_fly": ArmKind("SBLDM, made on the fly", "nnUNetTrainerSBLDMOnTheFly", (*_MIXING, "preset", "wait_s"), ratio=0.25),
    "pretrain": ArmKind("SBLDM first, then real", options=("name", "ratio", *_POOL), pool="generate", ratio=0.5),
    "synthetic_only": ArmKind("synthetic cases alone", options=("name", *_POOL), pool="generate", ratio=1.0),
    "oracle": ArmKind("real cases alone", options=("name", "num_cases")),
}


def pool_words(
    size_range: tuple[float, float] | None, edit_kinds: tuple[str, ...] | None, generator_cases: int | None
) -> tuple[str, ...]:
    """What an arm asks of its synthetic cases, as words of its name and of the name of its dataset."""
    origin = (f"from{generator_cases}",) if generator_cases else ()
    sizes = (f"{size_range[0]:g}to{size_range[1]:g}ml".replace(".", "p"),) if size_range else ()
    return (*origin, *sizes, *(edit_kinds or ()))


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        kind: key of ``ARM_KINDS``.
        name: name in tables, and of the configuration in nnU-Net's plans.
        ratio: share of synthetic cases among the drawn cases.
        schedule: how the share goes over the epochs.
        preset: of the generator; None is that of the study.
        size_range: volumes of the first label that are asked for, ml; None: as the condition model draws them.
        edit_kinds: which edits are made; None are those of the study.
        generator_cases: real cases that the generator is trained on, as one that is shared would be; None: those of the arm.
        num_cases: real training cases of the oracle.
        wait_s: seconds that ``on_the_fly`` waits, at most, for its first cases before the first epoch.
    """

    kind: str
    name: str
    ratio: float = 0.0
    schedule: str = "constant"
    preset: str | None = None
    size_range: tuple[float, float] | None = None
    edit_kinds: tuple[str, ...] | None = None
    generator_cases: int | None = None
    num_cases: int | None = None
    wait_s: float = 0.0

    @property
    def what(self) -> ArmKind:
        """What its kind says."""
        return ARM_KINDS[self.kind]
