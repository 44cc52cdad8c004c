"""The training loop of a stage; killed, it goes on from its last saved state.

Everything random at a step is drawn from (seed, stage, step, process), so a resumed run is the uninterrupted run.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nnunet_sbldm.common.devices import best_precision, refuse_missing_device
from nnunet_sbldm.common.files import write_atomically
from nnunet_sbldm.common.progress import progress, say
from nnunet_sbldm.common.seeds import TrainingStream, rng_of
from nnunet_sbldm.generator.presets import StageConfig
from nnunet_sbldm.types import UserError

LOG_EVERY_STEPS = 25
LOG_COLUMNS = ("stage", "step", "num_steps", "loss", "image", "label", "kl", "novelty", "learning_rate", "seconds")
MIN_NOVELTY = 0.8
"""Novelty below which a stage ends, and keeps the weights of the last check that passed."""

LossOfStep = Callable[[nn.Module, np.random.Generator], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: ``autoencoder`` or ``denoiser``.
        stream: of the training's seed, for what is random at its steps.
        network: what is trained.
        config: optimisation.
        loss: (network, random generator of this step) -> total loss and its parts.
        picture: (averaged network, file) -> None, called at intervals.
        novelty: averaged network -> how far its samples are from copies of training cases, 1 as real cases are; called at
            the same intervals; None where there is nothing to copy.
    """

    name: str
    stream: TrainingStream
    network: nn.Module
    config: StageConfig
    loss: LossOfStep
    picture: Callable[[nn.Module, Path], None]
    novelty: Callable[[nn.Module], float] | None = None


MAX_WAIT = timedelta(days=2)
"""So long may other processes wait for the first one, which prepares the training cases alone."""


def make_accelerator(device: str) -> Accelerator:
    """Device, precision (bf16 where it is faster, else fp16 on GPUs, fp32 elsewhere) and processes; works under ``torchrun``."""
    refuse_missing_device(device)
    mixed_precision = "bf16" if best_precision(device) == "bf16" else ("fp16" if device == "cuda" else "no")
    patience = InitProcessGroupKwargs(timeout=MAX_WAIT)
    return Accelerator(mixed_precision=mixed_precision, cpu=device == "cpu", kwargs_handlers=[patience])


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
    weights_file = folder / f"{stage.name}.safetensors"
    stage.network.to(accelerator.device)
    if not weights_file.is_file():
        ema = _train(accelerator, stage, folder, seed)
        if accelerator.is_main_process:
            _save_weights(weights_file, ema)
        accelerator.wait_for_everyone()
    stage.network.load_state_dict(load_file(weights_file))
    stage.network.eval()


def _train(accelerator: Accelerator, stage: Stage, folder: Path, seed: int) -> nn.Module:
    """The averaged network after the last step, or of the last check before its samples became copies."""
    config, work = stage.config, folder / "work"
    state_file, kept_file = work / f"{stage.name}_state.pt", work / f"{stage.name}_kept.safetensors"
    ema = averaged(stage.network, config.ema_decay)
    optimizer = torch.optim.AdamW(stage.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    network, optimizer = accelerator.prepare(stage.network.train(), optimizer)
    first_step, seconds_before = _resume(state_file, stage.network, ema, optimizer, accelerator.device)
    log = TrainingLog(folder / "training_log.csv", stage.name, first_step, accelerator.is_main_process)
    started = time.monotonic() - seconds_before
    for step in _progress(stage, first_step, accelerator.is_main_process):
        rng = rng_of(seed, stage.stream, step, accelerator.process_index)
        loss, parts = _step(accelerator, stage, network, optimizer, rng, step)
        ema.update_parameters(stage.network)
        done = step + 1
        due = done % config.picture_every_steps == 0 or done == config.num_steps
        if due and stage.novelty:
            parts["novelty"] = stage.novelty(ema.module.eval())
        if due or done % LOG_EVERY_STEPS == 0:
            log.write(done, config, loss, parts, time.monotonic() - started)
        if not due:
            continue
        if accelerator.is_main_process:
            stage.picture(ema.module.eval(), folder / "pictures" / f"{stage.name}_{done:06d}.png")
        if parts.get("novelty", 1.0) < MIN_NOVELTY and kept_file.is_file():
            say(
                f"{stage.name}: ended after {done} of {config.num_steps} steps, because its samples come too near to training "
                f"cases (novelty {parts['novelty']:.2f}, wanted is {MIN_NOVELTY:g}); the weights of the check before stay."
            )
            ema.module.load_state_dict(load_file(kept_file))
            break
        if accelerator.is_main_process:
            _save_weights(kept_file, ema.module)
            _save_state(state_file, stage.network, ema, optimizer, done, time.monotonic() - started)
        accelerator.wait_for_everyone()
    return ema.module


def _progress(stage: Stage, first_step: int, is_main: bool) -> Iterator[int]:
    steps, total = range(first_step, stage.config.num_steps), stage.config.num_steps
    return progress(steps, stage.name, total, "step", first_step, is_main)


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


def _save_weights(file: Path, network: nn.Module) -> None:
    tensors = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
    write_atomically(file, lambda tmp: save_file(tensors, tmp))


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
    """``training_log.csv``, one row every ``LOG_EVERY_STEPS`` steps and at checks; rows past the resumed step are dropped."""

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
