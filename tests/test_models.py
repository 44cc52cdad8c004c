"""Models by name: one resolver for every command, and the models that are installed with the package."""

import re
import shutil
from pathlib import Path

import pytest
from command_line import refused
from phantom_fixtures import hash_tree

import nnunet_sbldm
from nnunet_sbldm.cli import blinded_montage as edit_commands
from nnunet_sbldm.cli import models as model_commands
from nnunet_sbldm.cli.evaluate import evaluate_entry
from nnunet_sbldm.cli.regenerate import regenerate_entry
from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.dataset_conversion import expand_dataset as expand_command
from nnunet_sbldm.generator import zoo as known_models
from nnunet_sbldm.generator.card import NOT_STATED, is_non_commercial, read_card
from nnunet_sbldm.generator.checkpoint import hash_of, load_model
from nnunet_sbldm.generator.sharing import MEMBERS, Sharing, export_model, unpack_model
from nnunet_sbldm.generator.zoo import BUNDLED, find_model, name_of
from nnunet_sbldm.generator.zoo import known_models as models
from nnunet_sbldm.types import UserError

MAX_BYTES = 20 * 2**20
ALWAYS_SALTED = "a model that is shared must not list its cases readably"


@pytest.fixture
def bundled(generator, tmp_path, monkeypatch):
    """A stand-in for a bundled model, made as bundled models are made; no variable of nnU-Net is set."""
    home = tmp_path / "installed"
    home.mkdir()
    statements = {"title": "Phantom heads", "licence": "CC BY-NC-SA 4.0", "data": "made-up heads"}
    export_model(generator, tmp_path / "phantom.zip", Sharing(statements, half=True))
    unpack_model(tmp_path / "phantom.zip", home / "phantom_t1")
    monkeypatch.setattr(known_models, "BUNDLED", home)
    monkeypatch.setattr(model_commands, "BUNDLED", home)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name)
    return home / "phantom_t1"


def check_shared_model(folder):
    """What is asked of every model that is installed with the package."""
    assert {p.name for p in folder.iterdir()} == set(MEMBERS)
    assert sum(p.stat().st_size for p in folder.iterdir()) <= MAX_BYTES
    generator, card = load_model(folder), read_card(folder)
    assert card.licence != NOT_STATED
    assert card.licence in (folder / "README.md").read_text()
    assert is_non_commercial(card) == ("Non-commercial" in (folder / "README.md").read_text())
    assert generator.seen
    assert all(c.salt and re.fullmatch("[0-9a-f]{64}", c.case_id) for c in generator.seen), ALWAYS_SALTED
    assert card.num_training_cases == len(generator.seen)
    for name, entry in read_json(folder / "MANIFEST")["files"].items():
        assert (folder / name).stat().st_size == entry["bytes"]


@pytest.mark.parametrize("name", sorted(p.name for p in BUNDLED.glob("*") if p.is_dir()))
def test_bundled_models_load_are_small_and_say_what_they_may_be_used_for(name):
    check_shared_model(BUNDLED / name)


def test_a_model_made_like_the_bundled_ones_passes_the_same_check(bundled):
    check_shared_model(bundled)


def test_a_newcomer_samples_by_name_without_any_setting_or_dataset(bundled, tmp_path, capsys):
    before = hash_tree(bundled)
    sample_entry(["-m", "phantom_t1", "-o", str(tmp_path / "out"), "-n", "2", "-steps", "2", "-device", "cpu",
                  "--no_gate"])
    out = capsys.readouterr().out
    assert "Phantom heads: licence CC BY-NC-SA 4.0, non-commercial use only" in out
    assert str(tmp_path / "out" / "montage.png") in out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    cases = {f"sbldm_0000{i}{end}" for i in (0, 1) for end in ("_0000.nii.gz", "_0001.nii.gz", ".nii.gz", ".json")}
    assert names == {*cases, "montage.png", "samples.json"}
    assert hash_tree(bundled) == before


def test_the_list_says_what_each_model_makes(bundled, capsys):
    model_commands.models_entry([])
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "licence", "channels"]
    assert re.match(r"phantom_t1 +CC BY-NC-SA 4.0 \(non-commercial\) +FLAIR, T1 +tumour +112x128x60 +4x4x6 +8", row)
    model_commands.models_entry(["-m", "phantom_t1"])
    assert "# Phantom heads" in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(bundled, tmp_path, capsys):
    message = refused(capsys, sample_entry, "-m", "fantom_t1", "-o", tmp_path / "out")
    assert message == (
        "error: There is no SBLDM fantom_t1: a model is given by its folder, or by a name among phantom_t1 (nearest: phantom_t1)."
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        (sample_entry, "-o", "x"),
        (evaluate_entry,),
        (evaluate_entry, "-mode", "edit"),
        (edit_commands.blinded_montage_entry, "-o", "x"),
        (expand_command.expand_entry, "-d", "900", "--pool", "-f", "0"),
        (regenerate_entry, "900", "case"),
        (train_entry, "-d", "900", "-f", "0", "-init"),
        (model_commands.models_entry,),
        (model_commands.export_entry, "-o", "x.zip"),
    ],
    ids=lambda c: f"{c[0].__name__}{'_edit' if 'edit' in c else ''}",
)
def test_every_command_that_takes_a_model_takes_a_name(phantom, command, capsys):
    entry, *options = command
    option = [] if "-init" in options else ["-m"]
    assert "There is no SBLDM nobody" in refused(capsys, entry, *options, *option, "nobody")


def test_a_folder_stands_for_the_only_generator_in_it(generator, tmp_path):
    home = generator.folder.parent
    relative = generator.folder.relative_to(home.parents[1])
    assert {find_model(m) for m in (generator.folder, str(home), str(relative), relative.parent)} == {generator.folder.resolve()}
    shutil.copytree(generator.folder, home / "fold_1")
    assert find_model(home, 1) == (home / "fold_1").resolve()
    with pytest.raises(UserError, match=r"holds 2 SBLDMs \(fold_0, fold_1\): name the folder of one"):
        find_model(home)
    with pytest.raises(UserError, match="There is no finished SBLDM in"):
        find_model(tmp_path)


def test_models_have_short_names(tmp_path):
    trained = tmp_path / "Dataset004_Hippocampus" / "SBLDM__nnUNetPlans__small" / "fold_all"
    names = [name_of(p) for p in (trained, BUNDLED / "glioma_flair", tmp_path / "my model (2)", Path("/fold_0"))]
    assert names == ["Dataset004_Hippocampus_fall", "glioma_flair", "my-model-2-", "_f0"]


def test_imported_models_are_known_and_bundled_ones_come_first(bundled, tmp_path, monkeypatch):
    results = tmp_path / "elsewhere"
    for name in ("phantom_t1", "a_hospital"):
        shutil.copytree(bundled, results / "SBLDM_models" / name)
    assert list(models()) == ["phantom_t1"]
    monkeypatch.setenv("nnUNet_results", str(results))
    assert list(models().items()) == [("phantom_t1", bundled), ("a_hospital", results / "SBLDM_models" / "a_hospital")]


def test_a_shared_model_stays_as_it_came(bundled, phantom, monkeypatch, capsys):
    for name, value in phantom.environment().items():
        monkeypatch.setenv(name, value)
    assert "say with -o where to write" in refused(capsys, evaluate_entry, "-m", "phantom_t1", "-n", "2", "-device", "cpu")


def test_a_salted_model_knows_its_own_cases_in_the_users_copy(bundled, phantom, phantom_dataset, monkeypatch, tmp_path, capsys):
    """The fold rule, the evaluation and the search for copies work as with the generator that lists its cases."""
    for name, value in phantom.environment().items():
        monkeypatch.setenv(name, value)
    before, options = hash_tree(bundled), ("-m", "phantom_t1", "-steps", "2", "-device", "cpu")
    expand = ("-d", "900", "--pool", "-n", "1", "--no_gate", *options)
    message = refused(capsys, expand_command.expand_entry, *expand, "-f", "1")
    assert re.search(r"trained on 2 of this fold's validation cases: \w+ \(same case id\), \w+ \(same case id\)\.", message)
    expand_command.expand_entry([*expand, "-f", "0"])
    pool = next(phantom_dataset.preprocessed.glob("sbldm/*/fold_0"))
    (record,) = (read_json(f) for f in (pool / "provenance").glob("*.json"))
    assert record["generator_hash"] == hash_of(bundled)
    assert record["nearest_real_case"]["case_id"] in phantom_dataset.real_case_ids
    regenerate_entry(["900", record["case_id"], "-device", "cpu"])
    assert "identical, voxel for voxel" in capsys.readouterr().out
    evaluate_entry([*options, "-n", "2", "--no_gate", "-o", str(tmp_path / "evaluation")])
    assert len(read_json(tmp_path / "evaluation" / "evaluation.json")["training_cases"]) == 8
    assert hash_tree(bundled) == before


def test_models_are_found_wherever_the_package_is_installed():
    assert Path(nnunet_sbldm.__file__).parent / "models" == BUNDLED
