"""What the commands share: parser, argument types, common options, and errors as one sentence with an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nnunet_sbldm import __version__
from nnunet_sbldm.common.threads import wait_passively
from nnunet_sbldm.generator.presets import (
    DEFAULT_PRESET,
    EDIT_SAMPLER,
    PRESETS,
    SAMPLERS,
    DiffusionConfig,
    SamplerConfig,
    known_preset,
)
from nnunet_sbldm.generator.zoo import is_shared
from nnunet_sbldm.types import UnfitGeneratorError, UserError

DEFAULT_PLANS = "nnUNetPlans"
DEFAULT_CONFIGURATION = "3d_fullres"
CUDA_BATCH_SIZE = 8
MAX_SEED = 2**63 - 1
USER_ERRNO = {
    errno.ENOSPC: "the disk is full",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EDQUOT: "the disk quota is used up",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "not a folder",
    errno.EEXIST: "a file of that name is in the way",
}


class Parser(argparse.ArgumentParser):
    """Bad options end with one sentence and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description)
        self.add_argument("--version", action="version", version=f"nnunet-sbldm {__version__}")

    def error(self, message: str) -> NoReturn:
        """Print one sentence and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def run(main: Callable[[], None]) -> None:
    """Run a command and turn its errors into one sentence and an exit code."""
    wait_passively()
    try:
        main()
    except UserError as e:
        _exit(str(e), 2)
    except UnfitGeneratorError as e:
        _exit(str(e), 3)
    except BrokenPipeError:  # whoever reads what we print, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
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


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if value != value or abs(value) == float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 that fits into 63 bits."""
    if not text.isdigit() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {MAX_SEED}, got {text!r}")
    return int(text)


def steps(text: str) -> int:
    """A number of denoising steps: no more than the diffusion process has."""
    value, most = count(text), DiffusionConfig.num_train_timesteps
    if value > most:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most}, got {text!r}")
    return value


def dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """``-d`` and ``-p``."""
    parser.add_argument("-d", required=True, metavar="DATASET", help="[REQUIRED] dataset id or name")
    parser.add_argument(
        "-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"[OPTIONAL] plans identifier. Default: {DEFAULT_PLANS}"
    )


def device_argument(parser: argparse.ArgumentParser) -> None:
    """``-device``."""
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), help="[OPTIONAL] Default: cuda if there is a GPU, else cpu")


def model_argument(parser: argparse.ArgumentParser) -> None:
    """``-m``: the folder or the name of a model, for :func:`nnunet_sbldm.generator.zoo.find_model`."""
    parser.add_argument(
        "-m", required=True, metavar="MODEL", help="[REQUIRED] folder of a trained SBLDM, or a name that sbldm_models lists"
    )


def announce_licence(folder: Path) -> None:
    """Say under which licence a model is used, where it states one."""
    from nnunet_sbldm.generator.card import licence_note

    if note := licence_note(folder):
        print(note)


def output_of(args: argparse.Namespace, folder: Path, name: str) -> Path:
    """The output folder of the options; by default ``name`` in the folder of the model.

    Raises:
        UserError: the model is a shared one, which stays as it came.
    """
    if args.o is None and is_shared(folder):
        raise UserError(f"The SBLDM in {folder} is a shared one and stays as it came; say with -o where to write.")
    return args.o or folder / name


def preset_argument(parser: argparse.ArgumentParser) -> None:
    """``-preset`` of a generator to be trained."""
    parser.add_argument(
        "-preset", default=DEFAULT_PRESET, choices=tuple(PRESETS), help=f"[OPTIONAL] generator size. Default: {DEFAULT_PRESET}"
    )


def trained_preset_argument(parser: argparse.ArgumentParser) -> None:
    """``-preset`` of a generator that was trained, perhaps with another length."""

    def name(value: str) -> str:
        try:
            return known_preset(value)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    parser.add_argument(
        "-preset", type=name, metavar="PRESET",
        help=f"[OPTIONAL] size of the trained generator: {', '.join(PRESETS)}, with its -length if it had one, as small_x1.5. "
        "Default: the only one that the fold has",
    )


def groups_argument(parser: argparse.ArgumentParser) -> None:
    """``-groups``."""
    parser.add_argument(
        "-groups",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] JSON object, case id to patient: scans of one patient never straddle; remembered",
    )


def sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the sampler, ``-diversity`` and ``-seed``."""
    default = SamplerConfig()
    parser.add_argument(
        "-sampler", choices=SAMPLERS, help=f"[OPTIONAL] Default: {default.name}; {EDIT_SAMPLER.name} where hosts are edited"
    )
    parser.add_argument(
        "-eta", type=number, default=default.eta, help="[OPTIONAL] noise of DDIM steps, 0 (deterministic) to 1. Default: 0"
    )
    parser.add_argument(
        "-steps",
        type=steps,
        default=default.num_steps,
        help=f"[OPTIONAL] denoising steps. Default: {default.num_steps}",
    )
    parser.add_argument(
        "-guidance",
        type=number,
        default=default.guidance_scale,
        help=f"[OPTIONAL] classifier-free guidance scale, 1 = off. Default: {default.guidance_scale}",
    )
    parser.add_argument(
        "-corrections",
        type=seed,
        default=default.max_corrections,
        metavar="N",
        help="[OPTIONAL] draw a case again, N times at most, where it misses the asked volume (by 15 %%, less where volumes are "
        f"alike). Default: {default.max_corrections}",
    )
    parser.add_argument(
        "-diversity",
        type=positive,
        default=1.0,
        help="[OPTIONAL] width of the condition model's kernels, 1 = as fitted. Default: 1",
    )
    parser.add_argument("-seed", type=seed, default=0, help="[OPTIONAL] seed. Default: 0")


def device_of(asked: str | None) -> str:
    """The device asked for, else a GPU if there is one.

    Raises:
        UserError: this machine has no such device.
    """
    import torch

    from nnunet_sbldm.ldm.diffusion import refuse_missing_device

    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    refuse_missing_device(device)
    return device


def sampler_of(args: argparse.Namespace, device: str, default: SamplerConfig | None = None) -> SamplerConfig:
    """Sampler settings of the options; those that are left out are those of ``default`` (whole cases)."""
    from nnunet_sbldm.ldm.diffusion import best_precision

    default = default or SamplerConfig()
    name = args.sampler or default.name
    if args.eta and name != "ddim":
        raise UserError(f"-eta goes with -sampler ddim, not with {name}.")
    batch_size = CUDA_BATCH_SIZE if device == "cuda" else 1
    return SamplerConfig(
        name,
        args.eta,
        args.steps,
        args.guidance,
        batch_size,
        best_precision(device),
        args.corrections,
    )
