"""Case ids with blanks, brackets, dots, umlauts and signs of shells, patterns and pages: commands take them as they are."""

from nnunet_fixtures import NnunetFolders
from phantom_fixtures import SHORT, make_planned_phantom

from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator import presets

IDS = ("[1] a  b", "ü#2", "50%d", "it's \"q\" & <i>", "x.nii.gz.y", "{0} $HOME *")
FAST = ["-d", "900", "-f", "0", "-n", "1", "-steps", "2", "-corrections", "0", "-preset", "nano", "-device", "cpu", "--no_gate"]


def rename(raw):
    """Give the phantom's cases the ids above."""
    for number, case_id in enumerate(IDS):
        for folder in ("imagesTr", "labelsTr"):
            for file in (raw / folder).glob(f"phantom_{number:03d}*"):
                file.rename(file.with_name(file.name.replace(f"phantom_{number:03d}", case_id)))


def test_ids_of_any_signs_go_through_training_expansion_and_edits(tmp_path, monkeypatch):
    folders: NnunetFolders = make_planned_phantom(tmp_path, num_cases=len(IDS), change=rename)
    for name, value in folders.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(presets.PRESETS, "nano", SHORT)
    train = fold_cases(open_dataset("900"), 0)[0]
    (tmp_path / "cases.txt").write_text("\n".join([*train, ""]), encoding="utf-8-sig")
    train_entry(["-d", "900", "-f", "0", "-preset", "nano", "-device", "cpu", "-cases", str(tmp_path / "cases.txt")])
    expand_entry([*FAST, "-o", "904"])
    assert set(read_json(next(folders.raw.glob("Dataset904_*")) / "dataset.json")["dataset"]) == {*IDS, "sbldm_f0_0000"}
    expand_entry([*FAST, "--in_place", "-mode", "edit", "-hosts", train[-1]])
    assert "sbldm_f0_0000" in open_dataset("900").case_files
    expand_entry(["-d", "900", "--undo"])
    assert set(open_dataset("900").case_files) == set(IDS)
