"""Everything about a generator but its weights: derived from the training cases and nnU-Net's plans, saved as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from nnunet_sbldm.common.files import from_json
from nnunet_sbldm.data.boxes import bounding_box, to_grid
from nnunet_sbldm.data.conditions import ConditionModel, ConditionScaling, Target
from nnunet_sbldm.data.grid import Grid, in_reader_order
from nnunet_sbldm.data.intensities import FILL, IntensityScaling
from nnunet_sbldm.data.labels import LabelEncoding
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.generator.outlines import MOST_PROBABLE, Outlines, RealComponents
from nnunet_sbldm.generator.presets import AugmentationConfig, Preset, StageConfig
from nnunet_sbldm.generator.texture import NO_TEXTURE, Texture
from nnunet_sbldm.ldm.config import AutoencoderConfig, DenoiserConfig, DiffusionConfig
from nnunet_sbldm.ldm.diffusion import SeededNoise
from nnunet_sbldm.ldm.layout import DenoiserLayout
from nnunet_sbldm.quality.gate import GateReference
from nnunet_sbldm.types import OUTSIDE, Axes, Case, FloatArray, Geometry, LabelArray

FORMAT_VERSION = 1


@dataclass(frozen=True)
class InitialModelRecord:
    """The model that a generator was fine-tuned from.

    Attributes:
        name: its name; empty if the generator was trained from scratch.
        hash: its hash.
        licence: its licence, which holds for what starts from it too; empty if none was stated.
    """

    name: str = ""
    hash: str = ""
    licence: str = ""


FROM_SCRATCH = InitialModelRecord()


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
        template: geometry of one training case, oriented as most are.
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
    initial: InitialModelRecord = FROM_SCRATCH
    layout: DenoiserLayout | None = None

    @property
    def array_axes(self) -> Axes:
        """Where D, H and W of the grid point, in the first training case."""
        return self.template.array_axes(self.grid.transpose_forward)

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

    # --- normalisation: between what nnU-Net preprocesses and what the networks see ---

    def to_network(self, image: FloatArray, label: LabelArray) -> tuple[FloatArray, np.ndarray]:
        """A preprocessed case, laid on the grid in the networks' scale.

        Args:
            image: [C, d, h, w] of any size, in nnU-Net's normalised intensities.
            label: [d, h, w] label values, ``OUTSIDE`` outside the anatomy.

        Returns:
            Image [C, D, H, W], float32, ``FILL`` outside, and class indices [D, H, W].
        """
        return self.scaled(to_grid(image, self.grid.shape, 0), to_grid(label, self.grid.shape, OUTSIDE))

    def scaled(self, image: FloatArray, label: LabelArray) -> tuple[FloatArray, np.ndarray]:
        """As :meth:`to_network`, of arrays [C, D, H, W] and [D, H, W] that lie on the grid already."""
        classes = self.encoding.encode(label)
        return np.where(classes == 0, FILL, self.intensity.scaled(image)).astype(np.float32), classes

    def from_network(self, case_id: str, image: FloatArray, label: LabelArray, anatomy: np.ndarray) -> Case:
        """The way back: a case with raw intensities, exact zeros outside, cropped to the anatomy, in reader order.

        Args:
            case_id: identifier of the case.
            image: [C, D, H, W] in network scale.
            label: [D, H, W] label values.
            anatomy: [D, H, W] bool.
        """
        box = bounding_box(anatomy)
        inside = anatomy[box]
        raw = self.intensity.raw(self.intensity.normalised(image[(slice(None), *box)]), inside)
        values = np.where(inside, np.maximum(label[box], 0), 0).astype(np.int16)
        return in_reader_order(case_id, raw, values, self.grid, self.template)

    def standardised(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent volumes [..., Z, D, h, w] of the autoencoder, with mean 0 and std 1 per channel over the training cases."""
        mean, std = self._latent_statistics(latent.device)
        return (latent - mean) / std

    def unstandardised(self, latent: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`standardised`."""
        mean, std = self._latent_statistics(latent.device)
        return latent * std + mean

    def _latent_statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (torch.tensor(v, device=device).reshape(-1, 1, 1, 1) for v in (self.latent_mean, self.latent_std))
        return mean, std

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(Z, D, h, w) of a latent volume."""
        return (len(self.latent_mean), *self.grid.latent_shape)

    def noise(self, seeds: Sequence[int]) -> SeededNoise:
        """The noise of whole volumes, one for each seed."""
        return SeededNoise(seeds, self.latent_shape, self.noise_correlation)

    def network_conditions(self, conditions: Sequence[np.ndarray], device: torch.device | str = "cpu") -> torch.Tensor:
        """[B, F] conditions in physical units, NaN = missing -> [B, F] in the denoiser's scale, on a device."""
        return torch.from_numpy(self.condition_scaling.scaled(np.stack(conditions))).float().to(device)

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
        parsed["initial"] = from_json(InitialModelRecord, value.get("initial", {}))
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


def layout_of(plan: GeneratorPlan) -> DenoiserLayout:
    """The layout of the planned denoiser."""
    num_levels = len(plan.preset.denoiser.widths)
    return plan.layout or DenoiserLayout.of(plan.grid.latent_shape, plan.grid.latent_voxel_mm, num_levels)
