"""The generator's checkpoint: a folder that is enough to sample from, and to refuse when sampling would leak.

``generator.json`` (written last, so that a checkpoint is complete or absent) holds the generator's plan,
``autoencoder.safetensors`` and ``denoiser.safetensors`` the averaged weights, ``training_cases.json`` the real cases
that touched any part of it, ``dataset.json`` the labels and channels. Nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nnunet_sbldm.common.files import read_json, sha256_of_file, sha256_of_json
from nnunet_sbldm.data.conditions import ConditionModel, ConditionScaling, Target
from nnunet_sbldm.data.dataset import DEFAULT_PLANS, Fold, NnunetDataset, nnunet_folder
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.grid import Grid, IntensityScaling, LabelEncoding
from nnunet_sbldm.generator.outlines import MOST_PROBABLE, Outlines, RealComponents
from nnunet_sbldm.generator.presets import (
    AugmentationConfig,
    AutoencoderConfig,
    DenoiserConfig,
    DiffusionConfig,
    Preset,
    StageConfig,
    from_json,
    training_options,
)
from nnunet_sbldm.generator.texture import NO_TEXTURE, Texture
from nnunet_sbldm.generator.zoo import WEIGHTS, folder_name, is_complete
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.denoiser import DenoiserLayout, VolumeDenoiser
from nnunet_sbldm.quality.gate import GateReference
from nnunet_sbldm.types import Geometry, UserError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class InitialModel:
    """The model that a generator was fine-tuned from.

    Attributes:
        name: its name; empty if the generator was trained from scratch.
        hash: its hash.
        licence: its licence, which holds for what starts from it too; empty if none was stated.
    """

    name: str = ""
    hash: str = ""
    licence: str = ""


FROM_SCRATCH = InitialModel()


@dataclass(frozen=True)
class GeneratorPlan:
    """Everything about a generator but its weights; derived from the training cases and nnU-Net's plans.

    Attributes:
        dataset_name: dataset it was trained on.
        plans_name: nnU-Net plans identifier.
        configuration: configuration whose preprocessed arrays it was trained on.
        plans_hash: hash of that preprocessing.
        fold: fold whose training cases it saw.
        seed: seed of initialisation and training order.
        library_version: version of this package.
        preset: sizes and lengths.
        channel_names: image channels in order.
        encoding: label values and classes.
        targets: labels or regions that conditions describe.
        grid: size, spacing and orientation.
        intensity: intensity scaling per channel.
        condition_scaling: condition features, their mean and std.
        condition_table: training conditions in physical units, None where missing.
        min_component_voxels: label value (as text) -> voxels of its smallest component in the training cases.
        component_intensity: label value (as text) -> per channel, mean intensities (network scale) that its components can have,
            see :func:`nnunet_sbldm.generator.outlines.intensity_range`; empty if they were not measured.
        gate: what the training cases allow a synthetic case to be.
        template: geometry of one training case.
        latent_mean: per latent channel, over the training cases; empty until the first stage is done.
        latent_std: likewise.
        texture: what the first stage cannot encode; empty until it is done.
        outlines: how outlines of labels vary around the most probable ones; not at all until it is done.
        noise_correlation: of the noise of neighbouring slices that sampling begins with, so that slices belong together.
        initial: what it was fine-tuned from.
        layout: the denoiser's layout where it is that of the initial model; None where the grid decides.
    """

    dataset_name: str
    plans_name: str
    configuration: str
    plans_hash: str
    fold: Fold
    seed: int
    library_version: str
    preset: Preset
    channel_names: tuple[str, ...]
    encoding: LabelEncoding
    targets: tuple[Target, ...]
    grid: Grid
    intensity: IntensityScaling
    condition_scaling: ConditionScaling
    condition_table: tuple[tuple[float | None, ...], ...]
    min_component_voxels: dict[str, int]
    gate: GateReference
    template: Geometry
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()
    component_intensity: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    texture: Texture = NO_TEXTURE
    outlines: Outlines = MOST_PROBABLE
    noise_correlation: float = 0.0
    initial: InitialModel = FROM_SCRATCH
    layout: DenoiserLayout | None = None

    @cached_property
    def condition_model(self) -> ConditionModel:
        """The condition model fitted to the training cases, in their own scale: the networks' may be of an initial model."""
        table = np.array([[math.nan if v is None else v for v in row] for row in self.condition_table], dtype=np.float64)
        return ConditionModel(ConditionScaling.fit(self.condition_scaling.names, table), table)

    @cached_property
    def components(self) -> dict[str, RealComponents]:
        """Label value (as text) -> what its connected components are in the training cases."""
        return {v: RealComponents(n, self.component_intensity.get(v, ())) for v, n in self.min_component_voxels.items()}

    def with_first_stage(self, mean: torch.Tensor, std: torch.Tensor, texture: Texture, outlines: Outlines) -> GeneratorPlan:
        """The same plan with what is measured once the first stage is trained, of it the latent statistics [Z], [Z]."""
        latent_mean, latent_std = tuple(mean.tolist()), tuple(std.tolist())
        return replace(self, latent_mean=latent_mean, latent_std=latent_std, texture=texture, outlines=outlines)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {"format": FORMAT_VERSION, **asdict(self)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> GeneratorPlan:
        """Inverse of :meth:`to_json`."""
        nested = {
            "encoding": LabelEncoding,
            "grid": Grid,
            "intensity": IntensityScaling,
            "condition_scaling": ConditionScaling,
            "gate": GateReference,
            "template": Geometry,
            "texture": Texture,
            "outlines": Outlines,
        }
        parsed = {k: from_json(cls, value[k]) for k, cls in nested.items() if k in value}
        parsed["preset"] = _preset_from_json(value["preset"])
        parsed["initial"] = from_json(InitialModel, value.get("initial", {}))
        parsed["layout"] = from_json(DenoiserLayout, layout) if (layout := value.get("layout")) else None
        parsed["targets"] = tuple(from_json(Target, t) for t in value["targets"])
        return from_json(GeneratorPlan, {**value, **parsed})


def _preset_from_json(value: dict[str, Any]) -> Preset:
    parts = {
        "autoencoder": AutoencoderConfig,
        "denoiser": DenoiserConfig,
        "autoencoder_stage": StageConfig,
        "denoiser_stage": StageConfig,
        "diffusion": DiffusionConfig,
        "augmentation": AugmentationConfig,
    }
    return Preset(name=value["name"], **{k: from_json(cls, value[k]) for k, cls in parts.items()})


def build_autoencoder(plan: GeneratorPlan) -> SliceAutoencoder:
    """An untrained autoencoder of the planned size."""
    network = SliceAutoencoder(
        len(plan.channel_names), plan.encoding.num_classes, plan.grid.downsampling, plan.preset.autoencoder
    )
    return network.to(memory_format=torch.channels_last)  # twice as fast on CPUs


def layout_of(plan: GeneratorPlan) -> DenoiserLayout:
    """The layout of the planned denoiser."""
    num_levels = len(plan.preset.denoiser.widths)
    return plan.layout or DenoiserLayout.of(plan.grid.latent_shape, plan.grid.latent_voxel_mm, num_levels)


def build_denoiser(plan: GeneratorPlan) -> VolumeDenoiser:
    """An untrained denoiser of the planned size."""
    z = plan.preset.autoencoder.latent_channels + len(plan.channel_names) - 1
    network = VolumeDenoiser(
        z,
        plan.grid.latent_shape,
        plan.grid.latent_voxel_mm,
        plan.condition_scaling,
        plan.targets,
        plan.preset.denoiser,
        int(plan.preset.diffusion.self_conditioning),
        plan.preset.diffusion.masked_share > 0,
        plan.layout,
    )
    return network.to(memory_format=torch.channels_last_3d)


@dataclass(frozen=True)
class Generator:
    """A trained generator, ready to sample.

    Attributes:
        folder: where it lies.
        plan: its plan.
        autoencoder: first stage, evaluation mode.
        denoiser: second stage, evaluation mode.
        seen: every real case that touched any part of it.
        hash: hash of weights, plan and list of cases.
    """

    folder: Path
    plan: GeneratorPlan
    autoencoder: SliceAutoencoder
    denoiser: VolumeDenoiser
    seen: tuple[CaseFingerprint, ...]
    hash: str

    def to(self, device: torch.device) -> Generator:
        """Move both networks."""
        self.autoencoder.to(device)
        self.denoiser.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.denoiser.parameters()).device

    def latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and std [1, Z, 1, 1, 1] that standardise latent volumes."""
        shape = (1, -1, 1, 1, 1)
        return (
            torch.tensor(self.plan.latent_mean, device=self.device).reshape(shape),
            torch.tensor(self.plan.latent_std, device=self.device).reshape(shape),
        )


def generator_folder(dataset: NnunetDataset, preset: str, fold: Fold) -> Path:
    """``nnUNet_results/DATASET/SBLDM__PLANS__PRESET/fold_F``."""
    return nnunet_folder("nnUNet_results") / dataset.name / folder_name(dataset.plans_name, preset) / f"fold_{fold}"


def training_command(dataset_name: str, plans_name: str, fold: Fold, preset: str | None = None) -> str:
    """The command that trains the generator of a fold; ``preset``, perhaps with a length, None for the default."""
    words = ["sbldm_train", "-d", str(int(dataset_name[7:10])), "-f", str(fold)]
    words += ["-p", plans_name] if plans_name != DEFAULT_PLANS else []
    return " ".join([*words, *(training_options(preset) if preset else ())])


def load_generator(folder: Path, device: torch.device | None = None) -> Generator:
    """Load a finished generator.

    Raises:
        UserError: no generator there, damaged, or of another format.
    """
    if not is_complete(folder):
        raise UserError(f"There is no finished SBLDM in {folder}; train one with sbldm_train.")
    with _damaged_if_unreadable(folder):
        value = read_json(folder / "generator.json")
        found = value["format"]
    if found != FORMAT_VERSION:
        raise UserError(f"{folder / 'generator.json'} has format {found}; this version reads {FORMAT_VERSION}.")
    with _damaged_if_unreadable(folder):
        plan = GeneratorPlan.from_json(value)
        autoencoder, denoiser = build_autoencoder(plan), build_denoiser(plan)
        for network, name in zip((autoencoder, denoiser), WEIGHTS, strict=True):
            _load_weights(network, folder / name)
        seen = _read_seen(folder, plan)
        if not read_json(folder / "dataset.json")["labels"]:
            raise ValueError("dataset.json names no labels")
    generator = Generator(folder, plan, autoencoder, denoiser, seen, hash_of(folder))
    return generator.to(device) if device else generator


@contextmanager
def _damaged_if_unreadable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as e:
        raise UserError(f"The SBLDM in {folder} is damaged ({str(e).rstrip('.')}); copy it again or retrain it.") from e


def _read_seen(folder: Path, plan: GeneratorPlan) -> tuple[CaseFingerprint, ...]:
    """The list of training cases, on which the fold rule rests: it has one for every row of the plan's conditions, or more."""
    seen = tuple(CaseFingerprint.from_json(c) for c in read_json(folder / "training_cases.json"))
    if len(seen) < len(plan.condition_table):
        raise ValueError(f"training_cases.json lists {len(seen)} cases, but it was trained on {len(plan.condition_table)}")
    return seen


def _load_weights(network: nn.Module, path: Path) -> None:
    network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    network.eval().requires_grad_(False)


def hash_of(folder: Path) -> str:
    """Hash of everything in a checkpoint that decides what it generates or may be used for."""
    return sha256_of_json([sha256_of_file(folder / n) for n in (*WEIGHTS, "generator.json", "training_cases.json")])[:16]


def refuse_mismatch(generator: Generator, dataset: NnunetDataset) -> None:
    """Raise a :class:`UserError` if channels or labels of a generator are not those of the dataset."""
    if list(generator.plan.channel_names) != dataset.channel_names:
        raise UserError(
            f"The SBLDM in {generator.folder} makes the channels {', '.join(generator.plan.channel_names)}, but "
            f"{dataset.name} has {', '.join(dataset.channel_names)}."
        )
    theirs = read_json(generator.folder / "dataset.json")["labels"]
    if theirs != dataset.dataset_json["labels"]:
        raise UserError(
            f"The SBLDM in {generator.folder} makes the labels {theirs}, but {dataset.name} has {dataset.dataset_json['labels']}."
        )


def has_its_plans(generator: Generator, dataset: NnunetDataset) -> bool:
    """Whether the plans that a generator was trained with still say of a dataset what they said then."""
    plan = generator.plan
    view = replace(dataset, plans_name=plan.plans_name, configuration=plan.configuration)
    is_planned = (dataset.preprocessed / f"{plan.plans_name}.json").is_file()
    return is_planned and plan.configuration in view.plans.available_configurations and view.plans_hash() == plan.plans_hash
