"""Label maps from the logits of the slice decoder.

The most probable class of every voxel makes outlines that are smoother than hand-drawn ones. A decoder's softmax says how
far an outline could lie elsewhere; a label map is therefore drawn from it, with noise that is correlated between neighbours as
the decoder's own errors on the training cases are, and so strong that drawn reconstructions are as rough as real masks. The
noise moves outlines and changes no topology: it makes neither specks nor holes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from nnunet_sbldm.conditions import sphericity
from nnunet_sbldm.grid import bounding_box
from nnunet_sbldm.random_fields import MAX_LAG, SIZE, TINY, autocorrelation, gaussian_field
from nnunet_sbldm.types import FloatArray, LabelArray

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
"""Strengths that are tried; 1 draws from the softmax as it is."""
CONNECTED = np.ones((3, 3, 3))
SURE = 0.98
"""Voxels of which the decoder is surer than this say nothing about outlines."""

DecodedCases = Callable[[], Iterable[tuple[FloatArray, np.ndarray]]]
"""Gives, as often as it is called, logits [K, D, H, W] and real class indices [D, H, W] of the same cases."""


@dataclass(frozen=True)
class Outlines:
    """How outlines vary around the most probable ones.

    Attributes:
        strength: of the noise on the logits; 0 takes the most probable class.
        correlation: of the noise of neighbouring voxels, see :func:`nnunet_sbldm.random_fields.gaussian_field`.
    """

    strength: float
    correlation: tuple[float, ...]

    @staticmethod
    def fit(cases: DecodedCases, spacing_mm: Sequence[float], clean: Callable[[np.ndarray], np.ndarray], seed: int) -> Outlines:
        """Measure correlation and strength on training cases.

        Args:
            cases: decoded training cases.
            spacing_mm: voxel size along (D, H, W).
            clean: what is done to drawn class indices [D, H, W] afterwards, such as removing specks.
            seed: of the noise that is tried.
        """
        correlation = tuple(np.round(_error_correlation(cases()).ravel(), 5).tolist())
        excess = []
        for n, (logits, classes) in enumerate(cases()):
            noise = _gumbel(correlation, logits[1:].shape, np.random.default_rng([seed, n]))
            drawn = (clean(np.where(classes > 0, 1 + _moved(logits[1:], s * noise), 0)) for s in STRENGTHS)
            excess.append([_excess_roughness(d, classes, range(2, len(logits)), spacing_mm) for d in drawn])
        return Outlines(_balanced_strength(np.array(excess).reshape(-1, len(STRENGTHS))), correlation)

    def draw(self, logits: FloatArray, rng: np.random.Generator) -> np.ndarray:
        """Class indices [D, H, W], never the outside, from logits [K, D, H, W]."""
        if self.strength == 0 or len(logits) == 2:
            return 1 + logits[1:].argmax(axis=0)
        return 1 + _moved(logits[1:], self.strength * _gumbel(self.correlation, logits[1:].shape, rng))


MOST_PROBABLE = Outlines(0.0, ())
"""The most probable class of every voxel."""


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


# --- fitting -------------------------------------------------------------------------------------------------------


def _gumbel(correlation: Sequence[float], shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Standard Gumbel noise [K, D, H, W]: added to logits, the largest is a draw from their softmax (Gumbel 1954)."""
    fields = np.stack([gaussian_field(correlation, shape[1:], rng) for _ in range(shape[0])])
    return (-np.log(-special.log_ndtr(fields))).astype(np.float32)


def _error_correlation(cases: Iterable[tuple[FloatArray, np.ndarray]]) -> np.ndarray:
    """Correlation of the noise that makes neighbours wrong together, [SIZE, SIZE, SIZE].

    Errors are noise beyond a threshold; the arcsine law leads from the correlation of one to that of the other.
    """
    products = pairs = np.zeros((SIZE, SIZE, SIZE))
    for logits, classes in cases:
        probability = special.softmax(logits[1:], axis=0)
        largest, chosen = probability.max(axis=0), 1 + probability.argmax(axis=0)
        unsure = (classes > 0) & (classes < len(logits)) & (largest < SURE)
        error = np.where(unsure, ((chosen == classes) - largest) / np.sqrt(largest * (1 - largest)).clip(TINY), 0)
        products, pairs = products + autocorrelation(error), pairs + autocorrelation(unsure.astype(np.float64))
    correlation = products / np.maximum(pairs, 1)
    correlation = correlation / max(float(correlation[(MAX_LAG,) * 3]), TINY)
    return np.sin(np.pi / 2 * np.clip(correlation, -1, 1))


def _excess_roughness(drawn: np.ndarray, real: np.ndarray, classes: Iterable[int], spacing_mm: Sequence[float]) -> float:
    """Mean log ratio of real and drawn sphericity over the classes; NaN if none is in both."""
    ratios = np.array([_sphericity(real == k, spacing_mm) / _sphericity(drawn == k, spacing_mm) for k in classes])
    known = ratios[np.isfinite(ratios)]
    return float(np.log(known).mean()) if len(known) else np.nan


def _balanced_strength(excess: np.ndarray) -> float:
    """Strength at which the mean excess roughness [cases, strengths] passes 0; 0 without any foreground."""
    known = excess[np.isfinite(excess).all(axis=1)]
    return round(float(np.interp(0.0, np.maximum.accumulate(known.mean(axis=0)), STRENGTHS)), 4) if len(known) else 0.0


def _sphericity(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    return sphericity(mask[bounding_box(mask)], spacing_mm) if mask.any() else np.nan
