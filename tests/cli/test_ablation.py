"""``sbldm_ablation``: what it prints, refuses and writes."""

import json
import re
import shlex

import pytest

from nnunet_sbldm.ablation.runner import study_folder
from nnunet_sbldm.ablation.setup import set_up
from nnunet_sbldm.cli.ablation import ablation_entry


def test_a_missing_gpu_is_refused_before_anything_is_made(study_of, raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    study_of(run={"device": "cuda"})
    with pytest.raises(SystemExit) as e:
        ablation_entry(["run", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")])
    assert e.value.code == 2
    assert "device is cuda, and this machine has 0 CUDA device(s)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_status_counts_jobs_and_tells_the_last_error(study_of, raw, tmp_path, capsys):
    jobs, _ = set_up(study_of(), tmp_path / "out")
    (train,) = [j for j in jobs if j.job_id == "n2_f0_s0.real_only.train"]
    study_folder(tmp_path / "out").write(train, "failed", {"error": "exit code 1: no memory"})
    arguments = [str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")]
    ablation_entry(["status", *arguments])
    shown = capsys.readouterr().out
    assert re.search(r"^train +0 +0 +3 +1 +0$", shown, re.MULTILINE)
    assert re.search(r"^predict +0 +0 +3 +0 +1$", shown, re.MULTILINE)
    assert "failed: n2_f0_s0.real_only.train: exit code 1: no memory (log: " in shown
    study_of(test_cases=4)
    for action, message in (("status", "holds this study with other test_cases"), ("report", "other test_cases")):
        with pytest.raises(SystemExit) as e:
            ablation_entry([action, *arguments])
        assert e.value.code == 2
        assert message in capsys.readouterr().err


def test_a_dry_run_prints_the_commands_and_slurm_needs_no_gpu(study_of, raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    study_of(run={"device": "cuda"})
    arguments = ["run", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")]
    ablation_entry([*arguments, "--dry_run"])
    command = "nnUNetv2_train 1 real_only all -tr nnUNetTrainerSBLDM -device cuda --c"
    shown = capsys.readouterr().out
    assert f"# n2_f0_s0.real_only.train\nnnUNet_n_proc_DA=0 {command}\n" in shown
    typed = shown.splitlines()
    assert f"export nnUNet_raw={tmp_path}/out/nnUNet_raw" in typed
    configure = shlex.split(typed[typed.index("# n2_f0_s0.configure") + 1])
    assert set(json.loads(configure[-1])) == {"real_only", "copy_paste_25"}
    ablation_entry([*arguments, "--slurm", "-np", "3"])
    assert (tmp_path / "out" / "slurm" / "submit.sh").is_file()
    assert "%3\n" in (tmp_path / "out" / "slurm" / "train.sbatch").read_text()
