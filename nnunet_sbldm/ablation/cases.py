"""What the cases of a study are like: content, volume of the foreground, and how it stands out from its surroundings.

Every case is read once, when the study is set up, and remembered in ``cases.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from nnunet_sbldm.ablation.split import SourceDataset, Split, Subset
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import read_json, size_and_time, write_json
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.common.text import named
from nnunet_sbldm.data.fingerprints import fingerprint_of
from nnunet_sbldm.data.folds import CaseFingerprint, find_leaks
from nnunet_sbldm.quality.appearance import mask_and_shell
from nnunet_sbldm.types import Case, UserError

CASES = "cases.json"
IGNORE = "ignore"


@dataclass(frozen=True)
class CaseRecord:
    """What a study remembers of a case.

    Attributes:
        content: hashes of its images and its label map.
        foreground_ml: volume of all labels together, without the ignore label.
        brightness_auc: per channel the probability that a voxel of the foreground is brighter than one of the surroundings
            (:func:`nnunet_sbldm.quality.appearance.mask_and_shell`), which is the area under the ROC curve of a threshold: 1 and
            0 where a threshold tells them apart, 0.5 where brightness says nothing, None without foreground or surroundings.
        stamp: size and time of change of its files, which are read again where these differ.
    """

    content: CaseFingerprint
    foreground_ml: float
    brightness_auc: tuple[float | None, ...]
    stamp: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"content": self.content.to_json(), "foreground_ml": self.foreground_ml, "brightness_auc": self.brightness_auc,
                "stamp": self.stamp}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CaseRecord:
        """Inverse of :meth:`to_json`."""
        stamp = tuple((size, changed) for size, changed in value.get("stamp", ()))
        return cls(CaseFingerprint.from_json(value["content"]), value["foreground_ml"], tuple(value["brightness_auc"]), stamp)


def record_cases(
    study: Study, source: SourceDataset, split: Split, folder: Path, is_set_up: bool = False
) -> dict[str, CaseRecord]:
    """Records of the test cases and of all that some subset trains on, remembered in ``folder`` until their files change.

    Raises:
        UserError: no case has more than one slice; the study is set up already, and a case of it is another now.
    """
    known, wanted = _remembered(folder), sorted({*split.test, *split.ever_trained(study)})
    unread = [c for c in wanted if c not in known or known[c].stamp != _stamp(source, c)]
    if unread:
        read, num_slices = {}, []
        for case_id in progress(unread, "reading cases"):
            case = source.read(case_id)
            read[case_id] = _record(source, case)
            num_slices.append(len(case.label))
        if len(unread) == len(wanted) and max(num_slices) == 1:
            raise UserError(f"The cases of {source.folder.name} are single slices: studies train 3d_fullres, which nnU-Net plans "
                            "for volumes alone.")
        changed = [c for c in read if is_set_up and c in known and known[c].content != read[c].content]
        if changed:
            raise UserError(f"{named(changed)} changed since {folder} was set up, where some jobs have used what it was before: "
                            "restore it, or choose a new folder with -o.")
        known |= read
        write_json(folder / CASES, {c: r.to_json() for c, r in known.items()})
    return known


def _stamp(source: SourceDataset, case_id: str) -> tuple[tuple[int, int], ...]:
    files = source.files(case_id)
    return tuple(map(size_and_time, [*files["images"], files["label"]]))


def recorded_cases(folder: Path) -> dict[str, CaseRecord]:
    """Records of a study that is set up.

    Raises:
        UserError: there are none.
    """
    records = _remembered(folder)
    if not records:
        raise UserError(f"{folder / CASES} is missing: sbldm_ablation run makes it.")
    return records


def _remembered(folder: Path) -> dict[str, CaseRecord]:
    value = read_json(folder / CASES) if (folder / CASES).is_file() else {}
    return {c: CaseRecord.from_json(r) for c, r in value.items()}


def _record(source: SourceDataset, case: Case) -> CaseRecord:
    ignored = source.dataset_json["labels"].get(IGNORE)
    known = case.label != ignored  # all, without such a label
    mask, voxel_ml = (case.label > 0) & known, float(np.prod(case.geometry.spacing_mm)) / 1000
    foreground, surroundings = mask_and_shell(mask, (case.image != 0).any(axis=0) & known, case.geometry.spacing_mm)
    return CaseRecord(fingerprint_of(case), float(mask.sum()) * voxel_ml,
                      tuple(_auc(channel[foreground], channel[surroundings]) for channel in case.image),
                      _stamp(source, case.case_id))


def _auc(foreground: np.ndarray, surroundings: np.ndarray) -> float | None:
    """Probability that a value of the first is larger than one of the second; equal ones count half."""
    if not len(foreground) or not len(surroundings):
        return None
    return float(mannwhitneyu(foreground, surroundings).statistic) / len(foreground) / len(surroundings)


def refuse_content_leaks(study: Study, split: Split, records: dict[str, CaseRecord]) -> None:
    """Raise a :class:`UserError` if a test case is a copy of a case that some subset trains on, whatever its name."""
    leaks = find_leaks([records[c].content for c in split.ever_trained(study)], [records[c].content for c in split.test])
    if leaks:
        raise UserError(f"{len(leaks)} test case(s) are copies of training cases: {named([str(leak) for leak in leaks])}; "
                        "remove one of each pair.")


# --- for the report ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CaseGroup:
    """The test cases, or the training cases of a subset.

    Attributes:
        name: as it is shown.
        records: case -> its record.
    """

    name: str
    records: dict[str, CaseRecord]

    def volumes_ml(self) -> list[float]:
        """Volume of the foreground of every case that has any."""
        return [r.foreground_ml for r in self.records.values() if r.foreground_ml > 0]

    def aucs(self, channel: int) -> list[float]:
        """Brightness of the foreground of every case that has any."""
        return [a for r in self.records.values() if (a := r.brightness_auc[channel]) is not None]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, without hashes."""
        return {"name": self.name, "cases": {
            c: {"foreground_ml": r.foreground_ml, "brightness_auc": r.brightness_auc} for c, r in self.records.items()}}


def case_groups(split: Split, subsets: Iterable[Subset], records: dict[str, CaseRecord]) -> list[CaseGroup]:
    """The test cases, and the training cases of each number of cases and draw."""
    training = {(s.num_cases, s.draw): split.training(s) for s in subsets}
    lists: list[tuple[str, Sequence[str]]] = [("test cases", split.test)]
    lists += [(f"n = {n}, fold {draw}", ids) for (n, draw), ids in sorted(training.items())]
    return [CaseGroup(name, {c: records[c] for c in ids}) for name, ids in lists]
