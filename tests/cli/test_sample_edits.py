"""``sbldm_sample -mode edit``: what it writes, and what it refuses."""

import pytest

from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.ldm.config import EDIT_SAMPLER


def run_command(entry, *arguments):
    with pytest.raises(SystemExit) as e:
        entry([str(a) for a in arguments])
    return e.value.code


@pytest.mark.parametrize(("options", "sentence"), [
    (["-kind", "add"], "-kind goes with -mode edit"),
    (["-mode", "edit", "-kind", "paint"], "-kind takes replace, add, remove; got paint"),
    (["-mode", "edit", "-deformation", "-3"], "-deformation takes 0 to 20 mm; got -3"),
    (["-mode", "edit", "-hosts", "phantom_999"], "phantom_999 cannot be a host in fold 0"),
    (["-mode", "edit", "-volume_ml", "4000"], "has no place for tumour/volume_ml = 4e+03"),
])
def test_bad_options_end_with_one_sentence_and_exit_code_2(generator, tmp_path, capsys, options, sentence):
    arguments = ["-m", generator.folder, "-o", tmp_path / "out", "-n", 1, "-steps", 2, "-device", "cpu", *options]
    assert run_command(sample_entry, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error


def test_sbldm_sample_writes_edits_with_their_records_and_a_picture(generator, tmp_path):
    out = tmp_path / "edits"
    sample_entry(["-m", str(generator.folder), "-o", str(out), "-n", "2", "-steps", "2", "-device", "cpu", "-mode", "edit",
                      "-kind", "replace", "-hosts", "phantom_001", "--no_mirror", "--no_gate"])
    assert {p.name for p in out.iterdir()} == {
        "montage.png",
        "samples.json",
        *(f"sbldm_0000{i}{e}" for i in range(2) for e in ("_0000.nii.gz", "_0001.nii.gz", ".nii.gz", ".json")),
    }
    record = read_json(out / "sbldm_00001.json")
    assert (record["edit"]["host"], record["edit"]["kind"]) == ("phantom_001", "replace")
    assert record["sampler"]["name"] == EDIT_SAMPLER.name
    assert "channel_0/seam" in record["gate"]["scores"]
