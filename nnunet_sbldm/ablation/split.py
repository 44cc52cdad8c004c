"""The data of a study: who is tested, who is trained on, and nnU-Net's raw datasets that list the files where they are.

Test cases are drawn first, by patient, and are in no dataset: no generator, plan or choice of a checkpoint can see them.
A draw is one random order of all other cases; the first n of it are the training cases, so that subsets are nested.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.ablation.study import PHANTOM, TEST_FOLDER, Study
from nnunet_sbldm.common.files import copy_file, read_json, write_json
from nnunet_sbldm.common.text import named
from nnunet_sbldm.data.cases import whole_labels
from nnunet_sbldm.data.formats import geometry_of, side_files
from nnunet_sbldm.data.groups import read_groups
from nnunet_sbldm.data.paths import FOLDERS, dataset_name, names_with, nnunet_folder, title_of
from nnunet_sbldm.data.phantom import write_phantom_dataset
from nnunet_sbldm.data.splits import NUM_CROSS_VALIDATION_FOLDS
from nnunet_sbldm.types import Case, UserError

TEST_IMAGES, TEST_LABELS = "test/imagesTs", "test/labelsTs"


@dataclass(frozen=True)
class Subset:
    """The training cases of one number of cases, draw and seed."""

    num_cases: int
    draw: int
    seed: int

    @property
    def key(self) -> str:
        """As in file names: ``n5_f0_s1``."""
        return f"n{self.num_cases}_f{self.draw}_s{self.seed}"


@dataclass(frozen=True)
class SourceDataset:
    """The user's raw dataset.

    Attributes:
        folder: below ``nnUNet_raw``.
        dataset_json: its ``dataset.json``.
        case_files: id -> ``images`` in channel order and ``label``.
        test_files: likewise for ``imagesTs``, if the study tests these.
    """

    folder: Path
    dataset_json: dict[str, Any]
    case_files: dict[str, dict[str, Any]]
    test_files: dict[str, dict[str, Any]]

    @property
    def file_ending(self) -> str:
        """Ending of all files."""
        return str(self.dataset_json["file_ending"])

    @cached_property
    def reader(self) -> Any:
        """nnU-Net's reader of these files."""
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        example = next(iter({**self.case_files, **self.test_files}.values()))["images"][0]
        return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)()

    def files(self, case_id: str) -> dict[str, Any]:
        """``images`` in channel order and ``label`` of a case."""
        return self.test_files.get(case_id) or self.case_files[case_id]

    def read(self, case_id: str) -> Case:
        """Read a case with nnU-Net's reader.

        Raises:
            UserError: its mask has values that are no whole numbers.
        """
        files = self.files(case_id)
        image, properties = self.reader.read_images(files["images"])
        label, _ = self.reader.read_seg(files["label"])
        return Case(case_id, image.astype(np.float32), whole_labels(label[0], case_id, self.folder.name), geometry_of(properties))


@dataclass(frozen=True)
class Split:
    """Who is tested, and in which order the others are trained on.

    Attributes:
        test: ids of the test cases, sorted.
        order: draw -> ids of all other cases; the first n are the training cases of a subset of n.
        patients: test case -> patient, who is the case itself where the study names no patients.
    """

    test: tuple[str, ...]
    order: dict[int, tuple[str, ...]]
    patients: dict[str, str]

    def training(self, subset: Subset) -> tuple[str, ...]:
        """Training cases of a subset."""
        return self.order[subset.draw][: subset.num_cases]

    def ever_trained(self, study: Study) -> list[str]:
        """Cases that some subset of a study trains on, sorted."""
        return sorted({c for order in self.order.values() for c in order[: largest_subset(study)]})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"test": self.test, "order": {str(d): o for d, o in self.order.items()}, "patients": self.patients}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Split:
        """Inverse of :meth:`to_json`."""
        patients = value.get("patients", {c: c for c in value["test"]})  # older versions did not keep them
        return cls(tuple(value["test"]), {int(d): tuple(o) for d, o in value["order"].items()}, patients)


# --- the source ----------------------------------------------------------------------------------------------------


def open_source_dataset(study: Study, folder: Path) -> SourceDataset:
    """The study's dataset in ``nnUNet_raw``; the phantom is written into ``folder`` if it is not there with as many cases.

    Raises:
        UserError: there is no such dataset, or no label for a case of ``imagesTs``.
    """
    if study.dataset == PHANTOM:
        raw = folder / "source" / "Dataset900_Phantom"
        if not (raw / "dataset.json").is_file() or read_json(raw / "dataset.json")["numTraining"] != study.num_phantom_cases:
            write_phantom_dataset(raw.parent, 900, study.num_phantom_cases)
    else:
        raw = nnunet_folder("nnUNet_raw") / _raw_name(study.dataset)
    if not (raw / "dataset.json").is_file():
        raise UserError(f"{raw / 'dataset.json'} is missing: there is no raw dataset {raw.name}.")
    content = read_json(raw / "dataset.json")
    files = _listed(raw, content) if "dataset" in content else _scanned(raw, content["file_ending"], "Tr")
    synthetic = set(content.get("sbldm", {}).get("synthetic_cases", ()))
    real = {c: f for c, f in sorted(files.items()) if c not in synthetic}
    test = _scanned(raw, content["file_ending"], "Ts") if study.test_cases == TEST_FOLDER else {}
    missing = [str(f) for entry in (real | test).values() for f in [*entry["images"], entry["label"]] if not Path(f).is_file()]
    if missing:
        raise UserError(f"{raw.name} lacks {len(missing)} file(s), such as {missing[0]}.")
    return SourceDataset(raw, content, real, test)


def _raw_name(dataset: str) -> str:
    """Full name of a dataset given by number, among those of ``nnUNet_raw`` alone."""
    if not dataset.isdigit():
        return dataset
    names = names_with(int(dataset), nnunet_folder("nnUNet_raw"))
    return names[0] if len(names) == 1 else dataset_name(dataset)


def _listed(raw: Path, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    def absolute(file: str) -> str:
        return os.path.abspath(raw / os.path.expandvars(file))

    return {c: {"images": [absolute(f) for f in e["images"]], "label": absolute(e["label"])}
            for c, e in content["dataset"].items()}


def _scanned(raw: Path, ending: str, part: str) -> dict[str, dict[str, Any]]:
    images: dict[str, list[str]] = {}
    for path in sorted((raw / f"images{part}").glob(f"[!.]*{ending}")):  # macOS leaves ._ files beside the images it copies
        images.setdefault(path.name[: -len(ending) - 5], []).append(os.path.abspath(path))
    return {c: {"images": f, "label": os.path.abspath(raw / f"labels{part}" / f"{c}{ending}")} for c, f in images.items()}


# --- the split -----------------------------------------------------------------------------------------------------


def split_cases(study: Study, source: SourceDataset) -> Split:
    """Draw the test cases and the nested orders, by patient.

    Raises:
        UserError: unknown test cases, a patient on both sides, too few cases for what the study asks.
    """
    patients = _patients(study, source)
    by_patient: dict[str, list[str]] = {}
    for case_id in sorted(patients):
        by_patient.setdefault(patients[case_id], []).append(case_id)
    test = _test_cases(study, source, by_patient)
    straddling = sorted(p for p, ids in by_patient.items() if set(ids) & set(test) and not set(ids) <= set(test))
    if straddling:
        raise UserError(f"The test cases hold only some scans of {named(straddling)}: test all scans of a patient, or none.")
    free = [p for p in sorted(by_patient) if not set(by_patient[p]) & set(test)]
    orders = {d: _ordered(free, by_patient, study.split_seed, d) for d in study.draws}
    split = Split(tuple(sorted(test)), orders, {c: patients[c] for c in sorted(test)})
    available = sum(len(by_patient[p]) for p in free)
    wanted = max(largest_subset(study), 1)
    if available < wanted:
        raise UserError(f"{source.folder.name} has {available} case(s) besides {len(test)} test case(s); the study asks for "
                        f"{wanted} training cases: ask for fewer cases or fewer test cases.")
    if len(study.draws) > 1 and available <= max(study.num_cases):
        raise UserError(f"{source.folder.name} has {available} cases besides {len(test)} test cases: {available} are all "
                        f"of them, the same in each of {len(study.draws)} folds; ask for fewer, or for one fold and more seeds.")
    return split


def largest_subset(study: Study) -> int:
    """The largest number of training cases of any arm."""
    return max([*study.num_cases, *(n or 0 for arm in study.arms for n in (arm.num_cases, arm.generator_cases))])


def _patients(study: Study, source: SourceDataset) -> dict[str, str]:
    """Case id -> patient, of all cases and of those of ``imagesTs`` that the study tests."""
    cases = [*source.case_files, *source.test_files]
    if study.groups is None:
        return {c: c for c in cases}
    groups = read_groups(Path(study.groups), "groups")
    missing = sorted(set(cases) - set(groups))
    if missing:
        raise UserError(f"groups {study.groups} gives no patient for {named(missing)}; it must name every case.")
    return {c: groups[c] for c in cases}


def _test_cases(study: Study, source: SourceDataset, by_patient: Mapping[str, Sequence[str]]) -> list[str]:
    if study.test_cases == TEST_FOLDER:
        if not source.test_files:
            raise UserError(f"{source.folder / TEST_FOLDER} holds no case: give a number of test_cases.")
        both = sorted(set(source.test_files) & set(source.case_files))
        if both:
            raise UserError(f"{named(both)} stand in imagesTr and in {TEST_FOLDER}: leave them in one.")
        return list(source.test_files)
    if isinstance(study.test_cases, tuple):
        unknown = sorted(set(study.test_cases) - set(source.case_files))
        if unknown:
            raise UserError(f"test_cases names {named(unknown)}, which {source.folder.name} does not have.")
        return list(study.test_cases)
    wanted = int(study.test_cases)
    chosen: list[str] = []
    for patient in np.random.default_rng([study.split_seed]).permutation(sorted(by_patient)):
        if len(chosen) >= wanted:
            break
        chosen += by_patient[str(patient)]
    return chosen


def _ordered(free: Sequence[str], by_patient: Mapping[str, Sequence[str]], seed: int, draw: int) -> tuple[str, ...]:
    order = np.random.default_rng([seed, 1 + draw]).permutation(len(free))
    return tuple(c for i in order for c in by_patient[sorted(free)[i]])


# --- writing -------------------------------------------------------------------------------------------------------


def write_test_cases(source: SourceDataset, split: Split, folder: Path) -> None:
    """Link the test cases under nnU-Net's names."""
    for case_id in split.test:
        files = source.files(case_id)
        images = [folder / TEST_IMAGES / f"{case_id}_{c:04d}{source.file_ending}" for c in range(len(files["images"]))]
        label, own = folder / TEST_LABELS / f"{case_id}{source.file_ending}", [Path(f) for f in files["images"]]
        origins = [*own, Path(files["label"]), *side_files(own, Path(files["label"]))]
        for origin, link in zip(origins, [*images, label, *side_files(images, label)], strict=True):
            _link(origin, link)


def write_raw_dataset(source: SourceDataset, name: str, case_ids: Sequence[str], folder: Path) -> None:
    """A raw dataset of some cases, listed where they are; nothing is copied."""
    listed = {c: source.case_files[c] for c in case_ids}
    kept = {k: v for k, v in source.dataset_json.items() if k not in ("dataset", "sbldm", "training", "test")}
    content = {**kept, "name": title_of(name), "numTraining": len(listed), "dataset": listed}
    path = folder / "nnUNet_raw" / name / "dataset.json"
    if not path.is_file() or read_json(path) != content:
        write_json(path, content)
    if len(case_ids) < NUM_CROSS_VALIDATION_FOLDS:  # nnU-Net cannot split so few; fold all needs no split, an expansion copies it
        splits = [{"train": [c for c in case_ids if c != val], "val": [val]} for val in case_ids]
        write_json(path.parent / "splits_final.json", splits)


def make_folders(folder: Path) -> None:
    """nnU-Net's three folders in the study's own."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _link(source: Path, target: Path) -> None:
    """A symbolic link, or a copy where there are none; a link to what is not there any more is replaced."""
    if target.exists():
        return
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source, target)
    except OSError:  # no right to make links
        copy_file(source, target)
