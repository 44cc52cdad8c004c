"""Edits as the production asks for them: draw a request, name the nearest real lesion, judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import refuse_leaks
from nnunet_sbldm.data.groups import with_remembered_groups
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing.choices import EditSettings, edit_choices
from nnunet_sbldm.editing.edit import EditedDraw, edit
from nnunet_sbldm.editing.gate import judge_edit
from nnunet_sbldm.editing.hosts import allowed_hosts
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.editing.real_lesions import (
    RealLesions,
    border_scores,
    healthy_scores,
    lesion_patch,
    lesion_scores,
    measure_real_lesions,
)
from nnunet_sbldm.editing.regions import dilated, fading_widths
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.appearance import measure_appearance
from nnunet_sbldm.quality.gate import Verdict, judge
from nnunet_sbldm.types import OUTSIDE


class EditedCases:
    """Edits of one dataset's hosts with one generator, measured against these hosts.

    Args:
        model: trained model, on the device to use.
        dataset: where the hosts are.
        settings: hosts and kinds.

    Raises:
        UserError: the dataset's cases cannot be hosts of this generator.
    """

    def __init__(self, model: SBLDMModel, dataset: NnunetDataset, settings: EditSettings) -> None:
        self.model, self.settings = model, settings
        self.planner = EditPlanner(model, dataset)
        self.real: RealLesions = measure_real_lesions(
            settings.hosts, self.planner.real_arrays, model.plan.grid.spacing_mm
        )

    def draw(self, requests: Sequence[Request], sampler: SamplerConfig) -> Iterator[EditedDraw]:
        """Edit a host for each request.

        Raises:
            NoRoomError: no host has room for what is asked.
        """
        real = self.real
        tasks = [
            self.planner.first_fitting(r, edit_choices(self.settings, r, real.patches, real.min_depth_mm, real.tissue))
            for r in requests
        ]
        yield from edit(self.model, tasks, sampler)

    def nearest(self, drawn: EditedDraw) -> dict[str, Any]:
        """The real lesion most like the new one; empty where a lesion was removed."""
        return self.real.nearest(lesion_patch(self._normalised(drawn), drawn.focus))

    def judge(self, drawn: EditedDraw, record: SyntheticRecord) -> Verdict:
        """The gate's scores and reasons."""
        plan, spacing_mm = self.model.plan, self.model.plan.grid.spacing_mm
        image = self._normalised(drawn)
        appearance = measure_appearance(image, drawn.focus, plan.targets, spacing_mm)
        whole = judge(plan.gate, record.condition_asked, record.condition_obtained, appearance)
        own = judge_edit(self.real, self.scores(drawn), drawn.cut_share, record.nearest_real_case)
        return Verdict.of_all((whole, own))

    def scores(self, drawn: EditedDraw) -> dict[str, float]:
        """Seams, texture, and whether healthy tissue is where lesions have gone."""
        task, image, spacing_mm = drawn.task, self._normalised(drawn), self.model.plan.grid.spacing_mm
        tissue, new = (drawn.label != OUTSIDE) & (drawn.label <= 0), drawn.focus > 0
        scores = border_scores(image, task.region.weight, tissue, spacing_mm)
        gone = task.prepared.gone(task.choice.kind)
        if gone.any():
            away = ~dilated(new, 1.0, fading_widths(spacing_mm))
            scores |= healthy_scores(image, gone & away, tissue & away, spacing_mm)
        return scores | lesion_scores(image, drawn.focus, spacing_mm) if new.any() else scores

    def _normalised(self, drawn: EditedDraw) -> np.ndarray:
        return self.model.plan.intensity.normalised(drawn.image)


def edited_cases(model: SBLDMModel, dataset: NnunetDataset, editing: EditSettings) -> EditedCases:
    """What edits hosts of the generator's own fold.

    Raises:
        UserError: no host is allowed, or the generator has seen validation cases of that fold.
    """
    fold = model.plan.fold
    hosts = allowed_hosts(dataset, fold, editing.hosts)
    _, val = fold_cases(dataset, fold)
    seen = with_remembered_groups(model.seen, dataset)
    refuse_leaks(seen, fingerprints_of(dataset, val).values(), fold)
    return EditedCases(model, dataset, replace(editing, hosts=tuple(hosts)))
