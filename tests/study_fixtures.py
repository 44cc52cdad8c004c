"""Fixtures of studies: files, raw cases, and a study that has run."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from phantom_fixtures import SMALL_PHANTOM

from nnunet_sbldm.ablation.arms import ARM_KINDS, Arm
from nnunet_sbldm.ablation.file import read_study
from nnunet_sbldm.ablation.runner import study_folder
from nnunet_sbldm.ablation.runs import DatasetIds, runs_of
from nnunet_sbldm.ablation.settings import RunSettings, StudyEvaluation
from nnunet_sbldm.ablation.setup import set_up
from nnunet_sbldm.ablation.split import open_source_dataset
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.data.phantom import write_phantom_dataset
from nnunet_sbldm.mixing.audit import append_to_audit_file

ALL_ARMS = [*(k for k in ARM_KINDS if k != "oracle"), {"oracle": {"num_cases": 6}}]
SMALL = {"dataset": 900, "num_cases": [2, 4], "test_cases": 3, "arms": ["real_only", "copy_paste"]}
ARMS = (Arm("real_only", "real_only"), Arm("copy_paste", "copy_paste_25", 0.25), Arm("oracle", "oracle", num_cases=4))
MISSED = {"real_only": 0.35, "copy_paste_25": 0.6, "oracle": 0.0, "sbldm_25": 0.35}
"""Share of the foreground that the made-up predictions miss."""


@pytest.fixture
def study_of(tmp_path):
    """Writes a study, JSON being YAML, and reads it."""
    def read(**content):
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps({**SMALL, **content}))
        return read_study(path)

    return read


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Ten raw phantom cases in ``nnUNet_raw``."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return write_phantom_dataset(tmp_path / "raw", 900, 10, config=SMALL_PHANTOM)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A study whose predictions are the references with a part of the foreground removed; one run has failed."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    write_phantom_dataset(tmp_path / "raw", 900, 14, config=SMALL_PHANTOM)
    study = Study("900", (2, 3), ARMS, 9, seeds=(0, 1), evaluation=StudyEvaluation(num_resamples=300), run=RunSettings("cpu"))
    folder = tmp_path / "out"
    jobs, _ = set_up(study, folder)
    source = open_source_dataset(study, folder)
    for run in runs_of(study):
        predict(run, source, folder)
        if run.subset.key != "n3_f0_s1":
            audit(run, DatasetIds(read_json(folder / "datasets.json"))[run.subset.key], folder)
    for j in jobs:
        lost = j.arm == "copy_paste_25" and j.subset == "n3_f0_s1"
        state = ("failed" if lost and j.stage == "train" else "waiting") if lost else "done"
        study_folder(folder).write(j, state, {"seconds": 60.0, **({"error": "no memory"} if state == "failed" else {})})
    return study, jobs, folder


def audit(run, dataset, folder):
    """What the run drew: at n = 2 what was asked, at n = 3 no synthetic case."""
    model = f"{run.arm.definition.trainer}__nnUNetPlans__{run.arm.name}"
    model = folder / "nnUNet_results" / f"Dataset{dataset:03d}_x" / model / "fold_all"
    model.mkdir(parents=True)
    for i, losses in enumerate(((9.0, 9.0), (-0.5, -0.6, -0.7, -0.8, -0.9))):  # interrupted once
        log = "".join(f"2026: train_loss {v} \n2026: val_loss 7\n" for v in losses)
        (model / f"training_log_2026_10_{9 + i}_08_00_00.txt").write_text(log)
    for epoch in range(2):
        drawn = round(100 * run.arm.ratio) if run.subset.num_cases == 2 else 0
        source = {"source": {"reason": "starting"}} if run.arm.ratio and not drawn else {}
        append_to_audit_file(model, {"epoch": epoch, "draws": 100, "synthetic_draws": drawn, "asked": run.arm.ratio, **source})


def predict(run, source, folder):
    target = folder / run.predictions
    rng = np.random.default_rng(zlib.crc32(run.key.encode()))
    entries = []
    for case_id in read_json(folder / "split.json")["test"]:
        case = source.read(case_id)
        kept = case.label * (rng.random(case.label.shape) >= MISSED[run.arm.name])
        write_case(replace(case, label=kept.astype(np.int16)), [folder / "unused" / f"{case_id}_0000.nii.gz",
                   folder / "unused" / f"{case_id}_0001.nii.gz"][: len(case.image)], target / f"{case_id}.nii.gz")
        true, found = int((case.label > 0).sum()), int((kept > 0).sum())
        dice = float("nan") if true + found == 0 else 2 * found / (true + found)
        counts = {"TP": found, "FP": 0, "FN": true - found, "n_ref": true, "n_pred": found}
        entries.append({"prediction_file": str(target / f"{case_id}.nii.gz"), "metrics": {"1": {"Dice": dice, **counts}}})
    write_json(target / "summary.json", {"metric_per_case": entries})
    write_json(target / "dataset.json", {k: v for k, v in source.dataset_json.items() if k != "dataset"})
