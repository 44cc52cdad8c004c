"""A model in one file: what gets in is what was sent, and nothing else gets in."""

import json
import re
import shutil
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from command_line import refused
from phantom_fixtures import hash_tree
from safetensors.torch import load_file, save_file

from nnunet_sbldm.cli import models as model_commands
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import find_leaks
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.generator import sharing as model_sharing
from nnunet_sbldm.generator.card import read_card
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.sharing import MEMBERS, Sharing, export_model, import_model
from nnunet_sbldm.types import UserError

PLAIN = Sharing({})


@pytest.fixture(scope="session")
def exported(phantom_folders, tmp_path_factory):
    """A generator that was exported once."""
    (folder,) = phantom_folders.results.glob("Dataset900_Phantom/SBLDM__nnUNetPlans__nano/fold_0")
    file = tmp_path_factory.mktemp("exported") / "hospital_a.zip"
    export_model(load_model(folder), file, PLAIN)
    return file


@pytest.fixture
def shared(exported, tmp_path):
    """A copy of it that may be changed."""
    return Path(shutil.copy(exported, tmp_path))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of nnU-Net's results."""
    folder = tmp_path / "receiver"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_results", str(folder))
    return folder


def members(file):
    with zipfile.ZipFile(file) as archive:
        return {n: archive.read(n) for n in archive.namelist()}


def write(file, content):
    """A zip of pairs of name and bytes; a name may come twice."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            archive.writestr(name, data)
    return file


def changed(file, name, data, manifest=None):
    """The same zip with one member changed, and a manifest that says so."""
    content = {**members(file), name: data}
    content["MANIFEST"] = json.loads(content["MANIFEST"])
    content["MANIFEST"]["files"][name] = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    content["MANIFEST"] = json.dumps({**content["MANIFEST"], **(manifest or {})}).encode()
    return write(file, content.items())


def refusal(file, results):
    before = hash_tree(results)
    with pytest.raises(UserError) as e:
        import_model(file)
    assert "Traceback" not in str(e.value)
    assert str(results) not in str(e.value).replace(str(file), "")
    assert hash_tree(results) == before
    assert [p for p in results.glob("SBLDM_models/*") if p.is_dir()] == []
    return str(e.value)


def test_what_was_exported_is_imported_and_importing_it_again_changes_nothing(shared, generator, phantom):
    folder, is_new = import_model(shared)
    assert (folder, is_new) == (phantom.results / "SBLDM_models" / "hospital_a", True)
    assert {p.name for p in folder.iterdir()} == set(MEMBERS)
    loaded = load_model(folder)
    assert loaded.plan == generator.plan
    for mine, theirs in ((generator.autoencoder, loaded.autoencoder), (generator.denoiser, loaded.denoiser)):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())
    before = hash_tree(phantom.results)
    assert import_model(shared) == (folder, False)
    assert hash_tree(phantom.results) == before


def test_the_same_model_is_the_same_file_and_another_model_takes_no_name_that_is_taken(shared, generator, tmp_path):
    export_model(generator, tmp_path / "again.zip", PLAIN)
    assert (tmp_path / "again.zip").read_bytes() == shared.read_bytes()
    import_model(shared)
    for other in (Sharing({}, half=True), Sharing({"licence": "another"})):  # other weights, another card
        export_model(generator, shared, other)
        with pytest.raises(UserError, match="There is another SBLDM named hospital_a .* another name with -name"):
            import_model(shared)
    assert import_model(shared, "hospital_a2")[1]


def test_half_precision_halves_the_file_and_rounds_the_weights(shared, generator, tmp_path):
    export_model(generator, tmp_path / "half.zip", Sharing({}, half=True))
    sizes = [sum(len(v) for k, v in members(f).items() if k.endswith(".safetensors")) for f in (tmp_path / "half.zip", shared)]
    assert sizes[0] < 0.65 * sizes[1]
    rounded = load_model(import_model(tmp_path / "half.zip")[0]).denoiser.state_dict()
    for name, value in generator.denoiser.state_dict().items():
        torch.testing.assert_close(rounded[name], value, rtol=1e-3, atol=1e-7)
        assert rounded[name].dtype == torch.float32
    weights = generator.folder / "denoiser.safetensors"
    save_file({k: v * 1e9 for k, v in load_file(weights).items()}, weights)
    with pytest.raises(UserError, match="too large for fp16; export without --fp16"):
        export_model(generator, tmp_path / "half.zip", Sharing({}, half=True))


def test_no_id_of_a_case_no_path_and_no_list_of_files_is_in_a_shared_model(generator, phantom, phantom_dataset, tmp_path):
    dataset_json = read_json(generator.folder / "dataset.json")
    listed = [{"image": f"./imagesTr/{c}.nii.gz"} for c in phantom_dataset.real_case_ids]
    write_json(generator.folder / "dataset.json", {**dataset_json, "training": listed, "description": "heads"})
    export_model(generator, tmp_path / "m.zip", PLAIN)
    everything = b"".join(members(tmp_path / "m.zip").values())
    assert [c for c in phantom_dataset.real_case_ids if c.encode() in everything] == []
    assert str(phantom.results).encode() not in everything
    export_model(generator, tmp_path / "m.zip", replace(PLAIN, plain_ids=True))
    assert load_model(import_model(tmp_path / "m.zip")[0]).seen == generator.seen


def test_the_fold_rule_holds_for_a_shared_model(shared, generator, phantom_dataset):
    seen = load_model(import_model(shared)[0]).seen
    train, val = (fingerprints_of(phantom_dataset, ids) for ids in fold_cases(phantom_dataset, 0))
    assert find_leaks(seen, val.values()) == []
    renamed = [replace(c, case_id=f"renamed_{i}") for i, c in enumerate(train.values())]
    for copies, reason in ((train.values(), "case id"), (renamed, "image content")):
        assert [leak.reason for leak in find_leaks(seen, copies)] == [reason] * len(train)


def test_a_model_can_be_passed_on_and_keeps_what_its_first_owner_said(shared, results, tmp_path):
    folder, _ = import_model(shared)
    export_model(load_model(folder), tmp_path / "on.zip", Sharing({"licence": "CC BY 4.0"}))
    passed_on = import_model(tmp_path / "on.zip")[0]
    assert load_model(passed_on).seen == load_model(folder).seen
    assert replace(read_card(passed_on), licence="") == replace(read_card(folder), licence="")
    assert read_card(passed_on).licence == "CC BY 4.0"


# --- what is refused -----------------------------------------------------------------------------------------------


def test_what_is_no_zip_is_refused(shared, results, tmp_path):
    content = shared.read_bytes()
    assert "is not a file" in refusal(tmp_path / "none.zip", results)
    assert "is not a file" in refusal(tmp_path, results)
    shared.write_bytes(b"PK no zip")
    assert "is no zip file, or a damaged one" in refusal(shared, results)
    shared.write_bytes(content[: len(content) // 2])
    assert "is no zip file, or a damaged one" in refusal(shared, results)
    shared.write_bytes(content[:2000] + b"\0" * 100 + content[2100:])
    assert "damaged" in refusal(shared, results)
    directory = content.index(b"PK\x01\x02")
    shared.write_bytes(content[: directory + 6] + b"\xff" + content[directory + 7 :])  # packed by a program of the future
    assert "is no zip file, or a damaged one" in refusal(shared, results)


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil", "\\evil", "models/../.."])
def test_paths_that_lead_elsewhere_are_refused(shared, results, name):
    write(shared, [*members(shared).items(), (name, b"evil")])
    assert "leads out of the folder" in refusal(shared, results)


@pytest.mark.parametrize("name", ["evil.py", "weights.pkl", "sub/card.json", "card.json/", "Card.json"])
def test_members_that_are_no_part_of_a_model_are_refused(shared, results, name):
    write(shared, [*members(shared).items(), (name, b"")])
    assert "which is no part of a model" in refusal(shared, results)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_must_be_there_once_and_be_what_the_manifest_says(shared, results, name):
    content = members(shared)
    write(shared, [(k, v) for k, v in content.items() if k != name])
    assert f"{name} is missing" in refusal(shared, results)
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(shared, [*content.items(), (name, content[name])])
    assert f"it holds {name} twice" in refusal(shared, results)
    write(shared, {**content, name: content[name] + b" "}.items())
    if name != "MANIFEST":  # blanks after its JSON do not matter
        assert f"{name} is not what its manifest says" in refusal(shared, results)


def test_oversized_members_are_refused_by_what_they_declare_and_by_what_comes_out(shared, results, monkeypatch):
    monkeypatch.setitem(MEMBERS, "README.md", 100)
    assert "README.md has" in refusal(shared, results)
    monkeypatch.setattr(model_sharing, "_refuse_bad_members", lambda *_: None)  # as if it had declared less
    assert "README.md has more than the 100 bytes that are allowed" in refusal(shared, results)


def test_packing_that_nobody_needs_is_refused(shared, results):
    content = members(shared)
    with zipfile.ZipFile(shared, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    assert "encrypted or packed in an unknown way" in refusal(shared, results)
    data = bytearray(write(shared, content.items()).read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + offset] |= 1  # says that it is encrypted
    shared.write_bytes(data)
    assert "encrypted or packed in an unknown way" in refusal(shared, results)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"{", "its manifest is no JSON"),
        (b"\xff", "its manifest is no JSON"),
        (b"[" * 100_000, "its manifest is no JSON"),
        (b"[1]", "its format is None"),
        (b'{"format": 99}', "its format is 99, and this version reads 1"),
        (b'{"format": 1, "files": [1]}', "lists other files"),
        (b'{"format": 1, "files": {"card.json": 1}}', "lists other files"),
    ],
)
def test_bad_manifests_are_refused(shared, results, manifest, message):
    write(shared, {**members(shared), "MANIFEST": manifest}.items())
    assert message in refusal(shared, results)


def plan_of(file, **changes):
    return json.dumps({**json.loads(members(file)["generator.json"]), **changes}).encode()


def test_a_plan_that_is_none_or_asks_for_more_than_its_weights_is_refused(shared, results):
    original, intact = shared.read_bytes(), json.loads(members(shared)["generator.json"])
    huge = {"preset": {**intact["preset"], "denoiser": {**intact["preset"]["denoiser"], "widths": [2**20, 2**20]}}}
    endless = {"grid": {**intact["grid"], "shape": [2**15, 2**15, 2**15]}}
    plans = {
        "damaged|cannot be read": plan_of(shared, encoding=5),
        "format 99": plan_of(shared, format=99),
        "weights are not those of its plan": plan_of(shared, **huge),
        "voxels, more than": plan_of(shared, **endless),
        "it cannot be read": b"[1, 2]",
    }
    for message, plan in plans.items():
        shared.write_bytes(original)
        changed(shared, "generator.json", plan)
        assert re.search(message, refusal(shared, results))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("card.json", b"{}"),
        ("card.json", b'{"format": 2}'),
        ("training_cases.json", b'["case"]'),
        ("training_cases.json", b"5"),
        ("training_cases.json", b"[]"),
        ("denoiser.safetensors", b"\x80\x04\x95 a pickle"),
        ("autoencoder.safetensors", b""),
        ("dataset.json", b"{"),
    ],
)
def test_other_content_is_refused_even_with_a_matching_manifest(shared, results, name, data):
    changed(shared, name, data)
    refusal(shared, results)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", ".hidden", "", "a b", "x" * 65])
def test_names_that_are_no_names_are_refused(shared, results, name):
    with pytest.raises(UserError, match="cannot be named"):
        import_model(shared, name)


def test_a_folder_that_is_no_model_is_left_alone(shared, results):
    (results / "SBLDM_models" / "hospital_a").mkdir(parents=True)
    (results / "SBLDM_models" / "hospital_a" / "notes.txt").write_text("mine")
    before = hash_tree(results)
    with pytest.raises(UserError, match="hospital_a is there already and no SBLDM: remove it, or give this one another name"):
        import_model(shared)
    assert hash_tree(results) == before


def test_the_commands(generator, phantom, tmp_path, capsys):
    export = (model_commands.export_entry, "-m", generator.folder)
    assert "ends in .zip" in refused(capsys, *export, "-o", tmp_path / "model")
    entry, *options = map(str, (*export[1:], "-o", tmp_path / "ours.zip", "--fp16"))
    model_commands.export_entry([entry, *options])
    said = capsys.readouterr()
    assert "warning: no licence is stated" in said.err
    assert "sbldm_import ours.zip" in said.out
    model_commands.export_entry([entry, *options, "-licence", "CC BY 4.0", "-title", "Ours", "-data", "Our heads"])
    assert capsys.readouterr().err == ""
    model_commands.import_entry([str(tmp_path / "ours.zip"), "-name", "theirs"])
    assert "use it with -m theirs" in capsys.readouterr().out
    card = read_card(phantom.results / "SBLDM_models" / "theirs")
    assert (card.title, card.licence, card.data) == ("Ours", "CC BY 4.0", "Our heads")
    model_commands.models_entry([])
    assert re.search(r"^theirs \(imported\) +CC BY 4.0 ", capsys.readouterr().out, re.MULTILINE)
    shutil.rmtree(phantom.results / "SBLDM_models" / "theirs")
    (tmp_path / "ours.zip").write_bytes(b"")
    assert "is no zip file" in refused(capsys, model_commands.import_entry, tmp_path / "ours.zip")
