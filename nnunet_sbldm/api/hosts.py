"""What is edited: real cases of a dataset, or one case given by hand as arrays or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.cases import WHOLE_TOLERANCE, is_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.data.fingerprints import known_case_ids
from nnunet_sbldm.data.folds import names_of
from nnunet_sbldm.data.formats import Reader, geometry_of
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.maker import EditedCases
from nnunet_sbldm.generator.checkpoint import SBLDMModel, has_its_plans
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.types import Case, Geometry, UserError

HAND = "by_hand"
"""Name of a case given by hand, and of its dataset and plans."""
LOW, HIGH = 0.5, 99.5
"""Percentiles of the intensities inside the anatomy that are matched with those of the training cases."""
Image = np.ndarray | Case | str | Path | Sequence[str | Path]


def dataset_of(model: SBLDMModel, dataset: int | str | None, plans: str | None) -> NnunetDataset:
    """A dataset in the configuration of a model; by default the one that the model was trained on.

    Args:
        model: the model.
        dataset: id or name.
        plans: plans identifier; by default the model's.
    """
    plan = model.plan
    name = plan.dataset_name if dataset is None else str(dataset)
    return open_dataset(name, plans or plan.plans_name, plan.configuration)


def training_dataset(model: SBLDMModel) -> NnunetDataset | None:
    """The dataset that a model was trained on, if it is on this machine, preprocessed with the plans of that time; else None."""
    try:
        dataset = dataset_of(model, None, None)
    except UserError:  # nnU-Net's folders are not set, or it is not there
        return None
    seen = names_of(model.seen, known_case_ids(dataset))
    return dataset if has_its_plans(model, dataset) and all(is_preprocessed(dataset, c) for c in seen) else None


# --- a case given by hand ------------------------------------------------------------------------------------------


def image_as_host(
    model: SBLDMModel,
    image: Image,
    mask: np.ndarray | str | Path | None,
    spacing_mm: Sequence[float] | None,
    kinds: Sequence[str] | None,
) -> EditedCases:
    """A case given by hand as the only host, measured.

    It takes the way of a dataset's cases, at the model's spacing. Its brightness is matched with that of the training cases: in
    each channel the percentiles 0.5 and 99.5 inside the anatomy.

    Args:
        model: the model.
        image: see :func:`case_by_hand`, and so are the next two.
        mask: likewise.
        spacing_mm: likewise.
        kinds: what may be done; None is all but removing, and only adding where there is no lesion.

    Raises:
        UserError: unreadable, or other channels, labels or orientation than the model's.
    """
    case = case_by_hand(model.plan, image, mask, spacing_mm)
    default = EditSettings.kinds if (case.label > 0).any() else ("add",)
    editing = EditSettings((HAND,), tuple(kinds or default), mirror=False)
    _refuse_unsuited(model.plan, case)
    folder = model.folder
    dataset_json = read_json(folder / "dataset.json")
    spacing_mm = model.plan.grid.spacing_mm
    view = _CaseByHand(HAND, folder, folder, dataset_json, HAND, HAND, spacing_mm, case=case, generator_plan=model.plan)
    hosts = EditedCases(model, view, editing)
    hosts.real = replace(hosts.real, min_depth_mm=0.0)  # how deep one lesion lies says little of all others
    return hosts


@dataclass(frozen=True)
class _CaseByHand(NnunetDataset):
    """A dataset of one case, which is in memory; its plans are as far as preprocessing asks for them."""

    case: Case | None = None
    generator_plan: GeneratorPlan | None = None

    @cached_property
    def plans(self) -> PlansManager:
        """Plans that scale the case as the model expects it."""
        case, plan = self.case, self.generator_plan
        assert case is not None
        assert plan is not None
        return PlansManager(_plans_of(case, plan))

    @property
    def reader(self) -> Reader:
        """A reader that gives the case, whatever it is asked for."""
        assert self.case is not None
        return _reader_of(self.case)

    @cached_property
    def case_files(self) -> dict[str, dict[str, Any]]:
        """The case, which has no files."""
        return {HAND: {"images": [], "label": ""}}


def _plans_of(case: Case, plan: GeneratorPlan) -> dict[str, Any]:
    """Plans with nnU-Net's own steps; its CT scheme is the one whose scaling the plans decide, and not the case alone."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": HAND,
        "architecture": {},  # its absence marks plans of an older nnU-Net
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": list(plan.grid.spacing_mm),
        "normalization_schemes": ["CTNormalization"] * len(case.image),
        "use_mask_for_norm": [False] * len(case.image),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
    }
    return {
        "plans_name": HAND,
        "label_manager": "LabelManager",
        "transpose_forward": list(plan.grid.transpose_forward),
        "foreground_intensity_properties_per_channel": _intensities(case, plan),
        "configurations": {HAND: configuration},
    }


def _intensities(case: Case, plan: GeneratorPlan) -> dict[str, dict[str, float]]:
    """Per channel the mean and spread by which the case's percentiles become the training cases'; nothing is clipped."""
    found, inside = {}, (case.image != 0).any(axis=0)
    for c, (channel, offset, scale) in enumerate(zip(case.image, plan.intensity.offset, plan.intensity.scale, strict=True)):
        low, high = np.percentile(channel[inside], (LOW, HIGH))
        if low == high:
            raise UserError(f"Channel {plan.channel_names[c]} of the image is constant in the anatomy; it cannot be a host.")
        std = float(high - low) / (2 * scale)
        found[str(c)] = {
            "mean": float(low) - std * (offset - scale),
            "std": std,
            "percentile_00_5": float(channel.min()),
            "percentile_99_5": float(channel.max()),
        }
    return found


def _reader_of(case: Case) -> Reader:
    geometry = case.geometry
    stuff = {"spacing": geometry.spacing_mm[::-1], "origin": geometry.origin_mm, "direction": geometry.direction}
    properties = {"spacing": list(geometry.spacing_mm), "sitk_stuff": stuff}

    class Held(BaseReaderWriter):
        """nnU-Net's interface to files, for a case that is in memory."""

        supported_file_endings: list[str] = []

        def read_images(self, image_fnames: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return case.image.copy(), properties

        def read_seg(self, seg_fname: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return case.label[None].astype(np.float32), properties

        def write_seg(self, seg: np.ndarray, output_fname: str, properties: dict[str, Any]) -> None:
            raise NotImplementedError

    return Held


def _refuse_unsuited(plan: GeneratorPlan, case: Case) -> None:
    if len(case.image) != len(plan.channel_names):
        raise UserError(
            f"The image has {len(case.image)} channel(s); the SBLDM was trained on {', '.join(plan.channel_names)}."
        )
    if not np.isfinite(case.image).all():
        raise UserError("The image has NaN or infinite voxels; repair it.")
    if not case.image.any():
        raise UserError("The image is empty: all of its voxels are 0.")
    known = {*plan.encoding.values, plan.encoding.ignore_label}
    unknown = sorted(set(np.unique(case.label).tolist()) - known)
    if unknown:
        values = ", ".join(str(v) for v in plan.encoding.values if v >= 0)
        raise UserError(f"The mask has the label(s) {unknown}; the SBLDM was trained on {values}.")
    own, wanted = _orientation(case.geometry), _orientation(plan.template)
    if own != wanted:
        raise UserError(f"The image is oriented {own}, the training cases {wanted}: reorient it (SimpleITK.DICOMOrient).")


def _orientation(geometry: Geometry) -> str:
    """Where the axes x, y, z of the file point to, such as ``LPS``."""
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines([float(d) for d in geometry.direction]))


# --- reading it ----------------------------------------------------------------------------------------------------


def case_by_hand(
    plan: GeneratorPlan, image: Image, mask: np.ndarray | str | Path | None, spacing_mm: Sequence[float] | None
) -> Case:
    """A case from arrays or files.

    Args:
        plan: of the model; arrays are taken to lie as its training cases do.
        image: a case; an array [Z, Y, X] or [C, Z, Y, X], exactly 0 outside the anatomy; or files, one per channel.
        mask: label map [Z, Y, X] or its file; None is healthy everywhere.
        spacing_mm: voxel size along (Z, Y, X) of an array.

    Raises:
        UserError: unreadable, other geometries, or a spacing that is missing or superfluous.
    """
    if isinstance(image, Case):
        if mask is not None or spacing_mm is not None:
            raise UserError("A Case has its own label map and spacing: leave out mask and spacing_mm.")
        return replace(image, case_id=HAND)
    if isinstance(image, np.ndarray):
        if spacing_mm is None:
            raise UserError("An image given as an array needs spacing_mm, its voxel size along (Z, Y, X).")
        z, y, x = (float(s) for s in spacing_mm)
        array, geometry = image if image.ndim == 4 else image[None], replace(plan.template, spacing_mm=(z, y, x))
    else:
        if spacing_mm is not None:
            raise UserError("Files have their own voxel size: leave out spacing_mm.")
        files = [image] if isinstance(image, str | Path) else list(image)
        array, properties = _read(files)
        geometry = geometry_of(properties)
    label = np.zeros(array.shape[1:]) if mask is None else _label(mask, geometry)
    if not np.allclose(label, np.rint(label), atol=WHOLE_TOLERANCE):
        raise UserError("The mask has values that are no whole numbers; round it.")
    return Case(HAND, array.astype(np.float32), np.rint(label).astype(np.int16), geometry)


def _label(mask: np.ndarray | str | Path, geometry: Geometry) -> np.ndarray:
    if isinstance(mask, np.ndarray):
        return mask
    array, properties = _read([mask])
    if not np.allclose(properties["spacing"], geometry.spacing_mm, rtol=1e-3):
        raise UserError(f"{mask} has another voxel size than the image; resample the mask onto the image.")
    return array[0]


def _read(files: Sequence[str | Path]) -> tuple[np.ndarray, dict[str, Any]]:
    missing = [str(f) for f in files if not Path(f).is_file()]
    if missing:
        raise UserError(f"{missing[0]} is not a file.")
    try:
        return SimpleITKIO().read_images([str(f) for f in files])
    except RuntimeError as e:
        reason = " ".join(str(e).split()) or "its channels differ in geometry"
        raise UserError(f"{files[0]} cannot be read: {reason}") from e
