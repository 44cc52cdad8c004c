"""Training of both stages; killed training resumes with the same command.

Everything random at a step is drawn from (seed, stage, step, process), so a resumed run is the uninterrupted run.
"""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from nnunet_sbldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.checkpoint import GeneratorPlan, build_autoencoder, build_denoiser, generator_folder, is_complete
from nnunet_sbldm.config import Preset, SamplerConfig, StageConfig
from nnunet_sbldm.diffusion import diffusion_loss, drop_condition, initial_noise, make_scheduler, sample
from nnunet_sbldm.files import read_json, remove_leftovers, sha256_of_json, write_atomically, write_json
from nnunet_sbldm.folds import CaseFingerprint
from nnunet_sbldm.grid import FILL
from nnunet_sbldm.latents import (
    decode_volume,
    encode_cases,
    encode_volume,
    foreground_weights,
    latent_statistics,
    one_hot_of,
)
from nnunet_sbldm.losses import IGNORED, autoencoder_loss
from nnunet_sbldm.nnunet import Fold, NnunetDataset
from nnunet_sbldm.pictures import Panel, montage
from nnunet_sbldm.preparation import prepare
from nnunet_sbldm.slices import TrainingArrays
from nnunet_sbldm.types import OUTSIDE, UserError

LOG_EVERY_STEPS = 25
PICTURED_CASES = 3
LOG_COLUMNS = ("stage", "step", "num_steps", "loss", "image", "label", "kl", "learning_rate", "seconds")

Network = TypeVar("Network", bound=nn.Module)
LossOfStep = Callable[[nn.Module, np.random.Generator], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: ``autoencoder`` or ``denoiser``.
        network: what is trained.
        config: optimisation.
        loss: (network, random generator of this step) -> total loss and its parts.
        picture: (averaged network, file) -> None, called at intervals.
    """

    name: str
    network: nn.Module
    config: StageConfig
    loss: LossOfStep
    picture: Callable[[nn.Module, Path], None]


def train_generator(
    dataset: NnunetDataset, fold: Fold, preset: Preset, case_ids: Sequence[str], device: str = "cuda", seed: int = 0
) -> Path:
    """Train autoencoder and denoiser on the given real cases and write a checkpoint.

    Args:
        dataset: preprocessed nnU-Net dataset.
        fold: fold the cases train in.
        preset: sizes and lengths.
        case_ids: real cases that the generator may see; nothing else of the dataset is looked at.
        device: ``cpu``, ``cuda`` or ``mps``.
        seed: seed of initialisation and training order.

    Returns:
        The checkpoint folder.

    Raises:
        UserError: bad cases, or an unfinished run with other settings in the way.
    """
    folder = generator_folder(dataset, preset.name, fold)
    if is_complete(folder):
        return folder
    accelerator = make_accelerator(device)
    plan, arrays, seen = _prepare_once(accelerator, dataset, fold, preset, case_ids, seed, folder)
    autoencoder = build_seeded(build_autoencoder, plan)
    train_stage(accelerator, autoencoder_stage(autoencoder, plan, arrays), folder, plan.seed)
    latents = torch.stack(list(encode_cases(autoencoder, arrays)))
    plan = plan.with_latents(*latent_statistics(latents))
    denoiser = build_seeded(build_denoiser, plan)
    weights = foreground_weights(arrays, plan.grid.latent_shape, plan.preset.diffusion.foreground_weight)
    train_stage(accelerator, denoiser_stage(denoiser, autoencoder, plan, latents, weights), folder, plan.seed)
    if accelerator.is_main_process:
        _finish(folder, dataset, plan, seen)
    accelerator.wait_for_everyone()
    return folder


def make_accelerator(device: str) -> Accelerator:
    """Device, precision and processes: bf16 (else fp16) on GPUs, fp32 elsewhere; works under ``torchrun``."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda was asked for, but no CUDA GPU is available; use -device cpu.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("-device mps was asked for, but it is not available; use -device cpu.")
    precision = "no" if device != "cuda" else ("bf16" if torch.cuda.is_bf16_supported() else "fp16")
    return Accelerator(mixed_precision=precision, cpu=device == "cpu")


def build_seeded(build: Callable[[GeneratorPlan], Network], plan: GeneratorPlan) -> Network:
    """Build a network whose initial weights depend on the plan's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return build(plan)


def _prepare_once(
    accelerator: Accelerator, dataset: NnunetDataset, fold: Fold, preset: Preset, case_ids: Sequence[str], seed: int, folder: Path
) -> tuple[GeneratorPlan, TrainingArrays, list[CaseFingerprint]]:
    """Read and check the cases, or reopen what an interrupted run prepared."""
    work = folder / "work"
    draft = work / "draft.json"
    asked = sha256_of_json([dataset.plans_hash(), list(case_ids), seed, repr(preset)])
    if accelerator.is_main_process:
        remove_leftovers(folder)
        if draft.is_file() and read_json(draft)["asked"] != asked:
            raise UserError(
                f"{folder} holds an unfinished run with other cases, plans, seed or preset; delete that folder to start anew."
            )
        if not draft.is_file():
            plan, _, seen = prepare(dataset, fold, preset, case_ids, seed, work)
            write_json(draft, {"asked": asked, "plan": plan.to_json(), "seen": [c.to_json() for c in seen]})
    accelerator.wait_for_everyone()
    stored = read_json(draft)
    return (
        GeneratorPlan.from_json(stored["plan"]),
        TrainingArrays.open(work),
        [CaseFingerprint.from_json(c) for c in stored["seen"]],
    )


def _finish(folder: Path, dataset: NnunetDataset, plan: GeneratorPlan, seen: Sequence[CaseFingerprint]) -> None:
    """Write what makes the checkpoint self-contained; ``generator.json`` last."""
    write_json(folder / "dataset.json", {k: v for k, v in dataset.dataset_json.items() if k not in ("dataset", "sbldm")})
    write_json(folder / "training_cases.json", [c.to_json() for c in seen])
    write_json(folder / "generator.json", plan.to_json())
    shutil.rmtree(folder / "work")


# --- the stages ----------------------------------------------------------------------------------------------------


def autoencoder_stage(autoencoder: SliceAutoencoder, plan: GeneratorPlan, arrays: TrainingArrays) -> Stage:
    """First stage: reconstruct slice pairs."""
    weights, num_classes, batch_size = arrays.slice_weights(), plan.encoding.num_classes, plan.preset.autoencoder_stage.batch_size

    def loss(network: nn.Module, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(network.parameters()).device
        image, classes, position = (t.to(device) for t in arrays.batch(rng.choice(len(weights), batch_size, p=weights)))
        outputs = network(image, one_hot_of(classes, num_classes), position, _torch_generator(rng))
        return autoencoder_loss(*(o.float() for o in outputs), image, classes)  # type: ignore[call-arg]

    def picture(network: nn.Module, file: Path) -> None:
        rows = []
        for n in range(min(PICTURED_CASES, len(arrays.images))):
            image, classes = (
                torch.from_numpy(arrays.images[n].astype(np.float32)),
                torch.from_numpy(arrays.classes[n].astype(np.int64)),
            )
            decoded = decode_volume(network, encode_volume(network, image, classes))  # type: ignore[arg-type]
            rows.append(("", [_panel(image, classes, plan, "training case"), _panel(*decoded, plan, "reconstruction")]))
        montage(file, rows)

    return Stage("autoencoder", autoencoder, plan.preset.autoencoder_stage, loss, picture)


def denoiser_stage(
    denoiser: nn.Module, autoencoder: SliceAutoencoder, plan: GeneratorPlan, latents: Tensor, weights: Tensor
) -> Stage:
    """Second stage: denoise standardised latent volumes [N, Z, D, h, w] under their conditions, with weights [N, 1, D, h, w]."""
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1, 1) for v in (plan.latent_mean, plan.latent_std))
    clean_all = (latents - mean) / std
    model, config = plan.condition_model, plan.preset.diffusion
    conditions = torch.from_numpy(model.scaling.scaled(model.table)).float()
    scheduler, batch_size = make_scheduler(config), plan.preset.denoiser_stage.batch_size

    def loss(network: nn.Module, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        device, generator = next(network.parameters()).device, _torch_generator(rng)
        chosen = torch.from_numpy(rng.integers(len(clean_all), size=batch_size))
        clean = clean_all[chosen]
        noise, time = (
            torch.randn(clean.shape, generator=generator),
            torch.from_numpy(rng.integers(config.num_train_timesteps, size=batch_size)),
        )
        condition = drop_condition(conditions[chosen], config, generator)
        return diffusion_loss(network, scheduler, *(t.to(device) for t in (clean, condition, time, noise, weights[chosen]))), {}

    def picture(network: nn.Module, file: Path) -> None:
        device, seeds = next(network.parameters()).device, range(min(PICTURED_CASES, len(latents)))
        noise = initial_noise(seeds, clean_all.shape[1:]).to(device)
        rows = []
        for n, z in enumerate(sample(network, config, SamplerConfig(), noise, conditions[: len(seeds)].to(device), seeds)):
            pair = (decode_volume(autoencoder, v.to(device)) for v in (latents[n], z.cpu() * std[0] + mean[0]))
            titles = ("training case, reconstructed", "sample, same condition")
            rows.append(("", [_panel(*decoded, plan, title) for decoded, title in zip(pair, titles, strict=True)]))
        montage(file, rows)

    return Stage("denoiser", denoiser, plan.preset.denoiser_stage, loss, picture)


def _panel(image: Tensor, classes: Tensor, plan: GeneratorPlan, title: str) -> Panel:
    """First channel and labels of a volume ([C, D, H, W] and class indices [D, H, W] or logits [K, D, H, W])."""
    indices = (classes.argmax(0) if classes.ndim == 4 else classes).cpu().numpy()
    label = plan.encoding.decode(np.where(indices == IGNORED, 1, indices))
    return Panel(np.where(label == OUTSIDE, FILL, image[0].cpu().numpy()), label, plan.grid.spacing_mm, title)


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


# --- the loop ------------------------------------------------------------------------------------------------------


def learning_rate_at(step: int, config: StageConfig) -> float:
    """Linear warm-up, then cosine decay to zero."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights, whose decay starts low: min(decay, (1 + n) / (10 + n))."""

    def average(mean: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        n = float(num_averaged)
        torch._foreach_lerp_(list(mean), list(current), 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(network, multi_avg_fn=average)


def train_stage(accelerator: Accelerator, stage: Stage, folder: Path, seed: int) -> None:
    """Train one stage to its end, from the start or from where it was killed, and leave the averaged weights in the network.

    Writes ``STAGE.safetensors``, rows of ``training_log.csv``, pictures, and a resumable state in ``work``.
    """
    weights_file, state_file = folder / f"{stage.name}.safetensors", folder / "work" / f"{stage.name}_state.pt"
    if weights_file.is_file():
        stage.network.load_state_dict(load_file(weights_file))
        stage.network.to(accelerator.device).eval()
        return
    config = stage.config
    stage.network.to(accelerator.device)
    ema = averaged(stage.network, config.ema_decay)
    optimizer = torch.optim.AdamW(stage.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    network, optimizer = accelerator.prepare(stage.network.train(), optimizer)
    first_step, seconds_before = _resume(state_file, stage.network, ema, optimizer, accelerator.device)
    log = TrainingLog(folder / "training_log.csv", stage.name, first_step, accelerator.is_main_process)
    started = time.monotonic() - seconds_before
    progress = tqdm(
        range(first_step, config.num_steps),
        stage.name,
        config.num_steps,
        initial=first_step,
        unit="step",
        disable=not accelerator.is_main_process,
        mininterval=1.0,
    )
    for step in progress:
        loss, parts = _step(
            accelerator,
            stage,
            network,
            optimizer,
            np.random.default_rng([seed, len(stage.name), step, accelerator.process_index]),
            step,
        )
        ema.update_parameters(stage.network)
        if (step + 1) % LOG_EVERY_STEPS == 0:
            progress.set_postfix(loss=f"{loss:.4f}")
            log.write(step + 1, config, loss, parts, time.monotonic() - started)
        if ((step + 1) % config.picture_every_steps == 0 or step + 1 == config.num_steps) and accelerator.is_main_process:
            stage.picture(ema.module.eval(), folder / "pictures" / f"{stage.name}_{step + 1:06d}.png")
            _save_state(state_file, stage.network, ema, optimizer, step + 1, time.monotonic() - started)
    stage.network.load_state_dict(ema.module.state_dict())
    stage.network.eval()
    if accelerator.is_main_process:
        tensors = {k: v.cpu().contiguous() for k, v in stage.network.state_dict().items()}
        write_atomically(weights_file, lambda tmp: save_file(tensors, tmp))
    accelerator.wait_for_everyone()


def _step(
    accelerator: Accelerator,
    stage: Stage,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    step: int,
) -> tuple[float, dict[str, float]]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, stage.config)
    with accelerator.autocast():
        loss, parts = stage.loss(network, rng)
    if not torch.isfinite(loss):
        raise UserError(f"The {stage.name} diverged at step {step} (loss {loss.item()}); use a smaller preset or another -seed.")
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(network.parameters(), stage.config.max_gradient_norm)
    optimizer.step()
    return loss.item(), {k: v.item() for k, v in parts.items()}


def _save_state(
    file: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {
        "network": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    write_atomically(file, lambda tmp: torch.save(state, tmp))


def _resume(
    file: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, float]:
    """Restore a state if there is one; the next step and the seconds already spent."""
    if not file.is_file():
        return 0, 0.0
    state = torch.load(file, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


class TrainingLog:
    """``training_log.csv``, one row every ``LOG_EVERY_STEPS`` steps; rows past the resumed step are dropped."""

    def __init__(self, file: Path, stage: str, first_step: int, is_main: bool) -> None:
        self.file, self.stage, self.is_main = file, stage, is_main
        if not is_main:
            return
        rows = []
        if file.is_file():
            with open(file, newline="", encoding="utf-8") as f:
                rows = [r for r in csv.DictReader(f) if r["stage"] != stage or int(r["step"]) <= first_step]
        with open(file, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, step: int, config: StageConfig, loss: float, parts: dict[str, float], seconds: float) -> None:
        """Append one row."""
        if not self.is_main:
            return
        row = {
            "stage": self.stage,
            "step": step,
            "num_steps": config.num_steps,
            "loss": f"{loss:.5f}",
            "learning_rate": f"{learning_rate_at(step - 1, config):.3e}",
            "seconds": f"{seconds:.1f}",
            **{k: f"{v:.5f}" for k, v in parts.items()},
        }
        with open(self.file, "a", newline="", encoding="utf-8") as f:
            csv.DictWriter(f, LOG_COLUMNS).writerow(row)
