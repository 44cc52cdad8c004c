"""A case made again from its record, voxel for voxel."""

import json
import shutil
from dataclasses import replace

import pytest
from expansion_commands import (
    FAST,
    QUICK,
    expand,
    judge_by_seed,
    records,
)
from phantom_fixtures import hash_tree

from nnunet_sbldm.cli.regenerate import regenerate_entry
from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion import production
from nnunet_sbldm.expansion.ledger import ExpansionJob
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.expansion.pool import fill_pool
from nnunet_sbldm.expansion.regenerate import regenerate
from nnunet_sbldm.generator.requests import ExpansionRequest, plan_requests
from nnunet_sbldm.types import UserError


@pytest.mark.quick
@pytest.mark.parametrize("where", [["--pool"], ["-o", "904"], ["--in_place"]])
def test_a_case_is_made_again_voxel_for_voxel(phantom, generator, capsys, tmp_path, where):
    expand(*where, "-n", "2", "-seed", "11")
    capsys.readouterr()
    dataset = "904" if "-o" in where else "900"
    regenerate_entry([dataset, "sbldm_f0_0001", "-device", "cpu", "-o", str(tmp_path / "again")])
    assert "identical, voxel for voxel" in capsys.readouterr().out
    assert (tmp_path / "again" / "sbldm_f0_0001_0001.nii.gz").is_file()


def test_a_case_made_with_other_plans_is_made_again_with_them(phantom, generator, phantom_dataset, capsys):
    """Beside the usual plans, and without them."""
    usual = phantom_dataset.preprocessed / "nnUNetPlans.json"
    write_json(usual.with_name("MyPlans.json"), json.loads(usual.read_text().replace("nnUNetPlans", "MyPlans")))
    phantom_dataset.data_folder.rename(phantom_dataset.preprocessed / "MyPlans_3d_fullres")
    options = ["-d", "900", "-f", "0", "-p", "MyPlans", "-m", str(generator.folder), *FAST[4:], "-n", "1"]
    expand_entry([*options, "--pool"])
    expand_entry([*options, "-o", "904"])
    expand_entry([*options, "-o", "905", "-mode", "edit", "-kind", "remove"])
    capsys.readouterr()
    for keep_usual in (True, False):
        if not keep_usual:
            usual.unlink()
        for dataset in ("900", "904", "905"):
            regenerate_entry([dataset, "sbldm_f0_0000", "-device", "cpu"])
            assert "identical, voxel for voxel" in capsys.readouterr().out
    usual.with_name("MyPlans.json").unlink()
    with pytest.raises(SystemExit) as e:
        regenerate_entry(["900", "sbldm_f0_0000", "-device", "cpu"])
    assert e.value.code == 2
    assert "Dataset900_Phantom has no plans nnUNetPlans" in capsys.readouterr().err


def test_regeneration_finds_a_moved_generator_and_says_when_it_is_gone(phantom, generator, capsys):
    expand("--pool", "-n", "1")
    generator.folder.rename(generator.folder.with_name("fold_9"))
    regenerate_entry(["900", "sbldm_f0_0000", "-device", "cpu"])
    assert "identical" in capsys.readouterr().out
    shutil.rmtree(generator.folder.with_name("fold_9"))
    with pytest.raises(SystemExit):
        regenerate_entry(["900", "sbldm_f0_0000", "-device", "cpu"])
    assert f"The SBLDM {generator.hash} that made this case is neither" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        regenerate_entry(["900", "sbldm_f0_0007", "-device", "cpu"])
    assert "has no synthetic case sbldm_f0_0007" in capsys.readouterr().err


def test_cases_of_the_first_record_format_are_kept_and_can_be_made_again(generator, phantom_dataset, destination, monkeypatch):
    wanted = ExpansionRequest(num_cases=4, size_range_ml=(4.0, 60.0), seed=3)
    job = ExpansionJob(0, generator, tuple(plan_requests(generator.plan, 0, 8, wanted, set())))
    distances = []
    monkeypatch.setattr(production, "judge", judge_by_seed(lambda d: distances.append(d) or len(distances) > 4))
    settings = replace(QUICK, sampler=replace(QUICK.sampler, max_corrections=0))
    fill_pool(phantom_dataset, [replace(job, requests=tuple(r.with_streams(1) for r in job.requests))], ["3d_fullres"], settings)
    made = records(destination)
    assert [(r["format"], r["attempt"]) for r in made.values()] == [(1, 1)] * 4
    before = hash_tree(phantom_dataset.preprocessed)
    tally = production.produce(job, phantom_dataset, settings, destination)
    assert (tally.attempts, tally.accepted) == (0, 4)
    fill_pool(phantom_dataset, [job], ["3d_fullres"], settings)
    assert hash_tree(phantom_dataset.preprocessed) == before
    assert all("identical, voxel for voxel" in regenerate("900", case_id, "cpu") for case_id in made)
    write_json(destination.record_folders[0] / "sbldm_f0_0000.json", {**made["sbldm_f0_0000"], "format": 3})
    with pytest.raises(UserError, match="has format 3; this version reads 1 to 2: update"):
        regenerate("900", "sbldm_f0_0000", "cpu")


def test_signs_of_file_patterns_in_a_case_id_stand_for_themselves(phantom_dataset, generator, capsys):
    write_json(expansion_folder(phantom_dataset.preprocessed) / "nnUNetPlans_3d_fullres/fold_0/provenance/sbldm_f0_0000.json", {})
    with pytest.raises(SystemExit) as e:
        regenerate_entry(["900", "sbldm_f0_*", "-device", "cpu"])
    assert e.value.code == 2
    assert "Dataset900_Phantom has no synthetic case sbldm_f0_*" in capsys.readouterr().err
