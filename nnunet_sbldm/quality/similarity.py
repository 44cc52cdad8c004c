"""Structural similarity of slices, and what is built on it: MS-SSIM, coherence along the slicing axis.

References: SSIM, Wang et al. 2004; MS-SSIM, Wang et al. 2003 (its weights; as many scales as the slices allow).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 7, 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
DATA_RANGE = 2.0
"""Most intensities in network scale lie in -1 to 1."""


def ssim_maps(first: Tensor, second: Tensor, data_range: float = DATA_RANGE) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure term of every pixel; their product is the SSIM.

    ``skimage.metrics.structural_similarity`` is no substitute: it gives the product alone, which MS-SSIM cannot use, with a
    window of 11 pixels at this sigma and mirrored borders (0.508 becomes 0.524 for a smooth image with noise). Where both
    have its window and no border is near, they agree to rounding.

    Args:
        first: [B, H, W].
        second: [B, H, W].
        data_range: distance of the largest from the smallest intensity.

    Returns:
        Two maps [B, H, W]; borders are replicated.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    x, y = first.double(), second.double()
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _blur(x: Tensor) -> Tensor:
    taps = torch.exp(-0.5 * ((torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2) / SIGMA) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(x[:, None], (WINDOW // 2,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.reshape(1, 1, 1, -1)), taps.reshape(1, 1, -1, 1))[:, 0]


def ssim(first: np.ndarray, second: np.ndarray, inside: np.ndarray, data_range: float = DATA_RANGE) -> float:
    """Slice-wise SSIM [D, H, W], averaged over the voxels ``inside``."""
    luminance, structure = ssim_maps(torch.from_numpy(first), torch.from_numpy(second), data_range)
    return float((luminance * structure).numpy()[inside].mean())


def ms_ssim(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> float:
    """Slice-wise multi-scale SSIM of two volumes on one grid.

    Slices are compared at equal positions and averaged over those with any voxel inside; as many scales as leave a slice
    at least as large as the window, with the weights of these scales renormalised.

    Args:
        first: [C, D, H, W] in network scale; clipped to -1 to 1.
        second: likewise.
        inside: [D, H, W] bool, voxels that count.
    """
    channels = first.shape[0]
    used = inside.any(axis=(1, 2))
    weight = torch.from_numpy(np.tile(inside[used], (channels, 1, 1)).astype(np.float64))
    x, y = (torch.from_numpy(v[:, used].reshape(-1, *v.shape[2:])).double().clamp(-1, 1) for v in (first, second))
    weights = SCALE_WEIGHTS[: num_scales(first.shape[2:])]
    result = torch.ones(len(x), dtype=torch.float64)
    for scale, power in enumerate(weights):
        luminance, structure = ssim_maps(x, y)
        term = luminance * structure if scale == len(weights) - 1 else structure
        mean = (term * weight).sum((1, 2)) / weight.sum((1, 2))
        result = result * mean.clamp(min=0) ** (power / sum(weights))
        x, y, weight = (F.avg_pool2d(v[:, None], 2, ceil_mode=True)[:, 0] for v in (x, y, weight))
    return float(result.mean())


def num_scales(in_plane: tuple[int, ...]) -> int:
    """Scales at which the smaller side is no smaller than the window, at least one."""
    return max(1, sum(min(in_plane) / 2**scale >= WINDOW for scale in range(len(SCALE_WEIGHTS))))


COHERENCE = ("neighbour_ssim", "gradient_ratio", "banding", "neighbour_mask_dice")


def coherence(image: np.ndarray, label: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How neighbouring slices of a volume belong together: one number for each of ``COHERENCE``.

    * neighbour_ssim: SSIM of slices d and d + 1 over voxels that are inside in both.
    * gradient_ratio: mean squared difference between neighbouring slices over that of neighbours within slices.
    * banding: standard deviation of the second difference of the slices' mean intensity, over that of the intensities.
    * neighbour_mask_dice: Dice of the foreground of slices d and d + 1, where either has any; NaN without foreground.

    Args:
        image: [C, D, H, W] in network scale.
        label: [D, H, W] label values.
        inside: [D, H, W] bool, the anatomy.
    """
    both = inside[1:] & inside[:-1]
    similar = float(np.mean([ssim(c[:-1].copy(), c[1:], both) for c in image])) if both.any() else np.nan
    energy = [_difference_energy(image, inside, axis) for axis in range(3)]
    return np.array([similar, energy[0] / np.mean(energy[1:]), _banding(image, inside), _neighbour_dice(label > 0)])


def _difference_energy(image: np.ndarray, inside: np.ndarray, axis: int) -> float:
    both = np.diff(inside.astype(np.int8), axis=axis) == 0
    both &= np.take(inside, range(1, inside.shape[axis]), axis=axis)
    return float(np.square(np.diff(image, axis=axis + 1)[:, both]).mean()) if both.any() else np.nan


def _banding(image: np.ndarray, inside: np.ndarray) -> float:
    """Only slices whose area is at least a quarter of the largest count, so that a thin last slice does not decide."""
    area = inside.sum(axis=(1, 2))
    kept = np.flatnonzero(area >= 0.25 * area.max())
    if len(kept) < 3:
        return float("nan")
    means = np.where(inside, image, 0)[:, kept[0] : kept[-1] + 1].sum(axis=(2, 3)) / np.maximum(area[kept[0] : kept[-1] + 1], 1)
    return float(np.mean(np.diff(means, 2, axis=1).std(axis=1) / np.maximum(image[:, inside].std(axis=1), 1e-6)))


def _neighbour_dice(mask: np.ndarray) -> float:
    area = mask.sum(axis=(1, 2))
    total = area[1:] + area[:-1]
    shared = (mask[1:] & mask[:-1]).sum(axis=(1, 2))
    return float((2 * shared[total > 0] / total[total > 0]).mean()) if (total > 0).any() else float("nan")
