"""Label maps from the logits of the slice decoder.

The most probable class of every voxel makes outlines that are smoother or rougher than hand-drawn ones: smoother where the
decoder returns the mean of what an outline could be, rougher where it is unsure of what a denoiser has made. So they are
roughened or smoothed until they are as rough as real ones, see :mod:`nnunet_sbldm.training.fit_outlines`. Roughening draws from
the decoder's softmax with correlated noise. The noise moves outlines and changes no topology: it makes neither specks nor holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from nnunet_sbldm.data.labels import LabelEncoding
from nnunet_sbldm.quality.gate import MIN_MARGIN_SHARE
from nnunet_sbldm.quality.random_fields import gaussian_field
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray

CONNECTED = np.ones((3, 3, 3))
MIN_INTENSITY_MARGIN = 0.1
"""In network scale, in which 99 % of the intensities lie between about -1 and 1."""


@dataclass(frozen=True)
class Outlines:
    """How label maps differ from the most probable ones: smoothed, or with noise.

    Attributes:
        strength: of the noise on the logits; 0 takes the most probable class, 1 draws from the softmax as it is.
        correlation: of the noise of neighbouring voxels, see :func:`nnunet_sbldm.quality.random_fields.gaussian_field`.
        smoothing: standard deviation, in voxels, of a Gaussian over the logits within slices.
    """

    strength: float
    correlation: tuple[float, ...]
    smoothing: float = 0.0

    def draw(self, logits: FloatArray, rng: np.random.Generator) -> np.ndarray:
        """Class indices [D, H, W], never the outside, from logits [K, D, H, W]."""
        scores = ndimage.gaussian_filter(logits[1:], (0, 0, self.smoothing, self.smoothing)) if self.smoothing else logits[1:]
        if self.strength == 0 or len(scores) == 1:
            return 1 + scores.argmax(axis=0)
        return 1 + _moved(scores, self.strength * _gumbel(self.correlation, scores.shape, rng))


MOST_PROBABLE = Outlines(0.0, ())
"""The most probable class of every voxel."""


@dataclass(frozen=True)
class RealComponents:
    """What connected components of a label can be, by the training cases.

    Attributes:
        min_voxels: of the smallest.
        intensity: per channel, lowest and highest mean of a component in network scale, widened; empty if unknown.
    """

    min_voxels: int
    intensity: tuple[tuple[float, float], ...] = ()


def components_of(mask: np.ndarray, image: FloatArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connected components of a mask [D, H, W] in an image [C, D, H, W].

    Returns:
        Number of every voxel's component [D, H, W], from 1, 0 outside; voxels of each [N]; mean intensities of each [N, C].
    """
    numbers, num = ndimage.label(mask, CONNECTED)
    means = [ndimage.mean(channel, numbers, np.arange(1, num + 1)) for channel in image]
    voxels = np.bincount(numbers.ravel(), minlength=num + 1)[1:]
    return numbers, voxels, np.array(means, dtype=np.float64).reshape(len(image), num).T


def intensity_range(means: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Per channel, lowest and highest of the mean intensities [N, C] of real components, widened by a share of the range.

    Not by more where there are few, as the gate does: it costs little to lose a stray component that is right after all.
    """
    low, high = means.min(axis=0), means.max(axis=0)
    margin = np.maximum(MIN_MARGIN_SHARE * (high - low), MIN_INTENSITY_MARGIN)
    return tuple((round(float(a), 5), round(float(b), 5)) for a, b in zip(low - margin, high + margin, strict=True))


def cleaned_label(
    classes: np.ndarray, anatomy: np.ndarray, encoding: LabelEncoding, real: Mapping[str, RealComponents], image: FloatArray
) -> LabelArray:
    """Label values [D, H, W] of drawn class indices: without specks and strays, ``OUTSIDE`` where there is no anatomy."""
    return without_strays(np.where(anatomy, encoding.decode(classes), OUTSIDE).astype(np.int16), real, image)


def without_strays(label: LabelArray, real: Mapping[str, RealComponents], image: FloatArray) -> LabelArray:
    """Turn components that no training case has into background.

    These are the ones smaller than the smallest real one of their label, and those whose intensities are of other tissue, or of
    air, unless all that are large enough are: then it is the gate that judges.

    Args:
        label: [D, H, W] label values.
        real: label value (as text) -> its components in the training cases.
        image: [C, D, H, W] in network scale.
    """
    out = label.copy()
    for value, known in real.items():
        mask = label == int(value)
        if not mask.any():
            continue
        numbers, voxels, means = components_of(mask, image)
        low, high = np.array(known.intensity or [(-np.inf, np.inf)] * len(image)).T
        large = voxels >= known.min_voxels
        real_one = large & ((means >= low) & (means <= high)).all(axis=1)
        out[np.concatenate([[False], ~(real_one if real_one.any() else large)])[numbers]] = 0
    return out


def _moved(logits: FloatArray, noise: FloatArray) -> np.ndarray:
    """Most probable classes [D, H, W] of logits and noise [K, D, H, W]; components that the noise alone has made are left out."""
    probable, drawn = logits.argmax(axis=0), (logits + noise).argmax(axis=0)
    out = drawn
    for k in range(len(logits)):
        components, num = ndimage.label(drawn == k, CONNECTED)
        is_new = np.ones(num + 1, bool)
        is_new[components[probable == k]] = False
        is_new[0] = False
        out = np.where(is_new[components], probable, out)
    return out


def _gumbel(correlation: Sequence[float], shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Standard Gumbel noise [K, D, H, W]: added to logits, the largest is a draw from their softmax (Gumbel 1954)."""
    fields = np.stack([gaussian_field(correlation, shape[1:], rng) for _ in range(shape[0])])
    return (-np.log(-special.log_ndtr(fields))).astype(np.float32)
