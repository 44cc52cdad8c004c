"""Random streams: what is random about a case comes from the case's own seed, one stream for every purpose.

A stream is the pair (seed, number), so that the numbers of one purpose say nothing about those of another. Finished models,
recorded cases and interrupted runs rest on the values below: add new ones, change none. Version 1 of the streams used two of
them twice; a record's format says which version its case was made with.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

STREAMS = 2
"""The version of the streams, stored as the format of a case's record."""
ALL_FOLDS = 2**32 - 1
"""Number of the fold ``all`` among the folds of an expansion."""


class Stream(IntEnum):
    """Of the seed of a case. The steps of a sampler take 1, 2, ... too, see :func:`derived_seed`, for noise of another kind."""

    CONDITION = 1  # what a request leaves open
    TEXTURE = 2  # of a whole case; in version 1 the asked volume, too
    OUTLINE = 3  # of a whole case
    HOST = 11  # kind and host of an edit, and whether the host is mirrored
    WINDOW = 12  # place of an edit in a host larger than the grid
    DEFORMATION = 13  # of a host
    EDIT_TEXTURE = 14
    EDIT_OUTLINE = 15
    ATTEMPT = 21  # seeds of the second attempt and of later ones; in version 1 those of a sampler's steps
    VOLUME = 22  # a volume that is asked as a range


class TrainingStream(IntEnum):
    """Of the seed of a training: the order of its stages; the numbers are lengths of their names."""

    DENOISER = 8
    AUTOENCODER = 11


class EvaluationStream(IntEnum):
    """Of the seed of an evaluation."""

    COMPARISON = 2
    ORDER = 15  # of the pictures in a blinded montage


def rng_of(seed: int, *numbers: int) -> np.random.Generator:
    """The random numbers of a stream: a seed and the number of what they are for, one of the enumerations above."""
    return np.random.default_rng([seed, *numbers])


def derived_seed(seed: int, *numbers: int) -> int:
    """A further seed of 63 bits: of a step (its number from 1) or of a stream (and a number within it)."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0] >> 1)


def case_seed(seed: int, fold: int | str, index: int) -> int:
    """Seed of one case of an expansion: case ``index`` of a fold, a number or ``all``."""
    return derived_seed(seed, ALL_FOLDS if fold == "all" else int(fold), index)


def attempt_seed(seed: int, attempt: int, streams: int = STREAMS) -> int:
    """Seed of an attempt at a case: the first, 0, has the case's own; ``streams`` is the version of the streams."""
    if attempt == 0:
        return seed
    return derived_seed(seed, attempt) if streams == 1 else derived_seed(seed, Stream.ATTEMPT, attempt)


def volume_rng(seed: int, streams: int = STREAMS) -> np.random.Generator:
    """What draws a volume that is asked as a range; ``streams`` is the version of the streams."""
    return rng_of(seed, Stream.TEXTURE if streams == 1 else Stream.VOLUME)
