"""What we ask of nnU-Net: folders, plans, splits, readers, and its preprocessing of one case.

Everything nnU-Net can do is left to nnU-Net; facts it relies on are checked here, once, with a clear sentence.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_sbldm.common.files import read_json, sha256_of_array, sha256_of_json, size_and_time, temporary_folder, write_json
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.formats import Reader, geometry_of
from nnunet_sbldm.data.groups import group_of, remembered_groups
from nnunet_sbldm.types import Case, FloatArray, LabelArray, UserError

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
DEFAULT_PLANS = "nnUNetPlans"
DEFAULT_CONFIGURATION = "3d_fullres"
PREPROCESSED_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
NUM_CROSS_VALIDATION_FOLDS = 5

Fold = int | str
"""A fold number, or ``"all"``."""


def nnunet_folder(variable: str) -> Path:
    """The folder an nnU-Net environment variable names; it must be set and exist."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(
            f"The environment variable {variable} is not set: export {', '.join(FOLDERS)} as for nnU-Net "
            "(see its documentation/setting_up_paths.md)."
        )
    if not Path(value).is_dir():
        raise UserError(f"{variable} points to {value}, which is not a folder.")
    return Path(value)


def parse_fold(text: str) -> Fold:
    """``"all"`` or a non-negative integer, as in nnU-Net."""
    if text == "all":
        return text
    if not text.isdigit():
        raise UserError(f"A fold is a number from 0, or all; got {text!r}.")
    return int(text)


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
    for path in sorted((raw / "imagesTr").glob(f"*{ending}")):
        images.setdefault(path.name[: -len(ending) - 5], []).append(str(path))
    return {c: {"images": files, "label": str(raw / "labelsTr" / f"{c}{ending}")} for c, files in images.items()}


def dataset_name(dataset_id: str) -> str:
    """Full name of a dataset given by number or by name."""
    for variable in FOLDERS:
        nnunet_folder(variable)
    if dataset_id.startswith("Dataset"):
        return dataset_id
    if not dataset_id.isdigit():
        raise UserError(f"A dataset is given by its number or as DatasetXXX_Name; got {dataset_id!r}.")
    names = list(find_candidate_datasets(int(dataset_id)))
    if len(names) != 1:
        found = f"several: {', '.join(names)}" if names else "none"
        raise UserError(
            f"Expected one dataset with the id {dataset_id} in nnUNet_raw ({nnunet_folder('nnUNet_raw')}), "
            f"nnUNet_preprocessed and nnUNet_results; found {found}."
        )
    return str(names[0])


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
        raise UserError(f"{name} is not preprocessed for {configuration}: {_remedy(name, configuration)}.")
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
        raise UserError(f"{name} has no plans {plans_name}: {_remedy(name, configuration)}.")
    return NnunetDataset(name, raw, preprocessed, read_json(raw / "dataset.json"), plans_name, configuration)


def _remedy(name: str, configuration: str) -> str:
    return f"run nnUNetv2_plan_and_preprocess -d {int(name[7:10])} -c {configuration}"


def _refuse_flat_images(dataset: NnunetDataset) -> None:
    """Natural images and single slices: nnU-Net plans a volume of one slice for them, and no 3-D configuration."""
    if min(dataset.plans.original_median_shape_after_transp) <= 1:
        raise UserError(
            f"{dataset.name} has two-dimensional images ({dataset.dataset_json['file_ending']}, read by "
            f"{dataset.reader.__name__}); SBLDM needs a dataset of 3-D volumes."
        )


# --- splits --------------------------------------------------------------------------------------------------------


def splits_of(dataset: NnunetDataset) -> list[dict[str, list[str]]]:
    """The cross-validation splits over real cases; made and kept exactly as nnU-Net would if there are none yet."""
    path = dataset.preprocessed / "splits_final.json"
    if not path.is_file():
        ids = dataset.real_case_ids
        if len(ids) < NUM_CROSS_VALIDATION_FOLDS:
            raise UserError(
                f"{dataset.name} has {len(ids)} case(s) and no splits_final.json: "
                f"nnU-Net needs at least {NUM_CROSS_VALIDATION_FOLDS} cases to make its splits."
            )
        splits = generate_crossval_split(ids, seed=12345, n_splits=NUM_CROSS_VALIDATION_FOLDS)
        write_json(path, [{k: [str(c) for c in v] for k, v in s.items()} for s in splits])
    real, splits = set(dataset.real_case_ids), read_json(path)
    try:
        return [{k: [c for c in s[k] if c in real] for k in ("train", "val")} for s in splits]
    except (TypeError, KeyError):
        raise UserError(f"{path} is no list of splits, each with the case ids of train and of val; correct it.") from None


def fold_cases(dataset: NnunetDataset, fold: Fold) -> tuple[list[str], list[str]]:
    """Real training and validation cases of a fold; for ``"all"`` every case trains and none validates."""
    if fold == "all":
        return list(dataset.real_case_ids), []
    splits = splits_of(dataset)
    if not isinstance(fold, int) or fold >= len(splits):
        raise UserError(f"Fold {fold} is not in splits_final.json of {dataset.name}, which has folds 0 to {len(splits) - 1}.")
    return splits[fold]["train"], splits[fold]["val"]


# --- cases ---------------------------------------------------------------------------------------------------------


def read_written_case(
    dataset: NnunetDataset, case: Case, image_files: Sequence[Path], label_file: Path
) -> tuple[Case, dict[str, Any]]:
    """Read files that were written for the dataset with its own reader: the case and what the reader says of it."""
    reader = dataset.reader()
    image, properties = reader.read_images([str(f) for f in image_files])
    label, _ = reader.read_seg(str(label_file))
    return Case(case.case_id, image, label[0].astype(np.int16), geometry_of(properties)), properties


def read_case(dataset: NnunetDataset, case_id: str) -> Case:
    """Read a raw case, all channels, with nnU-Net's own reader.

    Raises:
        UserError: unreadable, NaN or infinite values, image and mask of different geometry.
    """
    files = dataset.case_files[case_id]
    reader = dataset.reader()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the reader prints what it also raises
            image, properties = reader.read_images(files["images"])
            label, label_properties = reader.read_seg(files["label"])
    except Exception as e:  # every reader raises errors of its own libraries
        reason = " ".join(str(e).split()) or "its channels differ in geometry"
        raise UserError(f"Case {case_id} of {dataset.name} cannot be read: {reason}") from e
    if image.shape[1:] != label.shape[1:] or not np.allclose(properties["spacing"], label_properties["spacing"], rtol=1e-3):
        raise UserError(
            f"Case {case_id} of {dataset.name}: image {image.shape[1:]} at {_mm(properties)} mm and mask {label.shape[1:]} "
            f"at {_mm(label_properties)} mm differ in geometry; resample the mask onto the image."
        )
    if not np.isfinite(image).all():
        raise UserError(f"Case {case_id} of {dataset.name} has NaN or infinite voxels; repair or remove it.")
    return Case(case_id, image.astype(np.float32), label[0].astype(np.int16), geometry_of(properties))


def _mm(properties: dict[str, Any]) -> str:
    return " x ".join(f"{s:.4g}" for s in properties["spacing"])


def is_preprocessed(dataset: NnunetDataset, case_id: str) -> bool:
    """Whether nnU-Net has preprocessed a case for this configuration, in the format that it writes today."""
    return all((dataset.data_folder / f"{case_id}{ending}").is_file() for ending in PREPROCESSED_ENDINGS)


def refuse_not_preprocessed(dataset: NnunetDataset, case_ids: Iterable[str]) -> None:
    """Raise a :class:`UserError` that names the first of these cases that nnU-Net has not preprocessed."""
    missing = [c for c in case_ids if not is_preprocessed(dataset, c)]
    if missing:
        raise UserError(
            f"{len(missing)} real case(s) of {dataset.name} ({missing[0]}) are not preprocessed for {dataset.configuration}, or "
            f"by an older nnU-Net: run nnUNetv2_preprocess -d {int(dataset.name[7:10])} -plans_name {dataset.plans_name} "
            f"-c {dataset.configuration}."
        )


def known_case_ids(dataset: NnunetDataset) -> list[str]:
    """Ids of all cases of a dataset, those with raw files and those that are preprocessed alone."""
    return sorted({*dataset.case_files, *(f.stem for f in dataset.data_folder.glob("*.pkl"))})


def load_preprocessed(dataset: NnunetDataset, case_id: str) -> tuple[FloatArray, LabelArray]:
    """nnU-Net's preprocessed arrays of a case: image [C, D, H, W] and label [D, H, W] with ``OUTSIDE`` marks."""
    refuse_not_preprocessed(dataset, [case_id])
    return load_arrays(dataset.data_folder, case_id)


def load_arrays(folder: Path, case_id: str) -> tuple[FloatArray, LabelArray]:
    """Arrays of a case in any folder of nnU-Net's preprocessed files."""
    data, seg, _, _ = nnUNetDatasetBlosc2(str(folder), [case_id]).load_case(case_id)
    return np.asarray(data[:], dtype=np.float32), np.asarray(seg[:], dtype=np.int16)[0]


def preprocess_case(dataset: NnunetDataset, case: Case, target: Path, reader_properties: dict[str, Any] | None = None) -> None:
    """Preprocess one case with nnU-Net's own preprocessor and save it as nnU-Net does.

    Args:
        dataset: plans and configuration that real cases went through.
        case: the case, raw intensities.
        target: folder/CASE without ending; ``.b2nd``, ``_seg.b2nd`` and ``.pkl`` are written, the last one last.
        reader_properties: what nnU-Net's reader said of the case's files; without files the geometry is enough to train.

    Raises:
        OSError: the disk is full.
    """
    cm = dataset.config
    properties = dict(reader_properties or {"spacing": list(case.geometry.spacing_mm)})
    label = case.label[None].astype(np.float32)  # an unsigned label map overflows at nnU-Net's -1
    preprocessor = cm.preprocessor_class(verbose=False)
    data, seg, properties = preprocessor.run_case_npy(case.image, label, properties, dataset.plans, cm, dataset.dataset_json)
    data, seg = data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
    blocks, chunks = comp_blosc2_params(data.shape, tuple(cm.patch_size), data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, tuple(cm.patch_size), seg.itemsize)
    with temporary_folder(target.parent) as tmp:
        try:
            nnUNetDatasetBlosc2.save_case(
                data,
                seg,
                properties,
                str(tmp / target.name),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=chunks_seg,
                blocks_seg=blocks_seg,
            )
        except RuntimeError:  # all that blosc2 says of a full disk
            (tmp / "probe").write_bytes(bytes(data.nbytes + seg.nbytes))
            raise
        for ending in PREPROCESSED_ENDINGS:
            os.replace(tmp / f"{target.name}{ending}", target.parent / f"{target.name}{ending}")


# --- content hashes ------------------------------------------------------------------------------------------------


def fingerprint_of(case: Case) -> CaseFingerprint:
    """Content hashes of a raw case."""
    images = tuple(sha256_of_array(c) for c in case.image if c.min() != c.max())
    label = sha256_of_array(case.label) if (case.label > 0).any() else ""
    return CaseFingerprint(case.case_id, images, label)


def fingerprints_of(dataset: NnunetDataset, case_ids: Iterable[str]) -> dict[str, CaseFingerprint]:
    """Content hashes of real cases, remembered beside the preprocessed data while the raw files stay as they are.

    Their patients are those last given with ``-groups``; they are not part of what is remembered of the content.
    """
    groups = remembered_groups(dataset.preprocessed)
    cache_file = dataset.preprocessed / "sbldm" / "content_hashes.json"
    cache = read_json(cache_file) if cache_file.is_file() else {}
    found, changed = {}, False
    for case_id in case_ids:
        stamp = _stamp(dataset, case_id)
        entry = cache.get(case_id)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, **fingerprint_of(read_case(dataset, case_id)).to_json()}
            cache[case_id], changed = entry, True
        found[case_id] = replace(CaseFingerprint.from_json(entry), group=group_of(case_id, groups, dataset.name))
    if changed:
        write_json(cache_file, cache)
    return found


def remembered_fingerprints(preprocessed: Path) -> dict[str, CaseFingerprint]:
    """Content hashes and patients that earlier commands stored beside preprocessed data (empty if none did)."""
    groups = remembered_groups(preprocessed)
    cache_file = preprocessed / "sbldm" / "content_hashes.json"
    cache = read_json(cache_file) if cache_file.is_file() else {}
    by_group = {case_id: CaseFingerprint(case_id, group=group) for case_id, group in groups.items()}
    by_content = {c: replace(CaseFingerprint.from_json(entry), group=groups.get(c, "")) for c, entry in cache.items()}
    return by_group | by_content


def _stamp(dataset: NnunetDataset, case_id: str) -> list[list[int]]:
    files = dataset.case_files[case_id]
    try:
        return [list(size_and_time(f)) for f in [*files["images"], files["label"]]]
    except FileNotFoundError as e:
        raise UserError(f"Case {case_id} of {dataset.name} has no {e.filename}; put that file back.") from None
