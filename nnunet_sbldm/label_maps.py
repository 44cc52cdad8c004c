"""Label maps from the logits of the slice decoder.

The most probable class of every voxel makes outlines that are smoother or rougher than hand-drawn ones: smoother where the
decoder returns the mean of what an outline could be, rougher where it is unsure of what a denoiser has made. So they are
roughened or smoothed until they are as rough as real ones, see :mod:`nnunet_sbldm.outline_fitting`. Roughening draws from the
decoder's softmax with correlated noise. The noise moves outlines and changes no topology: it makes neither specks nor holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from nnunet_sbldm.grid import LabelEncoding
from nnunet_sbldm.random_fields import gaussian_field
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray

CONNECTED = np.ones((3, 3, 3))


@dataclass(frozen=True)
class Outlines:
    """How label maps differ from the most probable ones: smoothed, or with noise.

    Attributes:
        strength: of the noise on the logits; 0 takes the most probable class, 1 draws from the softmax as it is.
        correlation: of the noise of neighbouring voxels, see :func:`nnunet_sbldm.random_fields.gaussian_field`.
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


def cleaned_label(
    classes: np.ndarray, anatomy: np.ndarray, encoding: LabelEncoding, min_component_voxels: Mapping[str, int]
) -> LabelArray:
    """Label values [D, H, W] of drawn class indices: without specks, ``OUTSIDE`` where there is no anatomy."""
    label = np.where(anatomy, encoding.decode(classes), OUTSIDE).astype(np.int16)
    return remove_specks(label, min_component_voxels)


def remove_specks(label: LabelArray, min_component_voxels: Mapping[str, int]) -> LabelArray:
    """Turn components smaller than the smallest real one of their label into background.

    Args:
        label: [D, H, W] label values.
        min_component_voxels: label value (as text) -> voxels.
    """
    out = label.copy()
    for value, smallest in min_component_voxels.items():
        components, _ = ndimage.label(label == int(value), CONNECTED)
        sizes = np.bincount(components.ravel())
        out[(sizes < smallest)[components] & (components > 0)] = 0
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
