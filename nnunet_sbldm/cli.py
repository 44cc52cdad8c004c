"""The commands, in nnU-Net's dialect: one dash for options with a value, two for flags.

Entry points parse first and import the heavy parts afterwards, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nnunet_sbldm import __version__
from nnunet_sbldm.config import DEFAULT_PRESET, PRESETS, SAMPLERS, SamplerConfig
from nnunet_sbldm.types import UnfitGeneratorError, UserError

if TYPE_CHECKING:
    from nnunet_sbldm.conditions import Target

DEFAULT_PLANS = "nnUNetPlans"
DEFAULT_CONFIGURATION = "3d_fullres"
CUDA_BATCH_SIZE = 8
USER_ERRNO = {
    errno.ENOSPC: "the disk is full",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EDQUOT: "the disk quota is used up",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "not a folder",
}


class _Parser(argparse.ArgumentParser):
    """Bad options end with one sentence and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description)
        self.add_argument("--version", action="version", version=f"nnunet-sbldm {__version__}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _run(main: Callable[[], None]) -> None:
    """Run a command and turn its errors into one sentence and an exit code."""
    try:
        main()
    except UserError as e:
        _exit(str(e), 2)
    except UnfitGeneratorError as e:
        _exit(str(e), 3)
    except OSError as e:
        if e.errno not in USER_ERRNO:
            raise
        _exit(f"{e.filename or 'A file'} cannot be written: {USER_ERRNO[e.errno]}.", 2)
    except KeyboardInterrupt:
        _exit("interrupted; run the same command again to go on.", 130)


def _exit(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


# --- argument types and groups -------------------------------------------------------------------------------------


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if value != value or abs(value) == float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="DATASET", help="[REQUIRED] dataset id or name")
    parser.add_argument(
        "-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"[OPTIONAL] plans identifier. Default: {DEFAULT_PLANS}"
    )


def _device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), help="[OPTIONAL] Default: cuda if there is a GPU, else cpu")


def _preset_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-preset", default=DEFAULT_PRESET, choices=tuple(PRESETS), help=f"[OPTIONAL] generator size. Default: {DEFAULT_PRESET}"
    )


def _sampler_arguments(parser: argparse.ArgumentParser) -> None:
    default = SamplerConfig()
    parser.add_argument("-sampler", default=default.name, choices=SAMPLERS, help=f"[OPTIONAL] Default: {default.name}")
    parser.add_argument(
        "-eta", type=_number, default=default.eta, help="[OPTIONAL] noise of DDIM steps, 0 (deterministic) to 1. Default: 0"
    )
    parser.add_argument(
        "-steps", type=_count, default=default.num_steps, help=f"[OPTIONAL] denoising steps. Default: {default.num_steps}"
    )
    parser.add_argument(
        "-guidance",
        type=_number,
        default=default.guidance_scale,
        help=f"[OPTIONAL] classifier-free guidance scale, 1 = off. Default: {default.guidance_scale}",
    )
    parser.add_argument(
        "-diversity",
        type=_positive,
        default=1.0,
        help="[OPTIONAL] width of the condition model's kernels, 1 = as fitted. Default: 1",
    )
    parser.add_argument("-seed", type=_seed, default=0, help="[OPTIONAL] seed. Default: 0")


def _device(asked: str | None) -> str:
    import torch

    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def _sampler(args: argparse.Namespace, device: str) -> SamplerConfig:
    if args.eta and args.sampler != "ddim":
        raise UserError(f"-eta goes with -sampler ddim, not with {args.sampler}.")
    return SamplerConfig(args.sampler, args.eta, args.steps, args.guidance, CUDA_BATCH_SIZE if device == "cuda" else 1)


# --- commands ------------------------------------------------------------------------------------------------------


def train_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_train``: train a generator on the training cases of one fold."""
    parser = _Parser(
        "Train an SBLDM (both stages) on the training cases of one fold. Interrupted training resumes with the same command."
    )
    _dataset_arguments(parser)
    parser.add_argument("-f", required=True, metavar="FOLD", help="[REQUIRED] fold: a number, or all")
    _preset_argument(parser)
    parser.add_argument(
        "-cases",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] text file with one case id per line: train on these cases of the fold alone",
    )
    parser.add_argument("-seed", type=_seed, default=0, help="[OPTIONAL] seed of initialisation and training order. Default: 0")
    parser.add_argument("--c", action="store_true", help="[OPTIONAL] continue interrupted training; this is done in any case")
    _device_argument(parser)
    args = parser.parse_args(argv)
    _run(lambda: _train(args))


def _train(args: argparse.Namespace) -> None:
    from nnunet_sbldm.checkpoint import generator_folder, is_complete
    from nnunet_sbldm.nnunet import fold_cases, open_dataset, parse_fold
    from nnunet_sbldm.training import train_generator

    dataset, fold = open_dataset(args.d, args.p), parse_fold(args.f)
    case_ids, _ = fold_cases(dataset, fold)
    if args.cases:
        case_ids = _chosen_cases(args.cases, case_ids, fold)
    done = is_complete(generator_folder(dataset, args.preset, fold))
    folder = train_generator(dataset, fold, PRESETS[args.preset], case_ids, _device(args.device), args.seed)
    print(f"The SBLDM of fold {fold} {'was already trained' if done else 'is trained'}: {folder}")


def _chosen_cases(file: Path, allowed: Sequence[str], fold: int | str) -> list[str]:
    if not file.is_file():
        raise UserError(f"-cases {file} is not a file.")
    chosen = sorted(set(file.read_text(encoding="utf-8").split()))
    unknown = [c for c in chosen if c not in set(allowed)]
    if unknown:
        raise UserError(
            f"-cases names {', '.join(unknown[:10])}, which {'is' if len(unknown) == 1 else 'are'} not among the "
            f"real training cases of fold {fold}."
        )
    return chosen


def sample_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_sample``: write synthetic cases and a montage into a folder."""
    parser = _Parser("Write synthetic image/mask pairs, their provenance and a montage into a folder.")
    parser.add_argument("-m", required=True, type=Path, metavar="MODEL", help="[REQUIRED] fold folder of a trained SBLDM")
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder")
    parser.add_argument("-n", type=_count, default=4, help="[OPTIONAL] number of cases. Default: 4")
    parser.add_argument(
        "-label", metavar="L", help="[OPTIONAL] label (number or name) that the following describe. Default: the first"
    )
    parser.add_argument("-volume_ml", type=_positive, metavar="V", help="[OPTIONAL] volume of that label in ml")
    parser.add_argument(
        "-centroid",
        type=_number,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="[OPTIONAL] centre of that label, as fractions of the imaged anatomy along x, y and z of the file",
    )
    _sampler_arguments(parser)
    _device_argument(parser)
    args = parser.parse_args(argv)
    _run(lambda: _sample(args))


def _sample(args: argparse.Namespace) -> None:
    import torch

    from nnunet_sbldm.checkpoint import load_generator
    from nnunet_sbldm.synthesis import Request, check_asked, write_samples

    device = _device(args.device)
    generator = load_generator(args.m, torch.device(device))
    asked = _asked(args, generator.plan.targets, generator.plan.grid.transpose_forward)
    for warning in check_asked(generator, asked):
        print(f"warning: {warning}", file=sys.stderr)
    requests = [Request(f"sbldm_{args.seed + i:05d}", args.seed + i, asked, args.diversity) for i in range(args.n)]
    picture = write_samples(generator, requests, _sampler(args, device), args.o)
    print(f"{args.n} synthetic cases are in {args.o}; look at {picture}")


def _asked(args: argparse.Namespace, targets: Sequence[Target], transpose_forward: Sequence[int]) -> dict[str, float]:
    """Condition features that the options ask for."""
    if args.volume_ml is None and args.centroid is None:
        return {}
    matching = [t for t in targets if args.label in (None, t.name, *map(str, t.label_values))]
    if not matching:
        raise UserError(f"-label {args.label} is none of {', '.join(t.name for t in targets)}.")
    asked = {} if args.volume_ml is None else {f"{matching[0].name}/volume_ml": args.volume_ml}
    if args.centroid is not None:
        zyx = args.centroid[::-1]
        asked |= {f"{matching[0].name}/centroid_{a}": zyx[i] for a, i in zip("dhw", transpose_forward, strict=True)}
    return asked


def expand_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_expand_dataset``: write synthetic cases into a new dataset or the trainer's pool."""
    parser = _Parser(
        "Write synthetic cases into a new nnU-Net dataset (-o) or into the pool of nnUNetTrainerSBLDM (--pool). "
        "Running the same command again finishes interrupted work."
    )
    _dataset_arguments(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", type=_count, metavar="NEW_ID", help="write a new dataset with this id: real and synthetic cases")
    where.add_argument("--pool", action="store_true", help="fill the pool that nnUNetTrainerSBLDM draws from")
    parser.add_argument(
        "-f", nargs="+", default=["0", "1", "2", "3", "4"], metavar="FOLD", help="[OPTIONAL] folds. Default: 0 1 2 3 4"
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("-ratio", type=_positive, help="[OPTIONAL] synthetic cases per real training case of the fold. Default: 1")
    much.add_argument("-n", type=_count, help="[OPTIONAL] synthetic cases per fold, instead of -ratio")
    parser.add_argument(
        "-c",
        nargs="+",
        default=[DEFAULT_CONFIGURATION],
        metavar="CONFIGURATION",
        help=f"[OPTIONAL] configurations to preprocess for. Default: {DEFAULT_CONFIGURATION}",
    )
    parser.add_argument("-m", type=Path, metavar="MODEL", help="[OPTIONAL] one SBLDM for all folds. Default: each fold's own")
    _preset_argument(parser)
    _sampler_arguments(parser)
    _device_argument(parser)
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] check everything and say what would be written")
    args = parser.parse_args(argv)
    _run(lambda: _expand(args))


def _expand(args: argparse.Namespace) -> None:
    import torch

    from nnunet_sbldm.dataset_conversion.expand_dataset import (
        estimate_bytes,
        expanded_name,
        fill_pool,
        plan_jobs,
        views_of,
        write_dataset,
    )
    from nnunet_sbldm.nnunet import open_dataset, parse_fold

    dataset = open_dataset(args.d, args.p)
    if args.o:
        expanded_name(dataset, args.o)
    ratio = None if args.n else args.ratio or 1.0
    jobs = plan_jobs(
        dataset,
        [parse_fold(f) for f in args.f],
        ratio=ratio,
        num_cases=args.n,
        seed=args.seed,
        diversity=args.diversity,
        model=args.m,
        preset=args.preset,
    )
    device = _device(args.device)
    if args.dry_run:
        views_of(dataset, args.c)
        for job in jobs:
            ids = job.case_ids
            print(f"fold {job.fold}: {len(ids)} synthetic cases, {ids[0]} to {ids[-1]}, from {job.generator.folder}")
        print(f"at most {estimate_bytes(dataset, jobs, len(args.c), bool(args.o)) / 2**30:.2f} GB; nothing was written.")
        return
    for job in jobs:
        job.generator.to(torch.device(device))
    if args.pool:
        for folder in fill_pool(dataset, jobs, args.c, _sampler(args, device)):
            print(f"The pool is filled: {folder}")
        return
    folder = write_dataset(dataset, jobs, args.o, args.c, _sampler(args, device))
    print(f"The new dataset is ready: {folder}\nTrain on it: nnUNetv2_train {args.o} {args.c[0]} {args.f[0]} -p {args.p}")


def configure_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_configure``: add a configuration with settings of nnUNetTrainerSBLDM to the plans."""
    parser = _Parser("Add a configuration with the settings of nnUNetTrainerSBLDM to a dataset's plans.")
    _dataset_arguments(parser)
    parser.add_argument(
        "-c",
        default=DEFAULT_CONFIGURATION,
        metavar="CONFIGURATION",
        help=f"[OPTIONAL] configuration to inherit from. Default: {DEFAULT_CONFIGURATION}",
    )
    parser.add_argument(
        "-ratio", type=_number, required=True, help="[REQUIRED] share of synthetic cases among drawn cases, 0 to 1"
    )
    parser.add_argument("-name", help="[OPTIONAL] name of the new configuration. Default: CONFIGURATION_sbldmPERCENT")
    for option in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch"):
        parser.add_argument(f"-{option}", type=_count, help="[OPTIONAL] Default: as in nnU-Net")
    args = parser.parse_args(argv)
    _run(lambda: _configure(args))


def _configure(args: argparse.Namespace) -> None:
    from nnunet_sbldm.configure import add_configuration
    from nnunet_sbldm.mixing import MixingSettings

    options = ("ratio", "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
    asked = {o: getattr(args, o) for o in options if getattr(args, o) is not None}
    name = add_configuration(args.d, args.p, args.c, MixingSettings(**asked), args.name)
    print(f"Train it: nnUNetv2_train {args.d} {name} FOLD -p {args.p} -tr nnUNetTrainerSBLDM")


def demo_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_demo``: the whole job on the embedded phantom."""
    parser = _Parser(
        "The whole job on an embedded phantom: plan, preprocess, train an SBLDM, fill the pool, train nnU-Net, predict, report."
    )
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder; rerunning resumes")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"), help="[OPTIONAL] Default: cpu")
    args = parser.parse_args(argv)

    def main() -> None:
        from nnunet_sbldm.demo import run_demo

        run_demo(args.o, args.device)

    _run(main)


def trainers_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_trainers``: print the folder for nnU-Net's ``nnUNet_extTrainer``."""
    parser = _Parser('Print the folder of our trainers: export nnUNet_extTrainer="$(sbldm_trainers)".')
    parser.parse_args(argv)

    def main() -> None:
        from importlib.util import find_spec

        spec = find_spec("nnunet_sbldm.trainers")
        if spec is None or not spec.submodule_search_locations:
            raise UserError("The trainers are not installed; install the package with pip.")
        print(os.path.abspath(spec.submodule_search_locations[0]))

    _run(main)
