"""Pools of edits: hosts are named, each edit can be made again, the fold rule holds through hosts."""

import shutil

import pytest

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import guard_split
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion.places import pool_folder
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.expansion.regenerate import regenerate
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.generator.requests import ExpansionRequest
from nnunet_sbldm.types import UserError


def expand(generator, *options):
    expand_entry(["-d", "900", "-f", "0", "-m", str(generator.folder), "-n", "2", "-steps", "2", "-device", "cpu",
                      "--no_gate", "-mode", "edit", *options])


def test_a_pool_of_edits_names_its_hosts_and_each_can_be_made_again(generator, phantom, phantom_dataset, capsys):
    expand(generator, "--pool", "-kind", "replace", "add", "remove", "-deformation", "3")
    folder = pool_folder(phantom_dataset.preprocessed, phantom_dataset.config.data_identifier, 0)
    index = SyntheticIndex.load(folder)
    train, _ = fold_cases(phantom_dataset, 0)
    record = read_json(folder / "provenance" / "sbldm_f0_0000.json")
    assert record["edit"]["host"] in train
    assert record["edit"]["dataset"] == "Dataset900_Phantom"
    assert set(index.cases) == {"sbldm_f0_0000", "sbldm_f0_0001"}
    for case_id in index.cases:
        assert "identical, voxel for voxel" in regenerate("900", case_id, "cpu")
    before = read_json(folder / "provenance" / "sbldm_f0_0001.json")
    expand(generator, "--pool", "-kind", "replace", "add", "remove", "-deformation", "3")
    assert read_json(folder / "provenance" / "sbldm_f0_0001.json") == before  # nothing was made again
    expand(generator, "--pool", "-kind", "remove")
    assert read_json(folder / "provenance" / "sbldm_f0_0001.json")["edit"]["kind"] == "remove"


def test_an_edit_is_not_made_again_without_its_host_or_with_a_changed_one(generator, phantom, phantom_dataset):
    expand(generator, "--pool", "-hosts", "phantom_001", "-kind", "replace")
    files = phantom_dataset.case_files["phantom_001"]["images"]
    shutil.copy(phantom_dataset.case_files["phantom_002"]["images"][0], files[0])
    with pytest.raises(UserError, match="made by editing phantom_001 of Dataset900_Phantom, whose voxels have changed since"):
        regenerate("900", "sbldm_f0_0000", "cpu")
    import os

    os.remove(files[0])
    with pytest.raises(UserError, match="made by editing phantom_001 of Dataset900_Phantom, which is no longer there"):
        regenerate("900", "sbldm_f0_0000", "cpu")


def test_a_foreign_generators_edits_inherit_their_hosts_under_the_fold_rule(generator, phantom_dataset):
    foreign = generator.folder.parent / "foreign"
    shutil.copytree(generator.folder, foreign)
    strangers = [{"case_id": f"elsewhere_{i}", "image_hashes": [f"{i:064x}"], "label_hash": ""} for i in range(8)]
    write_json(foreign / "training_cases.json", strangers)
    (job,) = plan_jobs(phantom_dataset, [0], ExpansionRequest(num_cases=2), foreign, editing=EditSettings(()))
    train, val = fold_cases(phantom_dataset, 0)
    assert {c.case_id for c in job.model.seen} == {*train, *(s["case_id"] for s in strangers)}
    (other,) = plan_jobs(phantom_dataset, [1], ExpansionRequest(num_cases=2), foreign, editing=EditSettings(()))
    assert job.source != other.source  # each fold's hosts are registered on their own
    fingerprints = fingerprints_of(phantom_dataset, [*train, *val])
    guard_split([*train, "s"], val, {"s": job.model.seen}, fingerprints, 0)
    with pytest.raises(UserError, match="leak"):
        guard_split([*train, "s"], val, {"s": other.model.seen}, fingerprints, 0)
