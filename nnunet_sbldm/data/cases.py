"""One case of a dataset: read raw, read preprocessed, or put through nnU-Net's own preprocessing."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from nnunet_sbldm.common.files import temporary_folder
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.formats import geometry_of
from nnunet_sbldm.data.paths import preprocessing_command
from nnunet_sbldm.types import Case, FloatArray, LabelArray, UserError

WHOLE_TOLERANCE = 1e-3
"""Labels may be larger than a whole number by so much, and not smaller: floating-point numbers, and how nnU-Net reads them."""
PREPROCESSED_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


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
    return Case(case_id, image.astype(np.float32), whole_labels(label[0], case_id, dataset.name), geometry_of(properties))


def whole_labels(label: np.ndarray, case_id: str, name: str) -> LabelArray:
    """Label values [Z, Y, X] as whole numbers, as nnU-Net takes them: it cuts off what stands behind the point.

    Raises:
        UserError: nnU-Net would take some values for the next smaller label, such as 0.99999 for background.
    """
    whole = np.trunc(label)
    off = np.abs(label - whole) > WHOLE_TOLERANCE
    if off.any():
        raise UserError(
            f"The mask of case {case_id} of {name} has values that are no whole numbers ({label[off].flat[0]:.6g}), which "
            f"nnU-Net takes for {whole[off].flat[0]:.0f}: round the mask, then preprocess again."
        )
    return whole.astype(np.int16)


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
            f"by an older nnU-Net: run {preprocessing_command(dataset.name, dataset.plans_name, dataset.configuration)}."
        )


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
