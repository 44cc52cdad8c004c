"""In place and back: interrupted anywhere, undone byte for byte."""

import json
import shutil

import pytest
from expansion_commands import (
    FAST,
    die,
    expand,
    refused,
    tree_of,
    undo,
)
from nnunet_fixtures import make_trainer
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion import destinations
from nnunet_sbldm.expansion import in_place as installation
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.types import UserError


def test_in_place_without_the_preprocessed_dataset_json_is_refused(phantom_dataset, generator, capsys):
    before = hash_tree(phantom_dataset.raw)
    (phantom_dataset.preprocessed / "dataset.json").unlink()
    assert "run nnUNetv2_plan_and_preprocess -d 900 again" in refused(capsys, "--in_place", "-n", "1")
    assert hash_tree(phantom_dataset.raw) == before


@pytest.mark.parametrize("options", [[], ["--dry_run"]])
def test_in_place_is_refused_where_other_configurations_would_lack_the_synthetic_cases(
    phantom_dataset, generator, capsys, options
):
    shutil.copytree(phantom_dataset.data_folder, phantom_dataset.preprocessed / "nnUNetPlans_2d")
    before = hash_tree(phantom_dataset.raw)
    message = refused(capsys, "--in_place", "-n", "1", *options)
    assert "also preprocessed in nnUNetPlans_2d, where --in_place would leave splits" in message
    assert hash_tree(phantom_dataset.raw) == before


@pytest.mark.quick
def test_in_place_trains_where_it_may_and_is_undone_byte_for_byte(phantom, phantom_dataset):
    raw, preprocessed = phantom_dataset.raw, phantom_dataset.preprocessed
    fold_cases(phantom_dataset, 0)
    expand("--pool", "-n", "1")  # so that hashes of the real cases are remembered before
    before = hash_tree(raw), hash_tree(preprocessed)
    expand("--in_place", "-n", "2")
    expanded = open_dataset("900")
    synthetic = ["sbldm_f0_0000", "sbldm_f0_0001"]
    assert expanded.real_case_ids == phantom_dataset.real_case_ids
    assert set(expanded.case_files) == {*phantom_dataset.case_files, *synthetic}
    splits = read_json(preprocessed / "splits_final.json")
    assert [[c for c in synthetic if c in s["train"]] for s in splits] == [synthetic, [], [], [], []]
    assert not any(set(synthetic) & set(s["val"]) for s in splits)
    assert read_json(preprocessed / "dataset.json")["numTraining"] == 12
    for case_id in synthetic:
        assert (preprocessed / "gt_segmentations" / f"{case_id}.nii.gz").is_file()
    expand("--in_place", "-n", "2")  # again: nothing changes
    expand_entry(["-d", "900", "--undo"])
    assert (hash_tree(raw), hash_tree(preprocessed)) == before


def test_an_interrupted_in_place_expansion_never_validates_and_can_be_finished_or_undone(in_place, monkeypatch):
    before = tree_of(in_place)
    with monkeypatch.context() as m:
        m.setattr(installation, "install_in_place", die)
        with pytest.raises(RuntimeError):
            expand("--in_place", "-n", "2")
    assert open_dataset("900").real_case_ids == in_place.real_case_ids
    for fold in ("all", 7):
        with pytest.raises(UserError, match="in-place expansion of Dataset900_Phantom is not finished"):
            make_trainer(nnUNetTrainerSBLDM, in_place, fold, "3d_fullres").do_split()
    expand("--in_place", "-n", "2")
    assert open_dataset("900").dataset_json["numTraining"] == 12
    assert not [c for c in make_trainer(nnUNetTrainerSBLDM, in_place, "all", "3d_fullres").do_split()[1] if "sbldm" in c]
    undo()
    with monkeypatch.context() as m:
        m.setattr(installation, "install_in_place", die)
        with pytest.raises(RuntimeError):
            expand("--in_place", "-n", "2")
    undo()
    assert tree_of(in_place) == before


def test_beginning_in_place_may_be_interrupted_anywhere(in_place, monkeypatch):
    before, write = tree_of(in_place), installation.write_json
    monkeypatch.setattr(installation, "install_in_place", die)
    for forbidden in ("manifest.json", in_place.raw / "dataset.json", in_place.preprocessed / "dataset.json"):
        with monkeypatch.context() as m:
            m.setattr(installation, "write_json", lambda p, v, f=forbidden: die() if f in (p, p.name) else write(p, v))
            with pytest.raises(RuntimeError):
                expand("--in_place", "-n", "1")
    with pytest.raises(RuntimeError):
        expand("--in_place", "-n", "1")
    assert open_dataset("900").real_case_ids == in_place.real_case_ids
    assert all("sbldm" in read_json(folder / "dataset.json") for folder in (in_place.raw, in_place.preprocessed))
    undo()
    assert tree_of(in_place) == before


def test_parts_that_begin_together_keep_one_backup_of_the_untouched_dataset(in_place, monkeypatch):
    before, copy, parts = tree_of(in_place), installation.copy_file, ["1"]

    def copy_late(source, target):
        if parts:  # the other part begins and makes its cases meanwhile
            expand("--in_place", "-n", "2", "-num_parts", "2", "-part_id", parts.pop())
        copy(source, target)

    monkeypatch.setattr(installation, "copy_file", copy_late)
    expand("--in_place", "-n", "2", "-num_parts", "2", "-part_id", "0")
    assert open_dataset("900").dataset_json["numTraining"] == 12
    undo()
    assert tree_of(in_place) == before


def test_undo_works_where_the_folders_were_moved(in_place, phantom, tmp_path, monkeypatch):
    before = hash_tree(phantom.raw), hash_tree(phantom.preprocessed)
    expand("--in_place", "-n", "1")
    for name in ("raw", "preprocessed"):
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / f"moved_{name}"))
    undo()
    assert (hash_tree(tmp_path / "moved_raw"), hash_tree(tmp_path / "moved_preprocessed")) == before
    assert not (tmp_path / "raw").exists()


def test_undo_changes_nothing_where_it_cannot_restore_everything(in_place, phantom, capsys):
    expand("--in_place", "-n", "1")
    expanded = hash_tree(in_place.raw)
    in_place.preprocessed.rename(phantom.preprocessed / "elsewhere")
    assert "set nnUNet_preprocessed to where it is" in refused(capsys, "--undo")
    (phantom.preprocessed / "elsewhere").rename(in_place.preprocessed)
    manifest = in_place.raw / "sbldm_in_place" / "manifest.json"
    content = read_json(manifest)
    for name in (str(in_place.raw / "dataset.json"), "raw/../dataset.json"):
        write_json(manifest, content | {"changed": [name]})
        assert "which is not in the folders of Dataset900_Phantom" in refused(capsys, "--undo")
    write_json(manifest, content)
    assert hash_tree(in_place.raw) == expanded
    shutil.rmtree(manifest.parent / "backup" / "preprocessed")
    assert "is gone; nothing was undone" in refused(capsys, "--undo")
    assert (in_place.raw / "labelsTr" / "sbldm_f0_0000.nii.gz").is_file()


@pytest.mark.quick
def test_an_interrupted_undo_is_finished_before_anything_else(in_place, monkeypatch, capsys):
    before = tree_of(in_place)
    expand("--in_place", "-n", "2")
    with monkeypatch.context() as m:
        m.setattr(installation, "copy_file", die)
        with pytest.raises(RuntimeError):
            undo()
    assert "run sbldm_expand_dataset -d 900 --undo again first" in refused(capsys, "--in_place", "-n", "2")
    undo()
    assert tree_of(in_place) == before
    expand("--in_place", "-n", "2")
    assert open_dataset("900").dataset_json["numTraining"] == 12


def test_undo_leaves_a_folder_that_others_use_by_now(in_place, capsys):
    """Real files lie elsewhere, so that the expansion has to create the folders of raw files."""
    listed = {c: {"images": files["images"], "label": files["label"]} for c, files in in_place.case_files.items()}
    text = json.dumps({**in_place.dataset_json, "dataset": listed}).replace("imagesTr", "images").replace("labelsTr", "labels")
    (in_place.raw / "imagesTr").rename(in_place.raw / "images")
    (in_place.raw / "labelsTr").rename(in_place.raw / "labels")
    (in_place.raw / "dataset.json").write_text(text)
    before = tree_of(in_place)
    expand("--in_place", "-n", "1")
    (in_place.raw / "imagesTr" / "notes.txt").write_text("mine")
    capsys.readouterr()
    undo()
    assert f"{in_place.raw / 'imagesTr'} was made for synthetic cases, but stays" in capsys.readouterr().err
    assert not (in_place.raw / "labelsTr").exists()
    (in_place.raw / "imagesTr" / "notes.txt").unlink()
    assert tree_of(in_place) == before


def test_a_part_stops_when_its_expansion_is_taken_back_and_leaves_nothing(in_place, monkeypatch, capsys):
    before, write, written = tree_of(in_place), destinations.write_case, []

    def write_late(case, *arguments):
        written.append(case.case_id)
        if len(written) == 2:
            undo()
        write(case, *arguments)

    monkeypatch.setattr(destinations, "write_case", write_late)
    assert "the expansion was taken back while this part of it was running" in refused(capsys, "--in_place", "-n", "3")
    assert written == ["sbldm_f0_0000", "sbldm_f0_0001"]
    assert tree_of(in_place) == before


def test_a_second_in_place_request_and_fold_all_are_refused(phantom, generator, capsys):
    expand("--in_place", "-n", "1")
    with pytest.raises(SystemExit):
        expand("--in_place", "-n", "2")
    assert "already expanded in place by another request" in capsys.readouterr().err
    expand_entry(["-d", "900", "--undo"])
    with pytest.raises(SystemExit):
        expand("--in_place", "-n", "1", "-f", "all", "-m", str(generator.folder))
    assert "--in_place cannot serve fold all" in capsys.readouterr().err


def test_a_dataset_with_synthetic_cases_of_its_own_is_not_expanded_in_place(phantom, generator, capsys):
    expand("-o", "904", "-n", "1")
    folders = [home / "Dataset904_PhantomSBLDM" for home in (phantom.raw, phantom.preprocessed)]
    before = [{k for k in hash_tree(folder) if "content_hashes" not in k} for folder in folders]
    with pytest.raises(SystemExit):
        expand_entry(["-d", "904", "-f", "0", *FAST, "-m", str(generator.folder), "--in_place", "-n", "2"])
    assert "Dataset904_PhantomSBLDM already holds synthetic cases" in capsys.readouterr().err
    assert [{k for k in hash_tree(folder) if "content_hashes" not in k} for folder in folders] == before
