"""Everything that the evaluation measures of a single case, for real and synthetic cases alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.conditions import Target, measure, roughness_of_targets
from nnunet_sbldm.data.grid import left_right_axis
from nnunet_sbldm.evaluation.case_set import CaseSet
from nnunet_sbldm.evaluation.reconstruction import Reconstruction, reconstruct
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.quality.appearance import case_features, distinct, halo, pooled_latents
from nnunet_sbldm.quality.memorisation import descriptors
from nnunet_sbldm.quality.similarity import coherence
from nnunet_sbldm.types import OUTSIDE, LabelArray


@dataclass(frozen=True)
class MaskMeasures:
    """What is measured of masks.

    Attributes:
        condition: [N, F] condition features in physical units.
        roughness: [N, T] of the outline of every target, see :func:`nnunet_sbldm.data.conditions.roughness_of_targets`.
        contact: [N, pairs] see :func:`contacts`.
        specks: [N] components smaller than the smallest of their label in the training cases.
    """

    condition: np.ndarray
    roughness: np.ndarray
    contact: np.ndarray
    specks: np.ndarray


@dataclass(frozen=True)
class ImageMeasures:
    """What is measured of images and their masks.

    Attributes:
        features: [N, P] shape, intensity and texture.
        halo: [N, targets * channels] see :func:`nnunet_sbldm.quality.appearance.halo`.
        coherence: [N, 4] of neighbouring slices, see :data:`nnunet_sbldm.quality.similarity.COHERENCE`.
        latents: [N, Q] pooled standardised latents.
    """

    features: np.ndarray
    halo: np.ndarray
    coherence: np.ndarray
    latents: np.ndarray


@dataclass(frozen=True)
class ReconstructionMeasures:
    """What is measured of cases that went through the autoencoder.

    Attributes:
        dice: [N, labels].
        psnr_db: [N].
        ssim: [N].
        condition: [N, F] condition features of the decoded mask.
    """

    dice: np.ndarray
    psnr_db: np.ndarray
    ssim: np.ndarray
    condition: np.ndarray


@dataclass(frozen=True)
class Measures:
    """Measures of a set of cases, one row per case.

    Attributes:
        masks: of the masks.
        images: of the images.
        reconstruction: of the cases after the autoencoder.
        descriptors: what memorisation compares, [N, elements] by kind, see
            :func:`nnunet_sbldm.quality.memorisation.descriptors`.
        mirrored: the same of the cases mirrored left to right.
    """

    masks: MaskMeasures
    images: ImageMeasures
    reconstruction: ReconstructionMeasures
    descriptors: dict[str, np.ndarray]
    mirrored: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.masks.condition)


def measure_cases(model: SBLDMModel, cases: CaseSet, title: str) -> Measures:
    """Measure every case of a set.

    Args:
        model: its autoencoder and plan serve to measure.
        cases: what to measure.
        title: text of the progress bar.
    """
    return _stacked([_measure_case(model, cases, i) for i in progress(range(len(cases)), title)])


def _stacked(rows: Sequence[Any]) -> Any:
    """Measures, dicts or arrays of single cases as one of all cases: every array gains a first axis."""
    first = rows[0]
    if isinstance(first, dict):
        return {key: _stacked([row[key] for row in rows]) for key in first}
    if isinstance(first, np.ndarray):
        return np.stack(rows)
    return type(first)(*(_stacked([getattr(row, f.name) for row in rows]) for f in fields(first)))


def _measure_case(model: SBLDMModel, cases: CaseSet, index: int) -> Measures:
    """The measures of one case, without the axis of cases."""
    plan, image, classes = model.plan, cases.image(index), cases.classes(index)
    label, again = cases.label(index), reconstruct(model.autoencoder, image, classes, plan.encoding)
    latent = plan.standardised(again.latent)
    mirrored_image, mirrored_classes, mirrored_latent = _mirrored(model, image, classes)
    num_classes = plan.encoding.num_classes
    return Measures(
        _measure_mask(plan, label),
        _measure_image(plan, image, label, classes != 0, latent),
        _measure_reconstruction(plan, again, classes != 0),
        descriptors(image, classes, latent, num_classes),
        descriptors(mirrored_image, mirrored_classes, mirrored_latent, num_classes),
    )


def _measure_mask(plan: GeneratorPlan, label: LabelArray) -> MaskMeasures:
    spacing_mm = plan.grid.spacing_mm
    return MaskMeasures(
        measure(label, plan.targets, spacing_mm),
        roughness_of_targets(label, plan.targets, spacing_mm),
        contacts(label, plan.targets),
        np.array(count_specks(label, plan.min_component_voxels)),
    )


def _measure_image(
    plan: GeneratorPlan, image: np.ndarray, label: LabelArray, inside: np.ndarray, latent: torch.Tensor
) -> ImageMeasures:
    spacing_mm = plan.grid.spacing_mm
    features = case_features(image, label, plan.targets, spacing_mm, plan.channel_names)
    halos = [halo(image, np.isin(label, t.label_values), inside, spacing_mm) for t in plan.targets]
    return ImageMeasures(
        np.array(list(features.values())), np.concatenate(halos), coherence(image, label, inside), pooled_latents(latent)
    )


def _measure_reconstruction(plan: GeneratorPlan, again: Reconstruction, inside: np.ndarray) -> ReconstructionMeasures:
    condition = measure(np.where(inside, again.label, OUTSIDE), plan.targets, plan.grid.spacing_mm)
    return ReconstructionMeasures(np.array(again.dice), np.array(again.psnr_db), np.array(again.ssim), condition)


def _mirrored(model: SBLDMModel, image: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Image, classes and standardised latent of a case mirrored left to right."""
    axis = left_right_axis(model.plan.template, model.plan.grid.transpose_forward)
    image, classes = np.flip(image, axis + 1).copy(), np.flip(classes, axis).copy()
    return image, classes, model.encode(image, classes).cpu()


def feature_columns(model: SBLDMModel, cases: CaseSet) -> list[str]:
    """Names of the columns of :attr:`ImageMeasures.features`."""
    plan = model.plan
    return list(case_features(cases.image(0), cases.label(0), plan.targets, plan.grid.spacing_mm, plan.channel_names))


def halo_columns(plan: GeneratorPlan) -> list[str]:
    """Names of the columns of :attr:`ImageMeasures.halo`."""
    return [f"{target.name}/{channel}/halo" for target in plan.targets for channel in distinct(plan.channel_names)]


def contact_columns(targets: Sequence[Target]) -> list[str]:
    """Names of the columns of :attr:`MaskMeasures.contact`."""
    return [f"{a.name}/contact_{b.name}" for a in targets for b in targets if a is not b]


def contacts(label: LabelArray, targets: Sequence[Target]) -> np.ndarray:
    """How targets nest: share of the voxels next to one target that belong to another; NaN where the first is absent.

    1 where the first lies inside the second, 0 where they never touch.
    """
    shares = []
    for a in targets:
        mask = np.isin(label, a.label_values)
        around = ndimage.binary_dilation(mask) & ~mask
        others = [np.isin(label, b.label_values)[around] for b in targets if b is not a]
        shares += [float(other.mean()) if other.size else np.nan for other in others]
    return np.array(shares, dtype=np.float64)


def count_specks(label: LabelArray, min_component_voxels: dict[str, int]) -> int:
    """Components smaller than the smallest real one of their label."""
    count = 0
    for value, smallest in min_component_voxels.items():
        components, _ = ndimage.label(label == int(value), np.ones((3, 3, 3)))
        count += int((np.bincount(components.ravel())[1:] < smallest).sum())
    return count
