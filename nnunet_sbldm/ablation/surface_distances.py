"""Surface distances of predictions, where a dataset's spacing is real: NSD and HD95 by MONAI.

``python -m nnunet_sbldm.ablation.surface_distances LABELS PREDICTIONS -tolerance_mm 1`` writes ``PREDICTIONS/surface.json``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import read_json, write_json

SURFACE_FILE, SUMMARY_FILE = "surface.json", "summary.json"


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float) -> Any:
    """NSD and HD95 of one structure; without it on one side NSD is 0, on both 1, and there is no distance: HD95 is None.

    Args:
        reference: [Z, Y, X], boolean.
        prediction: likewise.
        spacing_mm: voxel size along (Z, Y, X).
        tolerance_mm: distance up to which surfaces count as equal.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if not reference.any() or not prediction.any():
        return {"NSD": 0.0 if reference.any() or prediction.any() else 1.0, "HD95": None}
    true, found = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (reference, prediction))
    nsd = compute_surface_dice(found, true, [tolerance_mm], include_background=True, spacing=list(spacing_mm))
    hd95 = compute_hausdorff_distance(found, true, include_background=True, percentile=95, spacing=list(spacing_mm))
    return {"NSD": float(nsd), "HD95": float(hd95) if math.isfinite(hd95) else None}


def measure_folder(labels: Path, predictions: Path, tolerance_mm: float) -> Path:
    """Measure every structure of every predicted case.

    Args:
        labels: folder of reference segmentations.
        predictions: folder with the predictions, nnU-Net's ``dataset.json`` and ``plans.json``.
        tolerance_mm: tolerance of the NSD.

    Returns:
        The JSON file: case -> label or region, as nnU-Net writes it -> ``NSD``, ``HD95``.
    """
    from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key, region_or_label_to_mask
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset_json = read_json(predictions / "dataset.json")
    manager = PlansManager(str(predictions / "plans.json")).get_label_manager(dataset_json)
    structures = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    ending, result = dataset_json["file_ending"], {}
    for file in sorted(predictions.glob(f"*{ending}")):
        reader = determine_reader_writer_from_dataset_json(dataset_json, str(file), verbose=False)()
        reference, properties = reader.read_seg(str(labels / file.name))
        prediction, _ = reader.read_seg(str(file))
        if manager.has_ignore_label:
            prediction = np.where(reference == manager.ignore_label, manager.ignore_label, prediction)
        result[file.name[: -len(ending)]] = {
            label_or_region_to_key(s): surface_distances(
                region_or_label_to_mask(reference[0], s), region_or_label_to_mask(prediction[0], s), properties["spacing"],
                tolerance_mm)
            for s in structures}
    write_json(predictions / SURFACE_FILE, result)
    return predictions / SURFACE_FILE


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("-tolerance_mm", type=float, default=1.0)
    args = parser.parse_args(argv)
    print(measure_folder(args.labels, args.predictions, args.tolerance_mm))


if __name__ == "__main__":
    main()
