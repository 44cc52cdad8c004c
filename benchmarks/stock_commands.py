"""nnU-Net's own commands on an expanded dataset: train, --val, find_best_configuration, accumulate, ensemble, export, import.

    python benchmarks/stock_commands.py -demo demo

takes the folder of a finished ``sbldm_demo``, expands its phantom into Dataset904 and runs the stock commands with the
stock trainer ``nnUNetTrainer_1epoch`` on two small configurations and two folds. Prints each command with its time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TRAINER, PLANS, FOLDS = "nnUNetTrainer_1epoch", "nnUNetPlans", ("0", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-demo", type=Path, required=True)
    home = parser.parse_args().demo.absolute()
    folders = {f: str(home / f) for f in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, **folders, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "OMP_WAIT_POLICY": "PASSIVE"}

    def run(*command: str, **variables: str) -> None:
        start = time.monotonic()
        program = str(Path(sys.executable).parent / command[0])
        done = subprocess.run([program, *command[1:]], env={**environment, **variables}, capture_output=True, text=True, cwd=home)
        print(f"{'ok' if done.returncode == 0 else 'FAILED'} {time.monotonic() - start:5.0f} s  {' '.join(command)}", flush=True)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-2000:])

    run("sbldm_expand_dataset", "-d", "900", "-o", "904", "-f", "0", "-n", "8", "-preset", "tiny", "-device", "cpu")
    name = "Dataset904_PhantomSBLDM"
    plans_file = home / "nnUNet_preprocessed" / name / f"{PLANS}.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_demo_b"] = {"inherits_from": "3d_demo", "batch_size": 2, "patch_size": [16, 32, 32]}
    plans_file.write_text(json.dumps(plans, indent=4))
    configurations = ("3d_demo", "3d_demo_b")
    for configuration in configurations:
        for fold in FOLDS:
            run("nnUNetv2_train", "904", configuration, fold, "-tr", TRAINER, "-device", "cpu", "--npz")
    run("nnUNetv2_train", "904", "3d_demo", "0", "-tr", TRAINER, "-device", "cpu", "--npz", "--val")
    run("nnUNetv2_accumulate_crossval_results", "904", "-c", "3d_demo", "-tr", TRAINER, "-f", *FOLDS)
    run(
        "nnUNetv2_find_best_configuration",
        "904",
        "-c",
        *configurations,
        "-tr",
        TRAINER,
        "-f",
        *FOLDS,
        "-np",
        "1",
        "--no_overwrite",
    )
    outputs = []
    for configuration in configurations:
        outputs.append(str(home / f"stock_{configuration}"))
        images = f"nnUNet_raw/{name.replace('904', '900').removesuffix('SBLDM')}/imagesTs"
        run(
            "nnUNetv2_predict",
            "-d",
            "904",
            "-c",
            configuration,
            "-tr",
            TRAINER,
            "-f",
            *FOLDS,
            "-i",
            images,
            "-o",
            outputs[-1],
            "-device",
            "cpu",
            "-npp",
            "1",
            "-nps",
            "1",
            "--save_probabilities",
        )
    run("nnUNetv2_ensemble", "-i", *outputs, "-o", str(home / "stock_ensemble"), "-np", "1")
    archive = home / "stock_model.zip"
    run("nnUNetv2_export_model_to_zip", "-d", "904", "-o", str(archive), "-c", "3d_demo", "-tr", TRAINER, "-f", *FOLDS)
    imported = home / "imported_results"
    shutil.rmtree(imported, ignore_errors=True)
    imported.mkdir()
    run("nnUNetv2_install_pretrained_model_from_zip", str(archive), nnUNet_results=str(imported))
    summaries = sorted((home / "nnUNet_results" / name).glob(f"{TRAINER}__*/fold_*/validation/summary.json"))
    cases = {c["prediction_file"].rsplit("/", 1)[1] for s in summaries for c in json.loads(s.read_text())["metric_per_case"]}
    print(f"validated cases: {len(cases)}, synthetic among them: {sum(c.startswith('sbldm') for c in cases)}")


if __name__ == "__main__":
    main()
