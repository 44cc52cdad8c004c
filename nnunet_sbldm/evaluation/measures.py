"""Everything that the evaluation measures of a single case, for real and synthetic cases alike.

Both have gone through nnU-Net's preprocessing and lie on the generator's grid in its intensity scale, an affine map of
nnU-Net's normalised intensities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.boxes import to_grid
from nnunet_sbldm.data.conditions import Target, measure, roughness_of_targets
from nnunet_sbldm.data.grid import left_right_axis
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.evaluation.reconstruction import reconstruct
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.ldm.latents import encode_volume
from nnunet_sbldm.quality.appearance import case_features, distinct, halo, pooled_latents
from nnunet_sbldm.quality.memorisation import KINDS, descriptors
from nnunet_sbldm.quality.similarity import coherence
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray


@dataclass(frozen=True)
class CaseSet:
    """Cases on the generator's grid.

    Attributes:
        case_ids: identifiers.
        arrays: images and classes, memory-mapped.
        plan: the generator's plan.
    """

    case_ids: tuple[str, ...]
    arrays: TrainingArrays
    plan: GeneratorPlan

    @staticmethod
    def collect(
        folder: Path, plan: GeneratorPlan, case_ids: Sequence[str], cases: Iterable[tuple[FloatArray, LabelArray]]
    ) -> CaseSet:
        """Lay preprocessed cases (image [C, D, H, W], label [D, H, W]) on the grid, as for training."""
        arrays = TrainingArrays.create(folder, len(case_ids), len(plan.channel_names), plan.grid.shape)
        for i, (image, label) in enumerate(cases):
            scaled = to_grid(plan.intensity.scaled(image), plan.grid.shape, 0)
            arrays.put(i, scaled, plan.encoding.encode(to_grid(label, plan.grid.shape, OUTSIDE)))
        return CaseSet(tuple(case_ids), arrays, plan)

    def __len__(self) -> int:
        return len(self.case_ids)

    def image(self, index: int) -> FloatArray:
        """[C, D, H, W] in network scale, ``FILL`` outside."""
        return np.asarray(self.arrays.images[index], dtype=np.float32)

    def classes(self, index: int) -> np.ndarray:
        """[D, H, W] class indices, ``IGNORED`` where ignored."""
        return np.asarray(self.arrays.classes[index])

    def label(self, index: int) -> LabelArray:
        """[D, H, W] label values; ignored voxels are background."""
        return self.plan.encoding.decode(self.classes(index))


@dataclass(frozen=True)
class Measures:
    """Measures of a set of cases, one row per case.

    Attributes:
        condition: [N, F] condition features in physical units.
        roughness: [N, T] of the outline of every target, see :func:`nnunet_sbldm.data.conditions.roughness_of_targets`.
        contact: [N, pairs] see :func:`contacts`.
        specks: [N] components smaller than the smallest of their label in the training cases.
        features: [N, P] shape, intensity and texture.
        halo: [N, targets * channels] see :func:`nnunet_sbldm.quality.appearance.halo`.
        latents: [N, Q] pooled standardised latents.
        coherence: [N, 4].
        reconstruction: [N, labels + 2] Dice per label, PSNR, SSIM.
        reconstructed_condition: [N, F] condition of the mask after the autoencoder.
        image: [N, cells] descriptor for memorisation.
        mask: [N, cells] likewise.
        pair: [N, latent elements] likewise.
        mirrored_image: the same of the mirrored case.
        mirrored_mask: likewise.
        mirrored_pair: likewise.
    """

    condition: np.ndarray
    roughness: np.ndarray
    contact: np.ndarray
    specks: np.ndarray
    features: np.ndarray
    halo: np.ndarray
    latents: np.ndarray
    coherence: np.ndarray
    reconstruction: np.ndarray
    reconstructed_condition: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    pair: np.ndarray
    mirrored_image: np.ndarray
    mirrored_mask: np.ndarray
    mirrored_pair: np.ndarray

    def __len__(self) -> int:
        return len(self.condition)

    def descriptors(self, mirrored: bool = False) -> dict[str, np.ndarray]:
        """Descriptors of every kind of memorisation."""
        return {kind: getattr(self, f"mirrored_{kind}" if mirrored else kind) for kind in KINDS}


def measure_cases(generator: Generator, cases: CaseSet, title: str) -> Measures:
    """Measure every case of a set.

    Args:
        generator: its autoencoder and plan serve to measure.
        cases: what to measure.
        title: text of the progress bar.
    """
    rows = [_measure_case(generator, cases, i) for i in progress(range(len(cases)), title)]
    return Measures(**{f.name: np.stack([row[f.name] for row in rows]) for f in fields(Measures)})


def _measure_case(generator: Generator, cases: CaseSet, index: int) -> dict[str, np.ndarray]:
    plan, image, classes, label = generator.plan, cases.image(index), cases.classes(index), cases.label(index)
    inside, spacing_mm = classes != 0, plan.grid.spacing_mm
    again = reconstruct(generator.autoencoder, image, classes, plan.encoding)
    latent = _standardised(generator, again.latent)
    features = case_features(image, label, plan.targets, spacing_mm, plan.channel_names)
    row = {
        "condition": measure(label, plan.targets, spacing_mm),
        "roughness": roughness_of_targets(label, plan.targets, spacing_mm),
        "contact": contacts(label, plan.targets),
        "specks": np.array(count_specks(label, plan.min_component_voxels)),
        "features": np.array(list(features.values())),
        "halo": np.concatenate([halo(image, np.isin(label, t.label_values), inside, spacing_mm) for t in plan.targets]),
        "latents": pooled_latents(latent),
        "coherence": coherence(image, label, inside),
        "reconstruction": np.array([*again.dice, again.psnr_db, again.ssim]),
        "reconstructed_condition": measure(np.where(inside, again.label, OUTSIDE), plan.targets, spacing_mm),
        **descriptors(image, classes, latent, plan.encoding.num_classes),
    }
    return row | _mirrored_descriptors(generator, image, classes)


def _mirrored_descriptors(generator: Generator, image: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    axis = left_right_axis(generator.plan.template, generator.plan.grid.transpose_forward)
    image, classes = np.flip(image, axis + 1).copy(), np.flip(classes, axis).copy()
    latent = encode_volume(generator.autoencoder, torch.from_numpy(image), torch.from_numpy(classes.astype(np.int64)))
    found = descriptors(image, classes, _standardised(generator, latent.cpu()), generator.plan.encoding.num_classes)
    return {f"mirrored_{kind}": value for kind, value in found.items()}


def _standardised(generator: Generator, latent: torch.Tensor) -> torch.Tensor:
    mean, std = (s[0].cpu() for s in generator.latent_statistics())
    return (latent - mean) / std


def feature_columns(generator: Generator, cases: CaseSet) -> list[str]:
    """Names of the columns of :attr:`Measures.features`."""
    plan = generator.plan
    return list(case_features(cases.image(0), cases.label(0), plan.targets, plan.grid.spacing_mm, plan.channel_names))


def halo_columns(plan: GeneratorPlan) -> list[str]:
    """Names of the columns of :attr:`Measures.halo`."""
    return [f"{target.name}/{channel}/halo" for target in plan.targets for channel in distinct(plan.channel_names)]


def contact_columns(targets: Sequence[Target]) -> list[str]:
    """Names of the columns of :attr:`Measures.contact`."""
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
