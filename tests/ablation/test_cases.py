"""What a study remembers of its cases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_fixtures import ARMS

from nnunet_sbldm.ablation.cases import CaseGroup, CaseRecord, record_cases, recorded_cases, refuse_content_leaks
from nnunet_sbldm.ablation.split import SourceDataset, Split, open_source_dataset, split_cases
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.types import Case, Geometry, UserError


def test_a_renamed_copy_of_a_test_case_is_a_leak(study_of, raw, tmp_path):
    study = study_of(test_cases=["phantom_000"], num_cases=[9])
    source = open_source_dataset(study, tmp_path)
    split = split_cases(study, source)
    refuse_content_leaks(study, split, record_cases(study, source, split, tmp_path / "clean"))
    copied = replace(source, case_files={**source.case_files, "phantom_005": source.case_files["phantom_000"]})
    with pytest.raises(UserError, match="1 test case.s. are copies of training cases: phantom_000"):
        refuse_content_leaks(study, split, record_cases(study, copied, split, tmp_path / "leaking"))


def record_of_box(folder: Path, foreground: float, around: float, lesion: int) -> CaseRecord:
    """Record of a case with a box of ``foreground`` in ``around``, labelled ``lesion``, and voxels to ignore beside it."""
    dataset = folder / "Dataset901_Box"
    image, label = np.full((2, 8, 12, 12), around, np.float32), np.zeros((8, 12, 12), np.int16)
    image[0, :, 8:], label[:, 8:] = 9, 2  # nothing of what is ignored counts
    image[0, 3:5, 3:5, 3:5], label[3:5, 3:5, 3:5] = foreground, lesion
    image[1] = np.arange(12) + 1.0  # as bright inside as around, in the second channel
    files = [dataset / "imagesTr" / f"box_000{c}.nii.gz" for c in (0, 1)]
    write_case(Case("box", image, label, Geometry((2.0, 1.0, 1.0))), files, dataset / "labelsTr" / "box.nii.gz")
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    source = SourceDataset(dataset, {"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "a", "1": "b"}},
                           {"box": {"images": list(map(str, files)), "label": str(dataset / "labelsTr" / "box.nii.gz")}}, {})
    record = record_cases(Study("901", (2,), ARMS[:1], 1), source, Split(("box",), {0: ()}, {"box": "box"}), folder)["box"]
    assert recorded_cases(folder)["box"] == record
    return record


@pytest.mark.parametrize(("foreground", "around", "auc"), [(2.0, 1.0, 1.0), (1.0, 2.0, 0.0), (2.0, 2.0, 0.5)])
def test_brightness_of_the_foreground_is_told_by_channel_and_without_ignored_voxels(tmp_path, foreground, around, auc):
    record = record_of_box(tmp_path, foreground, around, lesion=1)
    assert record.foreground_ml == pytest.approx(8 * 2 / 1000)
    assert record.brightness_auc[0] == auc
    assert record.brightness_auc[1] == pytest.approx(0.5, abs=0.15)


def test_a_case_without_foreground_has_no_brightness(tmp_path):
    record = record_of_box(tmp_path, 2.0, 1.0, lesion=0)
    assert record.foreground_ml == 0
    assert record.brightness_auc == (None, None)
    group = CaseGroup("test cases", {"box": record})
    assert group.volumes_ml() == group.aucs(0) == group.aucs(1) == []


def test_a_study_without_records_of_its_cases_says_what_makes_them(tmp_path):
    with pytest.raises(UserError, match=r"cases.json is missing: sbldm_ablation run makes it"):
        recorded_cases(tmp_path)
