"""A dataset that nnU-Net has planned and preprocessed, seen through one configuration.

Everything nnU-Net can do is left to nnU-Net; facts it relies on are checked here, once, with a clear sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_sbldm.common.files import read_json, sha256_of_json
from nnunet_sbldm.data.formats import Reader
from nnunet_sbldm.data.paths import (
    DEFAULT_CONFIGURATION,
    DEFAULT_PLANS,
    dataset_name,
    nnunet_folder,
    planning_command,
    preprocessing_command,
)
from nnunet_sbldm.types import UserError


@dataclass(frozen=True)
class NnunetDataset:
    """A dataset that nnU-Net has planned and preprocessed, seen through one configuration.

    Attributes:
        name: ``DatasetXXX_Name``.
        raw: its folder below ``nnUNet_raw``.
        preprocessed: its folder below ``nnUNet_preprocessed``.
        dataset_json: content of the raw ``dataset.json``.
        plans_name: plans identifier.
        configuration: configuration name.
        resampled_mm: resample cases to this spacing, plan order, instead of the configuration's; None is the configuration's own,
            to which the preprocessed files are.
    """

    name: str
    raw: Path
    preprocessed: Path
    dataset_json: dict[str, Any]
    plans_name: str = DEFAULT_PLANS
    configuration: str = DEFAULT_CONFIGURATION
    resampled_mm: tuple[float, float, float] | None = None

    @cached_property
    def plans(self) -> PlansManager:
        """nnU-Net's plans."""
        return PlansManager(read_json(self.preprocessed / f"{self.plans_name}.json"))

    @cached_property
    def config(self) -> ConfigurationManager:
        """The resolved configuration."""
        config = self.plans.get_configuration(self.configuration)
        if self.resampled_mm is None:
            return config
        return ConfigurationManager({**config.configuration, "spacing": list(self.resampled_mm)})

    @property
    def reader(self) -> Reader:
        """nnU-Net's class that reads the raw files, as chosen when planning."""
        return self.plans.image_reader_writer_class

    @property
    def data_folder(self) -> Path:
        """Folder of the preprocessed arrays of this configuration."""
        return self.preprocessed / self.config.data_identifier

    @property
    def channel_names(self) -> list[str]:
        """Channel names in channel order."""
        return channel_names_of(self.dataset_json)

    @cached_property
    def case_files(self) -> dict[str, dict[str, Any]]:
        """For every case the image files in channel order and the label file (``images``, ``label``)."""
        if "dataset" in self.dataset_json:
            return get_filenames_of_train_images_and_targets(str(self.raw), read_json(self.raw / "dataset.json"))
        return _scan_case_folder(self.raw, self.dataset_json["file_ending"])

    @cached_property
    def real_case_ids(self) -> list[str]:
        """Sorted ids of the real cases, without any synthetic case we ever added."""
        synthetic = set(self.dataset_json.get("sbldm", {}).get("synthetic_cases", ()))
        return sorted(c for c in self.case_files if c not in synthetic)

    def plans_hash(self) -> str:
        """Hash of all that decides how a raw case becomes a preprocessed one in this configuration."""
        return preprocessing_hash(self.plans, self.config)


def channel_names_of(dataset_json: dict[str, Any]) -> list[str]:
    """Channel names in channel order; older files call them modalities."""
    names = dataset_json.get("channel_names") or dataset_json["modality"]
    return [names[k] for k in sorted(names, key=int)]


def preprocessing_hash(plans: PlansManager, config: ConfigurationManager) -> str:
    """Hash of all that decides how a raw case becomes a preprocessed one: equal in configurations that share their data."""
    keys = (
        "spacing",
        "normalization_schemes",
        "use_mask_for_norm",
        "preprocessor_name",
        "resampling_fn_data",
        "resampling_fn_data_kwargs",
        "resampling_fn_seg",
        "resampling_fn_seg_kwargs",
    )
    return sha256_of_json(
        {
            "transpose_forward": list(plans.transpose_forward),
            "intensities": plans.foreground_intensity_properties_per_channel,
            **{k: config.configuration.get(k) for k in keys},
        }
    )


def _scan_case_folder(raw: Path, ending: str) -> dict[str, dict[str, Any]]:
    """As nnU-Net's own listing, which starts a pool of twelve processes to list one folder."""
    images: dict[str, list[str]] = {}
    for path in sorted((raw / "imagesTr").glob(f"[!.]*{ending}")):  # macOS leaves ._ files beside the images it copies
        images.setdefault(path.name[: -len(ending) - 5], []).append(str(path))
    return {c: {"images": files, "label": str(raw / "labelsTr" / f"{c}{ending}")} for c, files in images.items()}


def open_dataset(dataset_id: str, plans_name: str = DEFAULT_PLANS, configuration: str = DEFAULT_CONFIGURATION) -> NnunetDataset:
    """Open a planned and preprocessed dataset, or say what is missing and which command makes it.

    Raises:
        UserError: variables unset, unknown dataset, not planned, not preprocessed, too few cases.
    """
    dataset = _planned(dataset_name(dataset_id), plans_name, configuration)
    name = dataset.name
    _refuse_flat_images(dataset)
    if configuration not in dataset.plans.available_configurations:
        raise UserError(
            f"The plans {plans_name} of {name} have no configuration {configuration}; "
            f"they have {', '.join(dataset.plans.available_configurations)}."
        )
    if not dataset.data_folder.is_dir():
        raise UserError(
            f"{name} is not preprocessed for {configuration}: run {preprocessing_command(name, plans_name, configuration)}."
        )
    if len(dataset.config.spacing) != 3:
        raise UserError(f"{name} is planned for {configuration}, which is two-dimensional; SBLDM needs a 3-D configuration.")
    return dataset


def planned_views(name: str) -> Iterator[NnunetDataset]:
    """A dataset through every configuration of all its plans, preprocessed or not.

    Raises:
        UserError: no raw dataset, or no plans.
    """
    contents = {f.stem: read_json(f) for f in sorted((nnunet_folder("nnUNet_preprocessed") / name).glob("*.json"))}
    plans_names = [n for n, content in contents.items() if isinstance(content, dict) and "configurations" in content]
    for plans_name in plans_names or [DEFAULT_PLANS]:
        dataset = _planned(name, plans_name, DEFAULT_CONFIGURATION)
        yield from (replace(dataset, configuration=c) for c in dataset.plans.available_configurations)


def _planned(name: str, plans_name: str, configuration: str) -> NnunetDataset:
    raw, preprocessed = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    if not (raw / "dataset.json").is_file():
        raise UserError(f"{raw / 'dataset.json'} is missing: there is no raw dataset {name}.")
    if not (preprocessed / f"{plans_name}.json").is_file():
        raise UserError(f"{name} has no plans {plans_name}: run {planning_command(name, plans_name, configuration)}.")
    return NnunetDataset(name, raw, preprocessed, read_json(raw / "dataset.json"), plans_name, configuration)


def _refuse_flat_images(dataset: NnunetDataset) -> None:
    """Natural images and single slices: nnU-Net plans a volume of one slice for them, and no 3-D configuration."""
    if min(dataset.plans.original_median_shape_after_transp) <= 1:
        raise UserError(
            f"{dataset.name} has two-dimensional images ({dataset.dataset_json['file_ending']}, read by "
            f"{dataset.reader.__name__}); SBLDM needs a dataset of 3-D volumes."
        )
