"""What an evaluation calls good enough: one set of targets by default, another for a dataset that needs its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from nnunet_sbldm.common.files import read_user_json
from nnunet_sbldm.types import UserError


@dataclass(frozen=True)
class QualityTargets:
    """Numbers to reach; every one of them stands in the report beside the number it judges.

    The last three compare with the same number of real cases and hold for any dataset. How well size and place can be
    steered also depends on the dataset (a small label on thick slices has no better centroid than its voxels), so the first
    two are meant to be set where the defaults ask too much or too little.

    Attributes:
        min_volume_correlation: of the logarithms of asked and obtained volume, per label.
        max_centroid_error: median distance of asked and obtained centroid, as share of the field of view, per label.
        max_floor_multiple: largest Wasserstein-1 distance of volume and sphericity, in multiples of that of training cases.
        max_coherence_deviation: largest deviation of neighbour SSIM and gradient ratio from the range between the means of
            held-out and training cases, as share.
        min_memorisation_ratio: median nearest distance of synthetic cases over that of held-out cases.
    """

    min_volume_correlation: float = 0.9
    max_centroid_error: float = 0.05
    max_floor_multiple: float = 2.0
    max_coherence_deviation: float = 0.1
    min_memorisation_ratio: float = 0.9


DEFAULT_TARGETS = QualityTargets()


def read_targets(file: Path) -> QualityTargets:
    """Targets from a JSON object; those it leaves out keep their default.

    Raises:
        UserError: no such file, no JSON object, unknown name, or not a number from 0.
    """
    value = read_user_json(file, "-targets")
    names = [f.name for f in fields(QualityTargets)]
    if not isinstance(value, dict):
        raise UserError(f"-targets {file} holds a {type(value).__name__}; expected a JSON object with any of {', '.join(names)}.")
    for name, number in value.items():
        if name not in names:
            raise UserError(f"-targets {file} names {name}; expected any of {', '.join(names)}.")
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
            raise UserError(f"-targets {file} gives {name} the value {number!r}; expected a number from 0.")
    return QualityTargets(**{name: float(number) for name, number in value.items()})
