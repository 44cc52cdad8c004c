"""Time and memory of a synthetic pair: our slice-based generator beside MONAI's 3-D latent diffusion.

    pip install -e .[benchmarks]
    python benchmarks/sampling.py -grid 48 64 48 -preset small -steps 20

Both sides have untrained weights, the same field of view, image channels and classes, the same sampler code (DDIM, number of
steps, guidance with two evaluations per step), the same arithmetic, and numbers of parameters within 20 %. MONAI's side is
the layout of its BraTS bundle: ``AutoencoderKL`` with three levels, two residual blocks each, no attention, down-sampling by 4
along all axes; ``DiffusionModelUNet`` with three levels of widths w, w, 2w, two residual blocks each, attention with the
condition as context at the lower two. The width of each network is the one whose number of parameters is nearest to ours, and
the latents have as many channels.

Every measurement is a process of its own, the sides alternate, and medians over ``-repeats`` are printed. All is warmed up once.
Steps cost the same throughout a trajectory: ``-measured_steps`` of them are timed and scaled to ``-steps``, so that seconds per
pair = steps x seconds per step + seconds per decoding; by default all steps are timed. Memory is
the largest resident set of the process (on CUDA: allocated by torch), in all and beyond what it has after importing.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_sbldm.data.conditions import FEATURES, ConditionScaling, Target, feature_names
from nnunet_sbldm.data.grid import Grid
from nnunet_sbldm.data.intensities import IntensityScaling
from nnunet_sbldm.data.labels import LabelEncoding
from nnunet_sbldm.generator.checkpoint import SBLDMModel, build_autoencoder, build_denoiser
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.presets import PRESETS
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import sample_latents
from nnunet_sbldm.ldm.config import PRECISIONS, SamplerConfig
from nnunet_sbldm.ldm.diffusion import SeededNoise, sample
from nnunet_sbldm.ldm.latents import decode_volume
from nnunet_sbldm.quality.gate import GateReference
from nnunet_sbldm.types import OUTSIDE, Geometry

if TYPE_CHECKING:
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

SIDES = ("ours", "monai")
MONAI_FACTOR = 4
MAX_PARAMETER_DIFFERENCE = 0.2
NORM_GROUPS = 8
GIB = 2**30
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Measurement:
    """One process.

    Attributes:
        step_s: seconds of one denoising step, guidance included.
        decode_s: seconds of decoding a latent volume to image and label logits.
        peak_gib: largest memory of the process.
        net_gib: the same beyond what it had before the networks were built.
        autoencoder_parameters: number of parameters.
        denoiser_parameters: likewise.
        description: sizes that were chosen.
    """

    step_s: float
    decode_s: float
    peak_gib: float
    net_gib: float
    autoencoder_parameters: int
    denoiser_parameters: int
    description: str


@dataclass(frozen=True)
class Pipeline:
    """What is measured of either side.

    Attributes:
        draw: number of steps -> latent volume.
        decode: latent volume -> nothing that is kept.
        autoencoder: for its number of parameters.
        denoiser: likewise.
        description: sizes that were chosen.
    """

    draw: Callable[[int], Tensor]
    decode: Callable[[Tensor], object]
    autoencoder: nn.Module
    denoiser: nn.Module
    description: str


# --- ours ----------------------------------------------------------------------------------------------------------


def synthetic_plan(preset: str, shape: tuple[int, int, int], num_channels: int, num_labels: int) -> GeneratorPlan:
    """A plan for cases of 1 mm voxels that fill the grid, with plausible conditions for every label."""
    targets = tuple(Target(f"label_{v}", (v,)) for v in range(1, num_labels + 1))
    names = feature_names(targets)
    anatomy_mm = [float(n) for n in shape]
    block = dict(zip(FEATURES, (1.0, 2.0, 0.5, 0.5, 0.5, 15.0, 15.0, 15.0, 0.7, 1.0), strict=True))
    rng = np.random.default_rng(0)
    table = np.array([[*(list(block.values()) * num_labels), *anatomy_mm]] * 8) * rng.uniform(0.9, 1.1, (8, len(names)))
    latent_channels = PRESETS[preset].autoencoder.latent_channels + num_channels - 1
    per_channel = [(v,) * num_channels for v in (0.0, 1.0, 1.0, 0.0, 0.0, 0.0)]
    return GeneratorPlan(
        dataset_name="Dataset000_Benchmark",
        plans_name="nnUNetPlans",
        configuration="3d_fullres",
        plans_hash="",
        fold=0,
        seed=0,
        library_version="",
        preset=PRESETS[preset],
        channel_names=tuple(f"channel_{c}" for c in range(num_channels)),
        encoding=LabelEncoding((OUTSIDE, *range(num_labels + 1))),
        targets=targets,
        grid=Grid(shape, (1.0, 1.0, 1.0), (0, 1, 2), outside_is_box=False),
        intensity=IntensityScaling(*per_channel),
        condition_scaling=ConditionScaling.fit(names, table),
        condition_table=tuple(tuple(row) for row in table.tolist()),
        min_component_voxels={},
        gate=GateReference(8, {}, {}, {}),
        template=Geometry((1.0, 1.0, 1.0)),
        latent_mean=(0.0,) * latent_channels,
        latent_std=(1.0,) * latent_channels,
    )


def padded_shape(shape: list[int], factors: tuple[int, int, int]) -> tuple[int, int, int]:
    """The smallest shape (D, H, W) that holds ``shape`` and that the factors divide."""
    d, h, w = (-(-n // f) * f for n, f in zip(shape, factors, strict=True))
    return d, h, w


def our_pipeline(args: argparse.Namespace) -> Pipeline:
    """The generator of a preset on the grid."""
    factor = Grid(tuple(args.grid), (1.0, 1.0, 1.0), (0, 1, 2), outside_is_box=False).downsampling
    plan = synthetic_plan(args.preset, padded_shape(args.grid, (1, factor, factor)), args.channels, args.labels)
    autoencoder, denoiser = build_autoencoder(plan), build_denoiser(plan)
    model = SBLDMModel(Path(), plan, autoencoder.eval(), denoiser.eval(), (), "").to(torch.device(args.device))
    condition = plan.condition_model.table[0]

    def draw(num_steps: int) -> Tensor:
        sampler = SamplerConfig("ddim", 0.0, num_steps, args.guidance, precision=args.precision, max_corrections=0)
        return sample_latents(model, [Request("benchmark", 0, {})], [condition], sampler)[0]

    d, h, w = plan.grid.latent_shape
    text = f"preset {args.preset}, latents {len(plan.latent_mean)} x {d} x {h} x {w}"
    return Pipeline(draw, lambda z: decode_volume(model.autoencoder, z), autoencoder, denoiser, text)


# --- MONAI's -------------------------------------------------------------------------------------------------------


def monai_autoencoder(width: int, num_channels: int, latent_channels: int) -> AutoencoderKL:
    """Three levels of widths w, 2w, 4w."""
    from monai.networks.nets import AutoencoderKL

    return AutoencoderKL(
        spatial_dims=3,
        in_channels=num_channels,
        out_channels=num_channels,
        channels=(width, 2 * width, 4 * width),
        num_res_blocks=2,
        attention_levels=(False, False, False),
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        latent_channels=latent_channels,
        norm_num_groups=NORM_GROUPS,
    )


def monai_denoiser(width: int, latent_channels: int, num_features: int) -> DiffusionModelUNet:
    """Three levels of widths w, w, 2w."""
    from monai.networks.nets import DiffusionModelUNet

    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=latent_channels,
        out_channels=latent_channels,
        channels=(width, width, 2 * width),
        num_res_blocks=2,
        attention_levels=(False, True, True),
        num_head_channels=(0, width, width),
        norm_num_groups=NORM_GROUPS,
        with_conditioning=True,
        cross_attention_dim=num_features,
        use_flash_attention=True,  # torch's scaled_dot_product_attention, as in ours
    )


def of_size(build: Callable[[int], Network], num_parameters: int) -> tuple[Network, int]:
    """The network, and its width, whose number of parameters is nearest to the given one."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return num_parameters_of(build(width))

    width = min(range(NORM_GROUPS, 512, NORM_GROUPS), key=lambda w: abs(count(w) - num_parameters))
    return build(width), width


def num_parameters_of(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def monai_pipeline(args: argparse.Namespace) -> Pipeline:
    """MONAI's latent diffusion with as many parameters as ours."""
    shape = padded_shape(args.grid, (2 * 2 * MONAI_FACTOR,) * 3)  # two strides of the denoiser after the autoencoder's
    plan = synthetic_plan(args.preset, tuple(args.grid), args.channels, args.labels)
    with torch.device("meta"):
        sizes = [num_parameters_of(build(plan)) for build in (build_autoencoder, build_denoiser)]
    latent_channels, num_features = len(plan.latent_mean), len(plan.condition_scaling.names)
    image_and_classes = args.channels + plan.encoding.num_classes
    autoencoder, ae_width = of_size(lambda w: monai_autoencoder(w, image_and_classes, latent_channels), sizes[0])
    denoiser, width = of_size(lambda w: monai_denoiser(w, latent_channels, num_features), sizes[1])
    device = torch.device(args.device)
    autoencoder.to(device).eval()
    denoiser.to(device).eval()
    condition = torch.zeros(1, num_features, device=device)
    latent_shape = tuple(n // MONAI_FACTOR for n in shape)

    def denoise(z: Tensor, time_step: Tensor, c: Tensor) -> Tensor:
        return denoiser(z, timesteps=time_step, context=c.nan_to_num()[:, None])

    def draw(num_steps: int) -> Tensor:
        sampler = SamplerConfig("ddim", 0.0, num_steps, args.guidance, precision=args.precision, max_corrections=0)
        noise = SeededNoise([0], (latent_channels, *latent_shape))
        return sample(denoise, plan.preset.diffusion, sampler, noise, condition)[0]

    text = f"widths {ae_width}, {2 * ae_width}, {4 * ae_width} and {width}, {width}, {2 * width}; latents " + " x ".join(
        map(str, (latent_channels, *latent_shape))
    )
    return Pipeline(draw, lambda z: autoencoder.decode(z[None]), autoencoder, denoiser, text)


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> Measurement:
    """Time one side in this process."""
    before = resident_gib(args.device)
    pipeline = (our_pipeline if args.worker == "ours" else monai_pipeline)(args)
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    with torch.inference_mode(), autocast:
        latent = pipeline.draw(1)  # warm-up
        step_s = seconds_of(lambda: pipeline.draw(args.measured_steps), args) / args.measured_steps
        pipeline.decode(latent.float())  # warm-up
        decode_s = seconds_of(lambda: pipeline.decode(latent.float()), args)
    peak = peak_gib(args.device)
    sizes = (num_parameters_of(pipeline.autoencoder), num_parameters_of(pipeline.denoiser))
    return Measurement(step_s, decode_s, peak, peak - before, *sizes, pipeline.description)


def seconds_of(run: Callable[[], object], args: argparse.Namespace) -> float:
    """Time of a call, until the device is done."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    start = clock()
    run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def resident_gib(device: str) -> float:
    """What the process holds now."""
    if device == "cuda":
        return torch.cuda.memory_allocated() / GIB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / GIB


def peak_gib(device: str) -> float:
    """The most that the process held."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def in_own_process(side: str, argv: list[str]) -> Measurement:
    """One measurement of one side."""
    command = [sys.executable, __file__, *argv, "--worker", side]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def report(side: str, found: list[Measurement], num_steps: int) -> tuple[float, float, float]:
    """Print medians of one side; seconds per pair, peak and net memory."""
    step_s, decode_s = median(m.step_s for m in found), median(m.decode_s for m in found)
    peak, net = median(m.peak_gib for m in found), median(m.net_gib for m in found)
    seconds, one = num_steps * step_s + decode_s, found[0]
    print(
        f"  {side:6s} {seconds:8.3f} s/pair = {num_steps} x {step_s:.4f} s/step + {decode_s:.4f} s decoding; "
        f"memory {peak:.2f} GiB, {net:.2f} beyond imports; autoencoder {one.autoencoder_parameters / 1e6:.3f} M, "
        f"denoiser {one.denoiser_parameters / 1e6:.3f} M parameters; {one.description}",
        flush=True,
    )
    return seconds, peak, net


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-grid", type=int, nargs=3, default=[48, 64, 48], metavar=("D", "H", "W"))
    parser.add_argument("-preset", default="small", choices=PRESETS)
    parser.add_argument("-channels", type=int, default=1, help="image channels")
    parser.add_argument("-labels", type=int, default=2, help="foreground labels")
    parser.add_argument("-steps", type=int, default=20, help="steps per pair")
    parser.add_argument("-measured_steps", type=int, help="steps that are timed. Default: all")
    parser.add_argument("-guidance", type=float, default=1.5)
    parser.add_argument("-precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-repeats", type=int, default=3)
    parser.add_argument("-clock", default="wall", choices=("wall", "cpu"), help="cpu: of all threads, for a busy machine")
    parser.add_argument("--ours_only", action="store_true")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.measured_steps = args.measured_steps or args.steps
    return args


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(asdict(measure(args))))
        return
    print(
        f"{' x '.join(map(str, args.grid))}, {args.channels} channel(s), {args.labels} label(s), guidance {args.guidance:g}, "
        f"{args.precision}, {args.device}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"{args.clock} time, {args.measured_steps} of {args.steps} steps timed, median of {args.repeats}",
        flush=True,
    )
    sides = ("ours",) if args.ours_only else SIDES
    found: dict[str, list[Measurement]] = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            found[side].append(in_own_process(side, sys.argv[1:]))
    totals = [report(side, found[side], args.steps) for side in sides]
    if args.ours_only:
        return
    ours, theirs = (found[side][0] for side in sides)
    sizes = [m.autoencoder_parameters + m.denoiser_parameters for m in (ours, theirs)]
    if abs(sizes[1] / sizes[0] - 1) > MAX_PARAMETER_DIFFERENCE:
        sys.exit(f"The numbers of parameters differ by more than 20 %: {sizes[0]} and {sizes[1]}.")
    time_ratio, peak_ratio, net_ratio = (b / a for a, b in zip(*totals, strict=True))
    print(f"  MONAI / ours: time {time_ratio:.2f}, memory {peak_ratio:.2f}, beyond imports {net_ratio:.2f}, "
          f"parameters {sizes[1] / sizes[0]:.2f}")


if __name__ == "__main__":
    main()
