"""The main job end to end on the embedded phantom, as the commands a user would type, ending with a report."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.options import device_of
from nnunet_sbldm.common.commands import Parser, run
from nnunet_sbldm.common.files import read_json, remove_leftovers, write_json
from nnunet_sbldm.common.jobs import clock
from nnunet_sbldm.common.steps import Step, StepResult, run_steps
from nnunet_sbldm.data.plans import small_network
from nnunet_sbldm.generator.zoo import folder_name
from nnunet_sbldm.types import UserError

DATASET_ID, DATASET = 900, "Dataset900_Phantom"
NUM_TRAINING_CASES, NUM_TEST_CASES = 20, 4
PLANS, FOLD, PRESET, TRAINER = "nnUNetPlans", 0, "tiny", "nnUNetTrainerSBLDM"
BASE_CONFIGURATION, SMALL_CONFIGURATION = "3d_fullres", "3d_demo"
CONFIGURATION = "3d_demo_sbldm25"
MARKER, MARKER_CONTENT = "demo.json", {"made_by": "sbldm_demo"}


def run_demo(output: Path, device: str = "cpu") -> Path:
    """Run the demo, or what is left of it.

    Args:
        output: folder for everything it makes; new, empty, or that of an earlier run.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The report.

    Raises:
        UserError: ``output`` cannot be written or holds something else.
        SystemExit: a command failed; its last lines have been printed.
    """
    output = output.absolute()
    environment = _prepare(output)
    results = run_steps(demo_steps(device, output), output, environment)
    print("Writing the report ...", flush=True)
    report = _write_report(output, results)
    print(f"Done in {clock(sum(r.seconds for r in results))} min. Report: {report}\nPicture: {output / 'demo.png'}")
    return report


def demo_steps(device: str, output: Path) -> list[Step]:
    """The commands, in order; they run in ``output`` and their paths are relative to it."""
    d, f, raw = str(DATASET_ID), str(FOLD), f"nnUNet_raw/{DATASET}"
    plans_file = output / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json"
    train_one = {"nnUNet_n_proc_DA": "0"}  # one process is enough for a small network; planning does not survive it
    return [
        Step("phantom", "Write the phantom dataset", (
            "python", "-m", "nnunet_sbldm.dataset_conversion.Dataset900_Phantom", "-d", d, "-n", str(NUM_TRAINING_CASES),
            "-n_test", str(NUM_TEST_CASES)), 6),
        Step("plan", "Plan and preprocess", (
            "nnUNetv2_plan_and_preprocess", "-d", d, "-c", BASE_CONFIGURATION, "-np", "1", "-npfp", "1", "--no_pbar"), 20),
        Step("generator", "Train the generator", (
            "sbldm_train", "-d", d, "-f", f, "-preset", PRESET, "-device", device), 270),
        Step("pool", "Draw synthetic cases", (
            "sbldm_expand_dataset", "-d", d, "--pool", "-f", f, "-ratio", "1.0", "-preset", PRESET, "-device", device), 16),
        Step("configure", "Add a configuration with a quarter of the draws synthetic", (
            "sbldm_configure", "-d", d, "-c", SMALL_CONFIGURATION, "-ratio", "0.25", "-num_epochs", "8",
            "-num_iterations_per_epoch", "50", "-num_val_iterations_per_epoch", "4"), 4,
            before=lambda: add_small_configuration(plans_file)),
        Step("nnunet", "Train nnU-Net on real and synthetic cases", (
            "nnUNetv2_train", d, CONFIGURATION, f, "-tr", TRAINER, "-device", device), 70, train_one),
        Step("predict", "Segment the test cases", (
            "nnUNetv2_predict", "-d", d, "-c", CONFIGURATION, "-f", f, "-tr", TRAINER, "-i", f"{raw}/imagesTs",
            "-o", "predictions", "-npp", "1", "-nps", "1", "-device", device), 15),
        Step("evaluate", "Measure Dice", (
            "nnUNetv2_evaluate_folder", f"{raw}/labelsTs", "predictions", "-djfile", "predictions/dataset.json",
            "-pfile", "predictions/plans.json", "-np", "1"), 4),
    ]


def add_small_configuration(plans_file: Path) -> None:
    """Add a configuration to nnU-Net's plans with the same preprocessing and a network that trains in a minute on a CPU."""
    plans = read_json(plans_file)
    architecture = copy.deepcopy(plans["configurations"][BASE_CONFIGURATION]["architecture"])
    architecture["arch_kwargs"] = small_network(architecture["arch_kwargs"])
    plans["configurations"][SMALL_CONFIGURATION] = {"inherits_from": BASE_CONFIGURATION, "architecture": architecture}
    write_json(plans_file, plans)


def _prepare(output: Path) -> dict[str, str]:
    """Make the output folder and nnU-Net's folders in it; the variables that name them."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a new or empty folder with -o.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()) and not (output / MARKER).is_file():
            raise UserError(f"{output} is neither empty nor the folder of an earlier demo; give a new folder with -o.")
        remove_leftovers(output)
        write_json(output / MARKER, MARKER_CONTENT)
        folders = {name: output / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
    except OSError as e:
        raise UserError(f"{output} cannot be written ({e.strerror}); give a folder of your own with -o.") from e
    return {**{name: str(folder) for name, folder in folders.items()}, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}


def _write_report(output: Path, results: list[StepResult]) -> Path:
    from nnunet_sbldm.cli.demo_report import ReportInput, write_report
    from nnunet_sbldm.data.dataset import NnunetDataset

    raw, preprocessed = f"nnUNet_raw/{DATASET}", f"nnUNet_preprocessed/{DATASET}"
    model = f"nnUNet_results/{DATASET}/{folder_name(PLANS, PRESET)}/fold_{FOLD}"
    network = f"nnUNet_results/{DATASET}/{TRAINER}__{PLANS}__{CONFIGURATION}/fold_{FOLD}"
    dataset_json = read_json(output / raw / "dataset.json")
    dataset = NnunetDataset(DATASET, output / raw, output / preprocessed, dataset_json, PLANS, CONFIGURATION)
    return write_report(ReportInput(dataset, FOLD, output / model, output / network, output / "predictions", results, [
        ("Phantom, as nnU-Net's raw dataset", raw),
        ("What is known of the phantom", f"{raw}/phantom_truth.json"),
        ("Plans and preprocessed cases", preprocessed),
        ("Synthetic cases and their provenance", f"{preprocessed}/sbldm"),
        ("Generator, its log and pictures", model),
        ("Trained nnU-Net", network),
        ("Predictions and Dice of the test cases", "predictions"),
        ("Logs of all commands", "logs"),
    ]), output)


def demo_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_demo``: the whole job on the embedded phantom."""
    parser = Parser(
        "The whole job on an embedded phantom: plan, preprocess, train an SBLDM, fill the pool, train nnU-Net, predict, report."
    )
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder; rerunning resumes")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"), help="[OPTIONAL] Default: cpu")
    args = parser.parse_args(argv)

    def main() -> None:
        from nnunet_sbldm.cli.demo import run_demo

        run_demo(args.o, device_of(args.device))

    run(main)
