"""Kill the generator process and the trainer again and again, at random, while nnU-Net trains on cases made on the fly.

    python benchmarks/kill_on_the_fly.py -d 900 -c 3d_demo -m tiny -kills 20 -trainer_kills 5

First the trainer is killed with SIGKILL and the training continued with ``--c``; after each kill no generator process may
be left. Then trainings run to their end while their generator processes are killed. Every training must end with
exit code 0, and no case with a wrong checksum may have been met. Linux; results of the configuration are replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.paths import nnunet_folder, number_of

NAME = "sbldm_kill_benchmark"
TRAINER = "nnUNetTrainerSBLDMOnTheFly"
TRAIN = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
CONFIGURE = "from nnunet_sbldm.cli.configure import configure_entry; configure_entry()"
SECONDS_TO_END = 5


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process that has not ended."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state != "Z":
            found[int(folder.name)] = (int(parent), command)
    return found


def generators(rings: Path) -> list[int]:
    """Generator processes for rings in this folder."""
    return [pid for pid, (_, command) in processes().items() if "generator_process" in command and str(rings) in command]


def workers(trainer: subprocess.Popen[bytes]) -> list[int]:
    """nnU-Net's background workers of a trainer."""
    return [pid for pid, (parent, command) in processes().items() if parent == trainer.pid and "generator_process" not in command]


def wait_for_generator(trainer: subprocess.Popen[bytes], rings: Path) -> list[int]:
    """Wait until the trainer has a generator process; none if the trainer ends."""
    while trainer.poll() is None:
        found = generators(rings)
        if found:
            return found
        time.sleep(0.1)
    return []


class Training:
    """The training that is killed."""

    def __init__(self, args: argparse.Namespace) -> None:
        dataset = open_dataset(args.d)
        self.fold, self.number = args.f, str(number_of(dataset.name))
        self.rings = dataset.preprocessed / "sbldm" / "on_the_fly"
        self.home = nnunet_folder("nnUNet_results") / dataset.name / f"{TRAINER}__{dataset.plans_name}__{NAME}"
        shutil.rmtree(self.home, ignore_errors=True)
        if NAME not in dataset.plans.available_configurations:
            options = ["-ratio", "0.5", "-source", "on_the_fly", "-pool_size", "4", "-max_reuse", "2", "-m", args.m]
            options += ["-num_epochs", str(args.epochs), "-num_iterations_per_epoch", "20", "-num_val_iterations_per_epoch", "2"]
            command = [sys.executable, "-c", CONFIGURE, "-d", self.number, "-c", args.c, "-name", NAME, *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self, continued: bool) -> subprocess.Popen[bytes]:
        """Start or continue it."""
        command = [sys.executable, "-c", TRAIN, self.number, NAME, self.fold, "-tr", TRAINER, "-device", "cpu"]
        trainers = str(files("nnunet_sbldm.trainers"))
        environment = {"nnUNet_n_proc_DA": "1", "nnUNet_extTrainer": trainers} | os.environ
        with open(self.home.parent / f"{NAME}.log", "ab") as log:
            return subprocess.Popen([*command, *["--c"] * continued], stdout=log, stderr=log, env=environment)

    def audit(self) -> list[dict]:
        """One record per epoch."""
        path = self.home / f"fold_{self.fold}" / "sbldm_audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def kill_trainer(training: Training, continued: bool, rng: random.Random) -> list[str]:
    """Kill a trainer at random after its generator has started; returns what is wrong."""
    trainer = training.start(continued)
    wait_for_generator(trainer, training.rings)
    time.sleep(rng.uniform(0, 20))
    if trainer.poll() is not None:
        return ["the training ended before it could be killed; ask for more -epochs"]
    children = workers(trainer)
    trainer.kill()
    trainer.wait()
    time.sleep(SECONDS_TO_END)
    for pid in set(children) & processes().keys():
        os.kill(pid, signal.SIGKILL)  # nnU-Net's own, which wait for their trainer
    return [f"generator process {pid} outlived its trainer" for pid in generators(training.rings)]


def kill_generators(
    training: Training, continued: bool, most: int, within_s: float, rng: random.Random
) -> tuple[int, list[str]]:
    """Train to the end and kill generator processes on the way; returns the number of kills and what is wrong."""
    trainer, kills = training.start(continued), 0
    while kills < most and trainer.poll() is None:
        killed = wait_for_generator(trainer, training.rings)
        time.sleep(rng.uniform(0, within_s))
        for pid in set(killed) & set(generators(training.rings)):
            os.kill(pid, signal.SIGKILL)
            kills += 1
    code = trainer.wait()
    wrong = [f"the training ended with exit code {code}"] * bool(code)
    return kills, wrong + [f"generator process {pid} outlived its trainer" for pid in generators(training.rings)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", default="0")
    parser.add_argument("-c", default="3d_fullres", help="configuration to inherit from; a small one is quick")
    parser.add_argument("-m", default="tiny", help="name or folder of the generator")
    parser.add_argument("-epochs", type=int, default=40)
    parser.add_argument("-kills", type=int, default=20)
    parser.add_argument("-trainer_kills", type=int, default=5)
    parser.add_argument("-within_s", type=float, default=15, help="a generator is killed within so many seconds of its start")
    parser.add_argument("-seed", type=int, default=0)
    args = parser.parse_args()
    rng, training, wrong, kills = random.Random(args.seed), Training(args), [], 0
    for n in range(args.trainer_kills):
        wrong += kill_trainer(training, n > 0, rng)
        print(f"trainer kill {n + 1}: {len(training.audit())} epochs done, {len(wrong)} wrong", flush=True)
    continued = args.trainer_kills > 0
    while not wrong and (continued or kills < args.kills):
        made, found = kill_generators(training, continued, args.kills - kills, args.within_s, rng)
        kills, wrong, continued = kills + made, wrong + found, False
        reports = [record["source"] for record in training.audit()]
        corrupt = sum(report["corrupt"] for report in reports)
        wrong += [f"{corrupt} cases with wrong checksums"] * bool(corrupt)
        cases, drawn = (sum(report[key] for report in reports) for key in ("made", "drawn"))
        counts = f"{len(reports)} epochs, {cases} cases made, {drawn} drawn, {corrupt} corrupt"
        print(f"{kills} kills: a training ended, {counts}", flush=True)
    print(f"{args.trainer_kills} kills of the trainer, {kills} of the generator: {len(wrong)} wrong {wrong[:5]}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
