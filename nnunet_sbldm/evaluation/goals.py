"""What an evaluation calls good enough: one set of goals by default, another for a dataset that needs its own.

``python -m nnunet_sbldm.evaluation.goals`` prints the JSON Schema of a file of goals; docs/reference/goals.schema.json is what it
printed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from nnunet_sbldm.common.files import read_user_json
from nnunet_sbldm.common.json_schema import DIALECT, schema_of
from nnunet_sbldm.common.validation import FILE, MustBe, checked

Goal = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), MustBe("a number from 0")]


@dataclass(frozen=True, config=FILE)
class QualityGoals:
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

    min_volume_correlation: Goal = 0.9
    max_centroid_error: Goal = 0.05
    max_floor_multiple: Goal = 2.0
    max_coherence_deviation: Goal = 0.1
    min_memorisation_ratio: Goal = 0.9


DEFAULT_GOALS = QualityGoals()


def read_goals(file: Path) -> QualityGoals:
    """Goals from a JSON object; those it leaves out keep their default.

    Raises:
        UserError: no such file, no JSON object, unknown name, or not a number from 0.
    """
    return checked(QualityGoals, read_user_json(file, "-targets"), f"-targets {file}")


def goals_schema() -> dict[str, Any]:
    """JSON Schema of a file of goals."""
    return {"$schema": DIALECT, **schema_of(QualityGoals)}


if __name__ == "__main__":
    print(json.dumps(goals_schema(), indent=1))
