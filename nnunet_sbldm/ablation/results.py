"""The results of a study: everything that its report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_sbldm.ablation.arms import REFERENCE
from nnunet_sbldm.ablation.cases import CaseGroup, case_groups, recorded_cases
from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.ablation.progress import check_generators, finished_runs, time_per_arm, unfinished
from nnunet_sbldm.ablation.runs import ArmRun, runs_of
from nnunet_sbldm.ablation.scores import OVERLAP, SURFACE, case_scores, missed_and_false, score_tables, training_losses
from nnunet_sbldm.ablation.setup import SPLIT_FILE
from nnunet_sbldm.ablation.shares import mean_shares, share_warnings, shares_of
from nnunet_sbldm.ablation.split import TEST_IMAGES, TEST_LABELS, Split
from nnunet_sbldm.ablation.statistics import Comparison, Scores, compare, interval_of_mean, terciles
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.ablation.tables import points_text
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.dataset import channel_names_of
from nnunet_sbldm.types import UserError

FEW_CASES, FEW_DRAWS = 10, 3


@dataclass(frozen=True)
class Results:
    """Results of the finished runs of a study.

    Attributes:
        study: the study.
        folder: its folder.
        jobs: its table of jobs.
        runs: the finished runs.
        patients: test case -> patient.
        groups: the test cases, and the training cases of the subsets.
        num_generators: how many generators were checked to have seen no test case.
    """

    study: Study
    folder: Path
    jobs: Sequence[StudyJob]
    runs: Sequence[ArmRun]
    patients: Mapping[str, str]
    groups: Sequence[CaseGroup]
    num_generators: int

    # --- what it is about ------------------------------------------------------------------------------------------

    @cached_property
    def reported(self) -> Study:
        """The study, with those arms, numbers of cases, draws and seeds alone that some finished run has."""
        study, arms = self.study, {r.arm.name for r in self.runs}
        numbers = {r.subset.num_cases for r in self.runs if not r.arm.num_cases}
        draws, seeds = {r.subset.draw for r in self.runs}, {r.subset.seed for r in self.runs}
        return replace(
            study,
            arms=tuple(a for a in study.arms if a.name in arms),
            num_cases=tuple(n for n in study.num_cases if n in numbers),
            draws=tuple(d for d in study.draws if d in draws),
            seeds=tuple(s for s in study.seeds if s in seeds),
        )

    @property
    def num_planned(self) -> int:
        """How many runs the study has, finished or not."""
        return len(runs_of(self.study))

    @property
    def cases(self) -> list[str]:
        """The test cases."""
        return list(self.groups[0].records)

    @property
    def units(self) -> str:
        """What intervals resample and tests compare."""
        return "patients" if any(c != p for c, p in self.patients.items()) else "cases"

    @property
    def reference(self) -> str:
        """Name of the arm that others are compared with."""
        return next(a.name for a in self.study.arms if a.definition.is_reference)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """nnU-Net's, of the networks."""
        content: dict[str, Any] = read_json(self.folder / self.runs[0].predictions / "dataset.json")
        return content

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""
        return list(channel_names_of(self.dataset_json))

    @cached_property
    def lost_files(self) -> list[Path]:
        """What the pictures would show of the test cases, and is not there any more."""
        ending = self.dataset_json["file_ending"]
        shown = [f for c in self.cases for f in (f"{TEST_IMAGES}/{c}_0000{ending}", f"{TEST_LABELS}/{c}{ending}")]
        return [self.folder / f for f in shown if not (self.folder / f).exists()]

    # --- what came out ---------------------------------------------------------------------------------------------

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores per run, test case and structure."""
        return case_scores(self.runs, self.folder)

    @cached_property
    def shares(self) -> pd.DataFrame:
        """Shares of synthetic cases that the runs drew."""
        return shares_of(self.study, self.runs, self.folder)

    @property
    def labels(self) -> list[str]:
        """Names of the structures."""
        return list(self.scores["label"].unique())

    @cached_property
    def sizes_ml(self) -> np.ndarray:
        """Foreground [patients] of the test cases, mean over the scans of each."""
        records = self.groups[0].records
        volumes = pd.Series([records[c].foreground_ml for c in self.patients], index=list(self.patients.values()))
        return volumes.groupby(level=0, sort=False).mean().to_numpy()

    @property
    def third_sizes_ml(self) -> list[tuple[float, float] | None]:
        """Smallest and largest foreground of the patients with the smallest, middle and largest foreground."""
        sizes = self.sizes_ml
        return [(float(sizes[t].min()), float(sizes[t].max())) if len(t) else None for t in terciles(sizes)]

    @cached_property
    def comparisons(self) -> list[dict[str, Any]]:
        """Every arm at every number of real cases, compared with the reference and, where there is one, with the baseline."""
        study, oracles = self.study, {a.name: a.num_cases for a in self.study.arms if a.num_cases}
        what = Comparison(self.reference, [a.name for a in study.arms], sorted(study.num_cases), oracles, self.sizes_ml,
                          study.evaluation.num_resamples, study.evaluation.confidence)
        tables = score_tables(self.scores, study, self.patients, "Dice")
        shares, baselines = mean_shares(self.shares), _against_baseline(tables, study, what)
        return [{**row, "draws": shares.get((row["arm"], oracles.get(row["arm"], row["num_cases"]))),
                 "baseline": baselines.get((row["arm"], row["num_cases"]))} for row in compare(tables, what)]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Per arm and number of cases: where the training loss ended, and the mean of every metric of every structure."""
        study, labels = self.study, self.labels
        measured = (*OVERLAP, *SURFACE) if study.evaluation.surface_distances else OVERLAP
        tables = {f"{m}, {label}" if len(labels) > 1 else m: score_tables(self.scores, study, self.patients, m, label)
                  for m in measured for label in labels}
        losses, voxels = training_losses(study, self.runs, self.folder), missed_and_false(self.scores)
        keys = sorted(dict.fromkeys(k for table in tables.values() for k in table), key=lambda k: k[1])
        return [{
            "arm": key[0], "num_cases": key[1], "training_loss": losses.get(key), **voxels.loc[key].to_dict(),
            "scores": {name: self._score(table[key]) if key in table else None for name, table in tables.items()},
        } for key in keys]

    def _score(self, table: np.ndarray) -> dict[str, Any]:
        """Mean and interval of a metric, and how many values it is of: there is no distance to a structure that is missed."""
        interval = interval_of_mean(table, self.study.evaluation.num_resamples, self.study.evaluation.confidence)
        return {**interval.to_json(), "num_values": int(np.isfinite(table).sum())}

    @cached_property
    def time(self) -> list[dict[str, Any]]:
        """Time per arm."""
        return time_per_arm(self.reported, self.jobs, self.folder)

    @cached_property
    def unfinished(self) -> list[dict[str, str]]:
        """Jobs that are not done."""
        return unfinished(self.jobs, self.folder)

    # --- what to mind ----------------------------------------------------------------------------------------------

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader of the numbers has to know, a sentence each."""
        warnings, number = [], len(set(self.patients.values()))
        if number < FEW_CASES:
            warnings.append(f"Only {number} test {self.units}: intervals are wide, and differences that exist may not show.")
        if self.lost_files:
            warnings.append(f"{len(self.lost_files)} files of test cases are not where they were, such as "
                            f"{self.lost_files[0].resolve()}: no pictures of test cases.")
        few = sum(row["num_folds"] < FEW_DRAWS for row in self.comparisons)
        if few:
            warnings.append(f"Fewer than three draws of training cases (folds) in {few} of {len(self.comparisons)} rows: however "
                            "many seeds, their intervals hardly reflect the chance of another draw.")
        return [*warnings, *self._without_headroom(), *share_warnings(self.shares, self.runs)]

    def _without_headroom(self) -> list[str]:
        """Trainings that more real cases do not improve say nothing of synthetic ones."""
        oracles = {a.name: a.num_cases for a in self.study.arms if a.num_cases}
        return [
            f"{row['arm']} at {row['num_cases']}: {oracles[row['arm']]} real cases do not bring a gain that shows over "
            f"{row['num_cases']} ({points_text(row['difference'])} points), so these trainings can hardly say what synthetic "
            "cases bring. Train longer, or choose an n at which the oracle gains."
            for row in self.comparisons if oracles.get(row["arm"], 0) > row["num_cases"] and row["difference"]
            and not row["verdict"].endswith("better")
        ]


def collect_results(study: Study, jobs: Sequence[StudyJob], folder: Path) -> Results:
    """Results of the runs that are finished.

    Raises:
        UserError: no run of the reference is finished, or a generator has seen a test case.
    """
    runs = finished_runs(study, jobs, folder)
    if not any(run.arm.definition.is_reference for run in runs):
        raise UserError(f"No run of {REFERENCE} is finished, and all other arms are compared with it; see sbldm_ablation status.")
    split = Split.from_json(read_json(folder / SPLIT_FILE))
    groups = case_groups(split, (run.subset for run in runs), recorded_cases(folder))
    num_generators = check_generators(list(groups[0].records.values()), folder)
    return Results(study, folder, jobs, runs, split.patients, groups, num_generators)


def _against_baseline(tables: Scores, study: Study, what: Comparison) -> dict[tuple[str, int], dict[str, Any]]:
    """(arm, number of cases) -> its comparison with the first baseline, for arms that need a generator.

    Holm's adjustment is over these comparisons, a family of their own.
    """
    finished = {arm for arm, _ in tables}
    name = next((a.name for a in study.arms if a.definition.is_baseline and a.name in finished), None)
    if name is None:
        return {}
    arms = [name, *(a.name for a in study.arms if a.definition.needs_generator)]
    rows = compare(tables, replace(what, reference=name, arms=arms, oracles={}))
    return {(row["arm"], row["num_cases"]): {"arm": name, **{k: row[k] for k in ("difference", "p", "p_holm", "verdict")}}
            for row in rows if row["difference"]}
