"""Features of a case that need no download: shape, intensity and texture, and the generator's own latents.

There are two contrasts of a mask, each with its own shell, and they give other numbers: :func:`mask_intensities` takes
medians and a shell in voxels, since features compare cases on one grid; :func:`contrast` takes means and a shell in mm, since
the thresholds of the quality gate, which lie in every trained generator, were fitted with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.data.conditions import ANATOMY, AXES, Target, feature_names, measure
from nnunet_sbldm.quality.gate import TINY
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray

SHELL_VOXELS = 3
"""Thickness of the shell around a mask in :func:`mask_intensities`, in voxels of the plan's median spacing."""
SHELL_MM = 4.0
"""Thickness of the shell around a mask in :func:`mask_and_shell`; at least one voxel along every axis."""
RIM_VOXELS, FAR_VOXELS = (1.5, 3.0), (4.0, 8.0)
"""Distances from a mask, in voxels of the smallest spacing, between which :func:`halo` compares brightness."""
MIN_HALO_CONTRAST = 0.5
"""Standard deviations in the anatomy by which a mask must stand out before its halo means anything."""
LAGS = (1, 2)
LATENT_CELLS = 2
MASK_INTENSITY = ("p10", "median", "p90", "shell_median", "contrast", "edge")


def case_features(
    image: FloatArray, label: LabelArray, targets: Sequence[Target], spacing_mm: Sequence[float], channel_names: Sequence[str]
) -> dict[str, float]:
    """About forty features for one target and one channel; NaN where a feature does not exist.

    Per target: the condition features. Per target and channel: percentiles inside the mask, the median in the shell around
    it, their contrast and the strength of the mask's edge (see :func:`mask_intensities`). Of the anatomy: extents and
    volume; per channel: percentiles, standard deviation, gradients, local standard deviation, autocorrelation.

    Args:
        image: [C, D, H, W].
        label: [D, H, W] label values, ``OUTSIDE`` outside.
        targets: labels or regions.
        spacing_mm: voxel size along (D, H, W).
        channel_names: names of the C channels.
    """
    inside = label != OUTSIDE
    features = dict(zip(feature_names(targets), measure(label, targets, spacing_mm).tolist(), strict=True))
    features[f"{ANATOMY}/volume_ml"] = float(inside.sum() * np.prod(spacing_mm) / 1000)
    masks = {t.name: np.isin(label, t.label_values) for t in targets}
    for name, channel in zip(distinct(channel_names), image, strict=True):
        features |= {f"{ANATOMY}/{name}/{k}": v for k, v in texture(channel, inside).items()}
        for target, mask in masks.items():
            values = mask_intensities(channel, mask, inside, spacing_mm)
            features |= {f"{target}/{name}/{k}": v for k, v in zip(MASK_INTENSITY, values, strict=True)}
    return features


def distinct(names: Sequence[str]) -> list[str]:
    """Names of channels with a number where one comes again: nnU-Net knows some normalisations by the channel's name alone."""
    return [n if n not in names[:i] else f"{n} ({1 + list(names[:i]).count(n)})" for i, n in enumerate(names)]


def texture(channel: FloatArray, inside: np.ndarray) -> dict[str, float]:
    """Intensity percentiles, gradients, local standard deviation and autocorrelation inside the anatomy."""
    values = channel[inside]
    features = {f"p{p}": float(np.percentile(values, p)) for p in (5, 25, 50, 75, 95)}
    features["std"] = float(values.std())
    core = _core(inside)
    gradient = np.abs(np.array(np.gradient(channel)))
    for axis, g in zip(AXES, gradient, strict=True):
        features[f"gradient_{axis}"] = float(g[core].mean())
    features["gradient_p95"] = float(np.percentile(np.linalg.norm(gradient, axis=0)[core], 95))
    spread = local_std(channel)[core]
    features |= {"local_std": float(spread.mean()), "local_std_p90": float(np.percentile(spread, 90))}
    for i, name in enumerate(AXES):
        features |= {f"autocorrelation_{name}{lag}": lagged_correlation(channel, inside, i, lag) for lag in LAGS}
    return features


def local_std(channel: FloatArray) -> FloatArray:
    """Standard deviation in the 3 x 3 x 3 neighbourhood of every voxel."""
    x = channel.astype(np.float64)
    variance = ndimage.uniform_filter(x * x, 3) - ndimage.uniform_filter(x, 3) ** 2
    return np.sqrt(np.maximum(variance, 0)).astype(np.float32)


def lagged_correlation(channel: FloatArray, inside: np.ndarray, axis: int, lag: int) -> float:
    """Correlation of voxels with those ``lag`` further along an axis, both inside; NaN if there are none."""
    if channel.shape[axis] <= lag:
        return float("nan")
    n = channel.shape[axis]
    head, tail = (np.take(channel, r, axis=axis) for r in (range(n - lag), range(lag, n)))
    both = np.take(inside, range(n - lag), axis=axis) & np.take(inside, range(lag, n), axis=axis)
    mean, variance = channel[inside].mean(), channel[inside].var()
    if not both.any() or variance < 1e-12:
        return float("nan")
    return float(((head[both] - mean) * (tail[both] - mean)).mean() / variance)


def mask_intensities(channel: FloatArray, mask: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """Does the image show what the mask says? One number for each of ``MASK_INTENSITY``.

    The contrast is the difference of the medians inside the mask and in the shell around it over the standard deviation in
    the anatomy; the edge is the mean gradient across the mask's surface over the mean gradient in the anatomy.
    """
    if not mask.any():
        return [float("nan")] * len(MASK_INTENSITY)
    reach_mm = SHELL_VOXELS * float(np.median(spacing_mm))
    away_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    shell = (away_mm > 0) & (away_mm <= reach_mm) & inside
    low, middle, high = np.percentile(channel[mask], (10, 50, 90))
    around = float(np.median(channel[shell])) if shell.any() else float("nan")
    magnitude = np.linalg.norm(np.gradient(channel), axis=0)
    surface = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask) & inside
    edge = magnitude[surface].mean() / max(float(magnitude[_core(inside)].mean()), 1e-6)
    contrast = (middle - around) / max(float(channel[inside].std()), 1e-6)
    return [float(low), float(middle), float(high), around, float(contrast), float(edge)]


def halo(image: FloatArray, mask: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """How much of the contrast inside a mask is left just outside it, [C].

    The median at a distance of ``RIM_VOXELS`` from the mask over that in the mask, both above the median at
    ``FAR_VOXELS``. 0 where image and mask end together, towards 1 where the image shows more than the mask says.

    Args:
        image: [C, D, H, W].
        mask: [D, H, W] bool.
        inside: [D, H, W] bool, the anatomy.
        spacing_mm: voxel size along (D, H, W).

    Returns:
        NaN where the mask, its rim or its surroundings are empty, and in channels in which it hardly stands out.
    """
    unknown = np.full(len(image), np.nan)
    if not mask.any():
        return unknown
    sampling = np.divide(spacing_mm, min(spacing_mm))
    box = bounding_box(mask, np.ceil(FAR_VOXELS[1] / sampling).astype(int).tolist())
    away = np.where(inside[box], ndimage.distance_transform_edt(~mask[box], sampling=sampling), np.inf)
    rim, far = (((away > low) & (away <= high)) for low, high in (RIM_VOXELS, FAR_VOXELS))
    if not rim.any() or not far.any():
        return unknown
    cut = image[(slice(None), *box)]
    own, around, base = (np.median(cut[:, region], axis=1).astype(np.float64) for region in (mask[box], rim, far))
    stands_out = np.abs(own - base) >= MIN_HALO_CONTRAST * np.maximum(image[:, inside].std(axis=1), 1e-6)
    return np.where(stands_out, (around - base) / np.where(stands_out, own - base, 1), np.nan)


def _core(inside: np.ndarray) -> np.ndarray:
    """The anatomy without its border voxels, whose gradients point to the outside."""
    core = ndimage.binary_erosion(inside)
    return core if core.any() else inside


def pooled_latents(latent: torch.Tensor) -> np.ndarray:
    """Means of a standardised latent volume [Z, D, h, w] in 2 x 2 x 2 cells, and standard deviations: [Z * 9]."""
    cells = F.adaptive_avg_pool3d(latent[None], LATENT_CELLS)[0].flatten()
    return torch.cat([cells, latent.flatten(1).std(dim=1)]).numpy().astype(np.float64)


def standardised(real: Sequence[np.ndarray], other: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Z-scores by all real cases; a missing value takes the real mean, features that are constant in real cases are dropped.

    Args:
        real: sets of real cases [n, features].
        other: further cases [m, features].
    """
    table = np.concatenate(real)
    known = np.isfinite(table)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, table, 0).sum(axis=0) / count
    std = np.sqrt(np.where(known, (table - mean) ** 2, 0).sum(axis=0) / count)
    kept = std > 1e-6 * np.maximum(np.abs(mean), 1e-3)
    scores = [((s - mean) / np.maximum(std, 1e-12))[:, kept] for s in (*real, other)]
    sets = [np.where(np.isfinite(s), s, 0.0) for s in scores]
    return sets[:-1], sets[-1]


def measure_appearance(
    image: FloatArray, label: LabelArray, targets: Sequence[Target], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Intensities of the anatomy and contrast of every target, for real and synthetic cases alike.

    Args:
        image: [C, D, H, W] in nnU-Net's normalised intensities.
        label: [D, H, W] label values, ``OUTSIDE`` outside the anatomy.
        targets: labels or regions.
        spacing_mm: voxel size along (D, H, W).

    Returns:
        ``channel_C/mean``, ``std``, ``percentile_1`` and ``percentile_99`` inside the anatomy (none if there is no anatomy),
        and ``TARGET/channel_C/contrast``: mean inside the mask minus mean in the shell around it, over the standard
        deviation in the anatomy (left out where the target or its surroundings are absent).
    """
    inside = label != OUTSIDE
    if not inside.any():
        return {}
    regions = {t.name: mask_and_shell(np.isin(label, t.label_values), inside, spacing_mm) for t in targets}
    features: dict[str, float] = {}
    for c, channel in enumerate(image):
        values = channel[inside].astype(np.float64)
        std = float(values.std())
        low, high = (float(p) for p in np.percentile(values, (1, 99)))
        statistics = {"mean": float(values.mean()), "std": std, "percentile_1": low, "percentile_99": high}
        features |= {f"channel_{c}/{k}": v for k, v in statistics.items()}
        for name, (mask, shell) in regions.items():
            if mask.any() and shell.any():
                features[f"{name}/channel_{c}/contrast"] = contrast(channel, mask, shell, std)
    return features


def contrast(channel: np.ndarray, mask: np.ndarray, shell: np.ndarray, std: float) -> float:
    """Mean of a channel [D, H, W] inside a mask minus that in the shell around it, over a standard deviation."""
    difference = channel[mask].mean(dtype=np.float64) - channel[shell].mean(dtype=np.float64)
    return float(difference) / max(std, TINY)


def mask_and_shell(mask: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A mask and the part of the anatomy within ``SHELL_MM`` around it, both bool [D, H, W]."""
    shell = np.zeros_like(mask)
    if not mask.any():
        return mask, shell
    reach_mm = max(SHELL_MM, *spacing_mm)
    box = bounding_box(mask, [math.ceil(reach_mm / s) for s in spacing_mm])
    away_mm = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm)
    shell[box] = (away_mm > 0) & (away_mm <= reach_mm + TINY) & inside[box]
    return mask, shell
