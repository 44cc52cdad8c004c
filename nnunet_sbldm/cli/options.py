"""Options that several commands share, and the settings that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_sbldm.common.commands import count, number, positive, seed
from nnunet_sbldm.data.paths import DEFAULT_PLANS
from nnunet_sbldm.generator.presets import DEFAULT_PRESET, PRESETS, known_preset
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SAMPLERS, DiffusionConfig, SamplerConfig


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
    from nnunet_sbldm.common.devices import chosen_device

    return chosen_device(asked)


def sampler_of(args: argparse.Namespace, device: str, default: SamplerConfig | None = None) -> SamplerConfig:
    """Sampler settings of the options; those that are left out are those of ``default`` (whole cases)."""
    from nnunet_sbldm.api.settings import suited_sampler

    name = args.sampler or (default or SamplerConfig()).name
    return suited_sampler(SamplerConfig(name, args.eta, args.steps, args.guidance, max_corrections=args.corrections), device)
