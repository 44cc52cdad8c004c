"""Who is tested, and who is trained on."""

from pathlib import Path

import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.ablation.split import SourceDataset, Subset, open_source_dataset, split_cases
from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.types import UserError


@given(st.integers(0, 50), st.integers(2, 5), st.integers(1, 4))
def test_subsets_are_nested_and_no_patient_is_on_both_sides(seed, scans, num_test):
    cases = [f"case_{i:02d}" for i in range(20)]
    groups = {c: f"patient_{i // scans}" for i, c in enumerate(cases)}
    split = split_with(groups, seed, num_test)
    tested = {groups[c] for c in split.test}
    assert len(split.test) >= num_test
    for order in split.order.values():
        assert sorted({*order, *split.test}) == cases
        assert not {groups[c] for c in order} & tested
    small, large = (set(split.training(Subset(n, 1, 0))) for n in (2, 5))
    assert small < large
    assert split_with(groups, seed, num_test) == split


def split_with(groups, seed, num_test):
    """The split of a dataset that consists of ids alone."""
    import tempfile

    from nnunet_sbldm.ablation.arms import Arm
    from nnunet_sbldm.ablation.study import Study

    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "groups.json", groups)
        study = Study("1", (2, 5), (Arm("real_only", "real_only"),), num_test, (0, 1), split_seed=seed,
                      groups=f"{folder}/groups.json")
        return split_cases(study, SourceDataset(Path("Dataset001_X"), {}, {c: {} for c in groups}, {}))


def test_too_few_cases_and_unknown_ones(study_of, raw, tmp_path):
    source = open_source_dataset(study_of(), tmp_path)
    for content, message in (({"num_cases": 8}, "has 7 case.s. besides 3 test case.s.; the study asks for 8"),
                             ({"arms": ["real_only", {"oracle": {"num_cases": 9}}]}, "asks for 9"),
                             ({"num_cases": 7, "folds": [0, 1]}, "7 are all of them, the same in each of 2 folds"),
                             ({"test_cases": ["nobody"]}, "test_cases names nobody"),
                             ({"test_cases": "imagesTs"}, "holds no case")):
        with pytest.raises(UserError, match=message):
            split_cases(study_of(**content), open_source_dataset(study_of(**content), tmp_path))
    groups = {c: "one" if c in ("phantom_000", "phantom_001") else c for c in source.case_files}
    write_json(tmp_path / "groups.json", groups)
    with pytest.raises(UserError, match="hold only some scans of one"):
        split_cases(study_of(groups="groups.json", test_cases=["phantom_000"]), source)


def test_a_dataset_without_a_title_is_found_by_its_number_and_hidden_files_are_no_cases(study_of, raw, tmp_path):
    cases = set(open_source_dataset(study_of(), tmp_path).case_files)
    (raw / "imagesTr" / "._phantom_000_0000.nii.gz").write_bytes(b"left by macOS")
    source = open_source_dataset(study_of(dataset=900), tmp_path)
    assert (source.folder.name, set(source.case_files)) == (raw.name, cases)
    untitled = raw.rename(raw.with_name("Dataset900"))
    assert open_source_dataset(study_of(dataset=900), tmp_path).folder == untitled


def test_a_mask_that_nnunet_would_misread_is_refused(study_of, raw, tmp_path):
    source = open_source_dataset(study_of(), tmp_path)
    label = sitk.ReadImage(source.files("phantom_000")["label"])
    sitk.WriteImage(sitk.Cast(label, sitk.sitkFloat32) * 0.99999, source.files("phantom_000")["label"])
    with pytest.raises(UserError, match=r"phantom_000 of Dataset900_\w+ has values that are no whole numbers"):
        source.read("phantom_000")


def test_patients_of_imagests_are_not_trained_on(study_of, raw, tmp_path):
    for part in ("images", "labels"):
        (raw / f"{part}Ts").mkdir(exist_ok=True)
        for file in (raw / f"{part}Tr").glob("phantom_000*"):
            file.rename(raw / f"{part}Ts" / file.name)
    groups = {f"phantom_{i:03d}": "P0" if i < 2 else f"P{i}" for i in range(10)}
    study = study_of(test_cases="imagesTs", groups="groups.json")
    write_json(tmp_path / "groups.json", groups)
    with pytest.raises(UserError, match="hold only some scans of P0"):
        split_cases(study, open_source_dataset(study, tmp_path))
    write_json(tmp_path / "groups.json", {**groups, "phantom_001": "P1"})
    split = split_cases(study, open_source_dataset(study, tmp_path))
    assert split.test == ("phantom_000",)
    assert len(split.order[0]) == 9
    del groups["phantom_000"]
    for bad, message in ((groups, "gives no patient for phantom_000"), ({**groups, "phantom_000": 7}, "must be a text"),
                         ([1], "must hold an object")):
        write_json(tmp_path / "groups.json", bad)
        with pytest.raises(UserError, match=message):
            split_cases(study, open_source_dataset(study, tmp_path))
