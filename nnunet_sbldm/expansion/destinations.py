"""Where synthetic cases are written: a pool, a new dataset, or the raw folder of the dataset itself.

A destination writes one case completely: files first, its provenance record last, so that a case counts as written
when its record is there. Destinations travel to writer processes, so they hold paths and plain data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import PREPROCESSED_ENDINGS, preprocess_case, read_written_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.formats import side_files, write_case
from nnunet_sbldm.data.paths import preprocessing_command
from nnunet_sbldm.expansion.places import pool_cases_folder, pool_folder
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.types import Case, UnfitGeneratorError, UserError


def views_of(dataset: NnunetDataset, configurations: Sequence[str]) -> tuple[NnunetDataset, ...]:
    """The same dataset through each configuration, all of them planned and preprocessed."""
    views = []
    for name in configurations:
        if name not in dataset.plans.available_configurations:
            raise UserError(
                f"The plans {dataset.plans_name} of {dataset.name} have no configuration {name}; "
                f"they have {', '.join(dataset.plans.available_configurations)}."
            )
        view = replace(dataset, configuration=name)
        if not view.data_folder.is_dir():
            raise UserError(
                f"{dataset.name} is not preprocessed for {name}: run "
                f"{preprocessing_command(dataset.name, dataset.plans_name, name)}."
            )
        views.append(view)
    return tuple(views)


@dataclass(frozen=True)
class PoolDestination:
    """The pool of one fold, for one or more configurations.

    Attributes:
        views: the real dataset through each configuration.
        fold: the fold.
    """

    views: tuple[NnunetDataset, ...]
    fold: int | str

    def folder(self, view: NnunetDataset) -> Path:
        """Pool folder of one configuration."""
        return pool_folder(view.preprocessed, view.config.data_identifier, self.fold)

    def cases_folder(self, view: NnunetDataset) -> Path:
        """Its preprocessed cases."""
        return pool_cases_folder(view.preprocessed, view.config.data_identifier, self.fold)

    @property
    def record_folders(self) -> list[Path]:
        """Folders that hold the provenance records."""
        return [self.folder(view) / "provenance" for view in self.views]

    @property
    def data_folders(self) -> list[Path]:
        """Folders that hold the cases."""
        return [self.cases_folder(view) for view in self.views]

    def case_files(self, case_id: str) -> list[Path]:
        """Every file that :meth:`store` writes before the record."""
        return _preprocessed_files(self.data_folders, case_id)

    def store(self, case: Case, record: SyntheticRecord) -> None:
        """Preprocess into every pool, then record."""
        for view in self.views:
            preprocess_case(view, case, self.cases_folder(view) / case.case_id)
        _record(record, self.record_folders)

    def remove(self, case_id: str) -> None:
        """Delete a case, its record first."""
        for folder in self.record_folders:
            (folder / f"{case_id}.json").unlink(missing_ok=True)
        for file in self.case_files(case_id):
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class RawDestination:
    """Raw files and preprocessed cases: of a new dataset, or of the dataset itself.

    Attributes:
        views: the real dataset through each configuration to preprocess.
        images: folder of the raw images.
        labels: folder of the raw label maps.
        records: folder of the provenance records.
        preprocessed: preprocessed folder of the dataset that gets the cases.
        manifest: file that says what is made; once it is gone the expansion was taken back, and nothing more is written.
    """

    views: tuple[NnunetDataset, ...]
    images: Path
    labels: Path
    records: Path
    preprocessed: Path
    manifest: Path

    @property
    def record_folders(self) -> list[Path]:
        """Folders that hold the provenance records."""
        return [self.records]

    @property
    def data_folders(self) -> list[Path]:
        """Folders that hold the cases."""
        return [self.images, self.labels, *(self.preprocessed / v.config.data_identifier for v in self.views)]

    @property
    def ending(self) -> str:
        """File ending of the raw files."""
        return self.views[0].dataset_json["file_ending"]

    def image_files(self, case_id: str) -> list[Path]:
        """Raw image files of a case, one per channel."""
        return [self.images / f"{case_id}_{c:04d}{self.ending}" for c in range(len(self.views[0].channel_names))]

    def label_file(self, case_id: str) -> Path:
        """Raw label file of a case."""
        return self.labels / f"{case_id}{self.ending}"

    def case_files(self, case_id: str) -> list[Path]:
        """Every file that :meth:`store` writes before the record."""
        images, label = self.image_files(case_id), self.label_file(case_id)
        folders = [self.preprocessed / v.config.data_identifier for v in self.views]
        return [*images, label, *side_files(images, label), *_preprocessed_files(folders, case_id)]

    def files(self, case_id: str) -> list[Path]:
        """Every file of a case but its record."""
        return [*self.case_files(case_id), self.preprocessed / "gt_segmentations" / self.label_file(case_id).name]

    @property
    def unfit_mark(self) -> Path:
        """File in which a part tells the others why the generator is unfit."""
        return self.manifest.with_name("sbldm_unfit.json")

    def mark_unfit(self, reason: str) -> None:
        """Stop all parts, as the generator is unfit; the first reason stays."""
        if self.manifest.is_file() and not self.unfit_mark.is_file():
            write_json(self.unfit_mark, {"reason": reason})

    def refuse_stopped(self) -> None:
        """Refuse to go on with an expansion that was taken back, or whose generator another part found unfit."""
        if self.unfit_mark.is_file():
            raise UnfitGeneratorError(read_json(self.unfit_mark)["reason"])
        if not self.manifest.is_file():
            raise UserError(f"{self.manifest} is gone: the expansion was taken back while this part of it was running.")

    def store(self, case: Case, record: SyntheticRecord) -> None:
        """Write raw files, read them back with nnU-Net's reader, preprocess for every configuration, then record."""
        self.refuse_stopped()
        images, label = self.image_files(case.case_id), self.label_file(case.case_id)
        try:
            write_case(case, images, label, self.views[0].reader)
            written, properties = read_written_case(self.views[0], case, images, label)
            for view in self.views:
                preprocess_case(view, written, self.preprocessed / view.config.data_identifier / case.case_id, properties)
        finally:
            self._remove_if_stopped(case.case_id)
        _record(record, self.record_folders)

    def _remove_if_stopped(self, case_id: str) -> None:
        """Whoever takes an expansion back stops it before removing files: that removes this case, or we do."""
        try:
            self.refuse_stopped()
        except (UserError, UnfitGeneratorError):
            self.remove(case_id)
            raise

    def remove(self, case_id: str) -> None:
        """Delete a case, its record first."""
        (self.records / f"{case_id}.json").unlink(missing_ok=True)
        for file in self.files(case_id):
            file.unlink(missing_ok=True)


Destination = PoolDestination | RawDestination


def _preprocessed_files(folders: Sequence[Path], case_id: str) -> list[Path]:
    return [folder / f"{case_id}{ending}" for folder in folders for ending in PREPROCESSED_ENDINGS]


def _record(record: SyntheticRecord, folders: Sequence[Path]) -> None:
    for folder in folders:
        record.save(folder)
