"""``sbldm_train`` without its command line: prepare once, train both stages, fit what is fitted to samples, finish."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from nnunet_sbldm.common.files import read_json, remove_leftovers, sha256_of_json, write_json
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.card import make_card, write_card
from nnunet_sbldm.generator.checkpoint import build_autoencoder, build_denoiser
from nnunet_sbldm.generator.outlines import Outlines
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.texture import Texture
from nnunet_sbldm.generator.zoo import is_complete
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.latents import encode_cases, foreground_weights, latent_statistics, reconstructions
from nnunet_sbldm.training.finetuning import initial_weights
from nnunet_sbldm.training.fit_coherence import as_coherent_as_real
from nnunet_sbldm.training.fit_outlines import as_rough_as_real, error_correlation
from nnunet_sbldm.training.loop import make_accelerator, train_stage
from nnunet_sbldm.training.preparation import prepare
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.stages import MAX_DECODED_CASES, LatentCases, autoencoder_stage, conditions_of, denoiser_stage
from nnunet_sbldm.types import UserError

Network = TypeVar("Network", bound=nn.Module)


def train_generator(request: TrainingRequest, device: str = "cuda") -> Path:
    """Train autoencoder and denoiser on the asked real cases and write a checkpoint.

    Args:
        request: what to train on what.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The checkpoint folder.

    Raises:
        UserError: bad cases, or a finished or unfinished run with other settings in the way.
    """
    folder = request.folder
    if is_complete(folder):
        _refuse_other(request)
        shutil.rmtree(folder / "work", ignore_errors=True)
        return folder
    accelerator = make_accelerator(device)
    plan, arrays, seen = _prepare_once(accelerator, request)
    plan = train_stages(accelerator, plan, arrays, folder)
    if accelerator.is_main_process:
        finish(folder, request.dataset, plan, seen)
        shutil.rmtree(folder / "work", ignore_errors=True)  # what a file server still holds goes when the command is run again
    accelerator.wait_for_everyone()
    return folder


def _refuse_other(request: TrainingRequest) -> None:
    """A finished generator is taken for the one that is asked for only if it is."""
    folder, initial = request.folder, request.initial
    plan, inherited = read_json(folder / "generator.json"), initial.model.seen if initial else ()
    seen = {case["case_id"] for case in read_json(folder / "training_cases.json")}
    differences = {
        "started from another model": plan.get("initial", {}).get("hash", "") != (initial.model.hash if initial else ""),
        "was trained on other cases": seen != {*request.case_ids, *(case.case_id for case in inherited)},
        f"was trained with the seed {plan['seed']}": plan["seed"] != request.seed,
        "was trained with other plans": plan["plans_hash"] != request.dataset.plans_hash(),
    }
    found = [difference for difference, is_there in differences.items() if is_there]
    if found:
        raise UserError(f"{folder} holds an SBLDM that {' and '.join(found)}; move that folder away to train this one.")


def train_stages(accelerator: Accelerator, plan: GeneratorPlan, arrays: TrainingArrays, folder: Path) -> GeneratorPlan:
    """Train both networks of a planned generator into ``folder``; the plan with the statistics of its latents."""
    autoencoder = _starting_network(build_autoencoder, plan, folder, "autoencoder")
    train_stage(accelerator, autoencoder_stage(autoencoder, plan, arrays), folder, plan.seed)
    latents, num_cases = torch.stack(list(encode_cases(autoencoder, arrays))), len(plan.condition_table)
    plan = _with_first_stage(plan, autoencoder, arrays, latents[:num_cases])
    denoiser = _starting_network(build_denoiser, plan, folder, "denoiser")
    weights = foreground_weights(arrays, plan.grid.latent_shape, plan.preset.diffusion.foreground_weight)
    cases = LatentCases(plan.standardised(latents), conditions_of(arrays, plan), weights)
    train_stage(accelerator, denoiser_stage(denoiser, autoencoder, plan, cases), folder, plan.seed)
    return fitted_to_samples(plan, arrays, autoencoder, denoiser)


def fitted_to_samples(
    plan: GeneratorPlan, arrays: TrainingArrays, autoencoder: SliceAutoencoder, denoiser: nn.Module
) -> GeneratorPlan:
    """The plan with what samples of its trained networks need to be like the training cases: noise, then outlines."""
    plan = replace(plan, noise_correlation=as_coherent_as_real(plan, arrays, autoencoder, denoiser))
    return replace(plan, outlines=as_rough_as_real(plan, arrays, autoencoder, denoiser))


def _with_first_stage(
    plan: GeneratorPlan, autoencoder: SliceAutoencoder, arrays: TrainingArrays, latents: Tensor
) -> GeneratorPlan:
    """The plan with latent statistics and texture of the (real) training cases, whose latents are [N, Z, D, h, w].

    Outlines have the correlation of the decoder's errors, and no strength before there are samples.
    """
    decoded = partial(reconstructions, autoencoder, arrays, latents[:MAX_DECODED_CASES])
    residuals = ((residual, classes) for residual, _, classes in decoded())
    texture = Texture.fit(residuals, len(plan.channel_names), plan.encoding.num_classes)
    correlation = error_correlation((logits, classes) for _, logits, classes in decoded())
    return plan.with_first_stage(*latent_statistics(latents), texture, Outlines(0.0, correlation))


def _starting_network(build: Callable[[GeneratorPlan], Network], plan: GeneratorPlan, folder: Path, stage: str) -> Network:
    """An untrained network, or one with the weights of the initial model."""
    network, weights = build_seeded(build, plan), initial_weights(folder / "work", stage)
    if weights.is_file():
        network.load_state_dict(load_file(weights))
    return network


def build_seeded(build: Callable[[GeneratorPlan], Network], plan: GeneratorPlan) -> Network:
    """Build a network whose initial weights depend on the plan's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return build(plan)


def _prepare_once(
    accelerator: Accelerator, request: TrainingRequest
) -> tuple[GeneratorPlan, TrainingArrays, list[CaseFingerprint]]:
    """Read and check the cases, or reopen what an interrupted run prepared."""
    folder, work = request.folder, request.folder / "work"
    draft, asked = work / "draft.json", sha256_of_json(request.identity())
    if accelerator.is_main_process:
        remove_leftovers(folder)
        if draft.is_file() and read_json(draft)["asked"] != asked:
            raise UserError(
                f"{folder} holds an unfinished run with other cases, plans, seed, preset or -init; "
                "delete that folder to start anew."
            )
        if not draft.is_file():
            plan, _, seen = prepare(request, work)
            if request.initial:
                request.initial.save_weights(plan, work)
                seen = request.initial.seen_with(seen)
            write_json(draft, {"asked": asked, "plan": plan.to_json(), "seen": [c.to_json() for c in seen]})
    accelerator.wait_for_everyone()
    stored = read_json(draft)
    return (
        GeneratorPlan.from_json(stored["plan"]),
        TrainingArrays.open(work),
        [CaseFingerprint.from_json(c) for c in stored["seen"]],
    )


def finish(folder: Path, dataset: NnunetDataset, plan: GeneratorPlan, seen: Sequence[CaseFingerprint]) -> None:
    """Write what makes the checkpoint self-contained, and its card; ``generator.json`` last."""
    dataset_json = {k: v for k, v in dataset.dataset_json.items() if k not in ("dataset", "sbldm")}
    cases = [c.to_json() for c in seen]
    write_json(folder / "dataset.json", dataset_json)
    write_json(folder / "training_cases.json", cases)
    write_card(folder, make_card(folder, plan, dataset_json, cases))
    write_json(folder / "generator.json", plan.to_json())
