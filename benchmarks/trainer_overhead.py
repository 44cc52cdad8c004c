r"""Seconds per epoch of nnUNetTrainer and of nnUNetTrainerSBLDM, in turn, on the same data.

    python benchmarks/trainer_overhead.py -d 900 -f 0 -c 3d_fullres -epochs 7 -num_iterations 50 -device cpu

Needs a filled pool (sbldm_expand_dataset --pool). Trains nothing that is kept: results go to a temporary folder.
Processes for augmentation: nnUNet_n_proc_DA, as in training; with 0 the CPU seconds hold all that is done.

On the fly on a CPU, a core for the training and another for the generator:

    export OMP_NUM_THREADS=1 nnUNet_n_proc_DA=0
    sbldm_configure -d 900 -c 3d_fullres -name on_the_fly -ratio 0.25 -source on_the_fly -m MODEL -pool_size 4 -wait_s 120
    taskset -c 0 python benchmarks/trainer_overhead.py -d 900 -c on_the_fly -tr nnUNetTrainerSBLDMOnTheFly -epochs 11 \
        -num_iterations 50 -generator_core 1 -device cpu
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from statistics import median
from typing import Any

import psutil
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_sbldm.cli.options import device_of
from nnunet_sbldm.data.paths import parse_fold

SECONDS_TO_START = 30


def start(trainer_name: str, args: argparse.Namespace, device: torch.device) -> nnUNetTrainer:
    """A trainer with its network built and its background workers running."""
    trainer = get_trainer_from_args(args.d, args.c, parse_fold(args.f), trainer_name, args.p, device=device)
    trainer.on_train_start()
    return trainer


def epoch_seconds(trainer: nnUNetTrainer, num_iterations: int) -> tuple[float, float]:
    """Train one epoch as nnU-Net does, without validation: seconds on the clock, and CPU seconds of this process."""
    begin, begin_cpu = time.monotonic(), time.process_time()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs: list[dict[str, Any]] = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(num_iterations)]
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    trainer.on_train_epoch_end(outputs)
    trainer.current_epoch += 1
    return time.monotonic() - begin, time.process_time() - begin_cpu


def pin_generator(core: int) -> None:
    """Move the generator process to a core of its own, as soon as it is there."""
    for _ in range(SECONDS_TO_START * 10):
        found = [p for p in psutil.Process().children(recursive=True) if "generator_process" in " ".join(p.cmdline())]
        for thread in (t for process in found for t in process.threads()):
            os.sched_setaffinity(thread.id, {core})
        if found:
            return
        time.sleep(0.1)
    raise SystemExit("There is no generator process to pin: -generator_core goes with a source on the fly.")


def machine(device: torch.device) -> str:
    """What it was measured on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores, {name}, torch {torch.__version__}, {get_allowed_n_proc_DA()} augmentation processes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", default="0")
    parser.add_argument("-c", default="3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-tr", default="nnUNetTrainerSBLDM", help="the trainer to compare with nnUNetTrainer")
    parser.add_argument("-epochs", type=int, default=7, help="timed epochs of each trainer; one more warms up")
    parser.add_argument("-num_iterations", type=int, default=250)
    parser.add_argument("-generator_core", type=int, help="core that the generator process is moved to")
    parser.add_argument("-device")
    args = parser.parse_args()
    device = torch.device(device_of(args.device))
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        names = ("nnUNetTrainer", args.tr)
        trainers = {name: start(name, args, device) for name in names}
        if args.generator_core is not None:
            pin_generator(args.generator_core)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for epoch in range(args.epochs + 1):
            for name in names if epoch % 2 else reversed(names):
                seconds[name].append(epoch_seconds(trainers[name], args.num_iterations))
        for trainer in trainers.values():
            trainer.disable_checkpointing = True
            trainer.on_train_end()
            if getattr(trainer, "sbldm_source", None) is not None:
                trainer.sbldm_source.stop()
    print(f"\n{machine(device)}; {args.c}, {args.num_iterations} iterations, {args.epochs} epochs of each in turn")
    for i, kind in enumerate(("seconds on the clock", "CPU seconds of the training process")):
        medians = []
        for name in names:
            values = [pair[i] for pair in seconds[name][1:]]
            medians.append(median(values))
            print(f"{kind}, {name}: median {medians[-1]:.3f} per epoch ({', '.join(f'{v:.3f}' for v in values)})")
        print(f"{kind}, {args.tr} / nnUNetTrainer: {medians[1] / medians[0]:.4f}")


if __name__ == "__main__":
    main()
