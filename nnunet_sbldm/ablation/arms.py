"""The arms of a study: what can be compared, and what each arm may set.

An arm is one class. A new one derives from :class:`ArmKind`, stands in ``ARM_KINDS``, and needs nothing else: files, jobs,
reports and the methods paragraph ask the class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from nnunet_sbldm.ablation.settings import (
    BASE_CONFIGURATION,
    Count,
    EditKinds,
    GeneratorSettings,
    PresetName,
    RunSettings,
    Text,
)
from nnunet_sbldm.common.validation import FILE, MustBe, OneOf
from nnunet_sbldm.mixing.schedule import SCHEDULES
from nnunet_sbldm.mixing.settings import MAX_WAIT_S

CONSTANT = SCHEDULES[0]
RATIO = "a number from 0 to 1, or a list of different ones"
MAX_NAME = 100
NAME_PATTERN = re.compile(r"[A-Za-z0-9]+(?:[_.-][A-Za-z0-9]+)*")
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres", BASE_CONFIGURATION)


# --- one arm of a study --------------------------------------------------------------------------------------------


def _rising(volumes_ml: tuple[float, float]) -> tuple[float, float]:
    if volumes_ml[0] > volumes_ml[1]:
        raise ValueError
    return volumes_ml


Volume = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=FILE)
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
        num_cases: real training cases of an arm that has its own number.
        wait_s: seconds that ``on_the_fly`` waits, at most, for its first cases before the first epoch.
    """

    kind: str
    name: Annotated[Text, MustBe("a name")]
    ratio: Annotated[float, Field(strict=True, ge=0, le=1), MustBe(RATIO)] = 0.0
    schedule: Annotated[str, OneOf(SCHEDULES)] = CONSTANT
    preset: PresetName | None = None
    size_range: Annotated[
        tuple[Volume, Volume], AfterValidator(_rising),
        MustBe("a list of two volumes in ml, LOW and HIGH, with 0 < LOW <= HIGH")] | None = None
    edit_kinds: EditKinds | None = None
    generator_cases: Count | None = None
    num_cases: Count | None = None
    wait_s: Annotated[
        float, Field(strict=True, ge=0, le=MAX_WAIT_S), MustBe(f"a number of seconds from 0 to {MAX_WAIT_S}")] = 0.0

    @property
    def definition(self) -> ArmKind:
        """What its kind says."""
        return ARM_KINDS[self.kind]

    def name_fault(self) -> str:
        """Why it cannot have its name, which is part of file names and stands in nnU-Net's plans; empty if it can."""
        if "__" in self.name or len(self.name) > MAX_NAME or not NAME_PATTERN.fullmatch(self.name):
            return ("the name of an arm is part of file names: letters, digits, and single dots, hyphens and underscores between "
                    f"them, {MAX_NAME} at most; got {self.name!r}.")
        if self.name in CONFIGURATIONS:
            return f"an arm cannot be called {self.name}, which is a configuration in nnU-Net's plans."
        return ""


# --- kinds of arms -------------------------------------------------------------------------------------------------


class ArmKind:
    """What an arm trains on, and how.

    Attributes:
        name: how the study's file calls it.
        title: for tables and plots.
        trainer: class that nnU-Net trains with.
        options: fields of :class:`Arm` that the file may give.
        required: those that it must give, each with what it is.
        fixed: those that have one value in all such arms.
        modes: synthetic cases made for it before it trains: ``generate``, ``edit``, or both.
        ratio: default share of synthetic cases among the drawn cases; None if there are none.
        is_reference: all others are compared with it.
        is_baseline: arms with a generator are also compared with it.
        is_on_the_fly: its generator runs beside the training.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    trainer: ClassVar[str] = "nnUNetTrainerSBLDM"
    options: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[Mapping[str, str]] = MappingProxyType({})
    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    modes: ClassVar[tuple[str, ...]] = ()
    ratio: ClassVar[float | None] = None
    is_reference: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = False
    is_on_the_fly: ClassVar[bool] = False

    @property
    def needs_generator(self) -> bool:
        """Whether an SBLDM has to be trained for it."""
        return bool(self.modes) or self.is_on_the_fly

    @property
    def pool(self) -> str:
        """Name of the synthetic cases that it trains on; empty if none are made before."""
        return "both" if len(self.modes) > 1 else "".join(self.modes)

    def default_name(self, arm: Arm) -> str:
        """The kind, with the ratio in percent where it can be chosen, and with what else was chosen."""
        ratio = [f"{100 * arm.ratio:.6g}".replace(".", "p")] if "ratio" in self.options else []
        schedule = [arm.schedule] if arm.schedule != CONSTANT and "schedule" not in self.fixed else []
        preset = [arm.preset] if arm.preset else []
        return "_".join([self.name, *ratio, *schedule, *preset, *self.pool_words(arm, edits=True)])

    def pool_words(self, arm: Arm, edits: bool) -> tuple[str, ...]:
        """What an arm asks of its synthetic cases, as words of its name and of the name of its dataset.

        Args:
            arm: the arm.
            edits: whether there are edits among the cases.
        """
        origin = (f"from{arm.generator_cases}",) if arm.generator_cases else ()
        sizes = ("{:g}to{:g}ml".format(*arm.size_range).replace(".", "p"),) if arm.size_range else ()
        return (*origin, *sizes, *(arm.edit_kinds or () if edits else ()))

    def mixing(self, arm: Arm, generator: GeneratorSettings, run: RunSettings) -> dict[str, Any]:
        """Settings of its trainer that other kinds do not have (:class:`nnunet_sbldm.mixing.settings.MixingSettings`)."""
        return {}

    def described(self, arm: Arm) -> str:
        """What an arm is, for the methods paragraph."""
        edits = f"edits {', '.join(arm.edit_kinds)}" if arm.edit_kinds else ""
        words = (
            self.title,
            f"share of draws {arm.ratio:g}" if arm.ratio else "",
            f"schedule {arm.schedule}" if arm.schedule != CONSTANT else "",
            f"preset {arm.preset}" if arm.preset else "",
            "{:g} to {:g} ml asked for".format(*arm.size_range) if arm.size_range else "",
            edits,
            f"generator trained on {arm.generator_cases} cases" if arm.generator_cases else "",
            f"{arm.num_cases} cases" if arm.num_cases else "",
            f"after waiting at most {arm.wait_s:g} s for its first cases" if arm.wait_s else "",
        )
        return f"{arm.name} ({', '.join(w for w in words if w)})"


MIXING = ("name", "ratio", "schedule")
POOL = ("preset", "size_range", "generator_cases")


class RealOnly(ArmKind):
    """Real cases alone, as stock nnU-Net trains."""

    name = "real_only"
    title = "real cases alone"
    is_reference = True


class RealOnlyNoAugmentation(ArmKind):
    """Real cases without nnU-Net's augmentation."""

    name = "real_only_no_augmentation"
    title = "real cases alone, no augmentation"
    trainer = "nnUNetTrainerSBLDMNoDA"


class CopyPaste(ArmKind):
    """Lesions of real cases pasted into others: what an arm with a generator has to beat."""

    name = "copy_paste"
    title = "copy-paste"
    trainer = "nnUNetTrainerSBLDMCopyPaste"
    options = MIXING
    ratio = 0.25
    is_baseline = True


class Sbldm(ArmKind):
    """Whole synthetic volumes."""

    name = "sbldm"
    title = "SBLDM, whole volumes"
    options = (*MIXING, *POOL)
    modes = ("generate",)
    ratio = 0.25


class SbldmEdit(ArmKind):
    """Real cases with a lesion added, replaced or removed."""

    name = "sbldm_edit"
    title = "SBLDM, edited real cases"
    options = (*MIXING, *POOL, "edit_kinds")
    modes = ("edit",)
    ratio = 0.25


class SbldmBoth(ArmKind):
    """Whole synthetic volumes and edits, as many of each."""

    name = "sbldm_both"
    title = "SBLDM, whole volumes and edits"
    options = (*MIXING, *POOL, "edit_kinds")
    modes = ("generate", "edit")
    ratio = 0.25


class OnTheFly(ArmKind):
    """Synthetic cases that a generator makes beside the training."""

    name = "on_the_fly"
    title = "SBLDM, made on the fly"
    trainer = "nnUNetTrainerSBLDMOnTheFly"
    options = (*MIXING, "preset", "wait_s")
    ratio = 0.25
    is_on_the_fly = True

    def mixing(self, arm: Arm, generator: GeneratorSettings, run: RunSettings) -> dict[str, Any]:
        """Its generator, where that runs, and how long its first cases are waited for."""
        return {"model": arm.preset or generator.preset, "sbldm_device": run.generator_device, "wait_s": arm.wait_s or None}


class Pretrain(ArmKind):
    """Synthetic cases alone at first, then real cases alone."""

    name = "pretrain"
    title = "SBLDM first, then real"
    options = ("name", "ratio", *POOL)
    fixed = MappingProxyType({"schedule": "pretrain"})
    modes = ("generate",)
    ratio = 0.5


class SyntheticOnly(ArmKind):
    """No real case at all."""

    name = "synthetic_only"
    title = "synthetic cases alone"
    options = ("name", *POOL)
    modes = ("generate",)
    ratio = 1.0


class Oracle(ArmKind):
    """More real cases than the others have: what synthetic ones could bring at best."""

    name = "oracle"
    title = "real cases alone"
    options = ("name", "num_cases")
    required = MappingProxyType({"num_cases": "its number of real training cases"})


ARM_KINDS: dict[str, ArmKind] = {kind.name: kind for kind in (
    RealOnly(), RealOnlyNoAugmentation(), CopyPaste(), Sbldm(), SbldmEdit(), SbldmBoth(), OnTheFly(), Pretrain(),
    SyntheticOnly(), Oracle())}
REFERENCE = next(kind.name for kind in ARM_KINDS.values() if kind.is_reference)
"""Kind of arm that all others are compared with."""
