"""A case made again from its record, voxel for voxel."""

import json
import shutil

import pytest
from expansion_commands import (
    FAST,
    expand,
)

from nnunet_sbldm.cli.regenerate import regenerate_entry
from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry


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
