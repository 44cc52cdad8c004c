"""Surface distances of predictions."""


import numpy as np
import pytest

from nnunet_sbldm.ablation.surface_distances import measure_folder, surface_distances
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.types import Case, Geometry


def test_surface_distances_do_not_look_at_ignored_voxels(tmp_path):
    pytest.importorskip("monai")
    reference, prediction = np.zeros((8, 16, 16), np.int16), np.zeros((8, 16, 16), np.int16)
    reference[2:6, 2:6, 2:6] = prediction[2:6, 2:6, 2:6] = 1
    reference[:, 10:], prediction[2:6, 11:15, 2:6] = 2, 1
    for folder, label in (("labels", reference), ("predictions", prediction)):
        case = Case("a", np.ones((1, *label.shape), np.float32), label, Geometry((1.0, 1.0, 1.0)))
        write_case(case, [tmp_path / "unused" / "a_0000.nii.gz"], tmp_path / folder / "a.nii.gz")
    write_json(tmp_path / "predictions" / "dataset.json", {
        "labels": {"background": 0, "lesion": 1, "ignore": 2}, "channel_names": {"0": "a"}, "file_ending": ".nii.gz"})
    write_json(tmp_path / "predictions" / "plans.json", {"plans_name": "nnUNetPlans"})
    found = read_json(measure_folder(tmp_path / "labels", tmp_path / "predictions", 1.0))
    assert found == {"a": {"1": {"NSD": 1.0, "HD95": 0.0}}}


def test_surface_distances_of_a_shifted_box():
    pytest.importorskip("monai")

    box, shifted, empty = (np.zeros((12, 20, 20), bool) for _ in range(3))
    box[3:9, 5:15, 5:15] = True
    shifted[3:9, 7:17, 5:15] = True
    same = surface_distances(box, box, (2.0, 1.0, 1.0), 1.0)
    assert same == {"NSD": 1.0, "HD95": 0.0}
    moved = surface_distances(box, shifted, (2.0, 1.5, 1.0), 1.0)
    assert moved["HD95"] == pytest.approx(3.0)
    assert 0.5 < moved["NSD"] < 1
    assert surface_distances(box, empty, (1.0, 1.0, 1.0), 1.0) == {"NSD": 0.0, "HD95": None}
    assert surface_distances(empty, empty, (1.0, 1.0, 1.0), 1.0) == {"NSD": 1.0, "HD95": None}
