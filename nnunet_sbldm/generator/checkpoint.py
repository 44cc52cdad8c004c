"""The generator's checkpoint: a folder that is enough to sample from, and to refuse when sampling would leak.

``generator.json`` (written last, so that a checkpoint is complete or absent) holds the generator's plan,
``autoencoder.safetensors`` and ``denoiser.safetensors`` the averaged weights, ``training_cases.json`` the real cases
that touched any part of it, ``dataset.json`` the labels and channels. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nnunet_sbldm.common.files import read_json, sha256_of_file, sha256_of_json
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.paths import DEFAULT_PLANS, Fold, nnunet_folder, number_of
from nnunet_sbldm.generator.decoding import decode_standardised
from nnunet_sbldm.generator.plan import FORMAT_VERSION, GeneratorPlan
from nnunet_sbldm.generator.presets import training_options
from nnunet_sbldm.generator.zoo import WEIGHTS, folder_name, is_complete
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.denoiser import Part, VolumeDenoiser
from nnunet_sbldm.ldm.latents import EVERYTHING, encode_volume
from nnunet_sbldm.types import FloatArray, UserError

RETIRED_OPTIONS = ("self_conditioning", "masked_share")
"""Of the diffusion: experiments that changed the denoiser's inputs and were taken out; models have them switched off."""


def build_autoencoder(plan: GeneratorPlan) -> SliceAutoencoder:
    """An untrained autoencoder of the planned size."""
    network = SliceAutoencoder(
        len(plan.channel_names), plan.encoding.num_classes, plan.grid.downsampling, plan.preset.autoencoder
    )
    return network.to(memory_format=torch.channels_last)  # twice as fast on CPUs


def build_denoiser(plan: GeneratorPlan) -> VolumeDenoiser:
    """An untrained denoiser of the planned size."""
    z = plan.preset.autoencoder.latent_channels + len(plan.channel_names) - 1
    network = VolumeDenoiser(
        (z, *plan.grid.latent_shape),
        plan.grid.latent_voxel_mm,
        plan.condition_scaling,
        plan.targets,
        plan.preset.denoiser,
        plan.layout,
    )
    return network.to(memory_format=torch.channels_last_3d)


@dataclass(frozen=True)
class SBLDMModel:
    """A trained SBLDM, ready to sample: plan, both networks, and the real cases that it has seen.

    Attributes:
        folder: where it lies.
        plan: its plan.
        autoencoder: first stage, evaluation mode.
        denoiser: second stage, evaluation mode.
        seen: every real case that touched any part of it.
        hash: hash of weights, plan and list of cases.
    """

    folder: Path
    plan: GeneratorPlan
    autoencoder: SliceAutoencoder
    denoiser: VolumeDenoiser
    seen: tuple[CaseFingerprint, ...]
    hash: str

    def to(self, device: torch.device) -> SBLDMModel:
        """Move both networks."""
        self.autoencoder.to(device)
        self.denoiser.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.denoiser.parameters()).device

    def encode(self, image: FloatArray, classes: np.ndarray, part: Part = EVERYTHING, precision: str = "fp32") -> torch.Tensor:
        """Standardised latent volume of a case on the grid, as the denoiser sees it.

        Args:
            image: [C, D, H, W] in network scale, see :meth:`GeneratorPlan.to_network`.
            classes: [D, H, W] class indices.
            part: which latents (D, h, w) to make.
            precision: one of ``PRECISIONS``.

        Returns:
            [Z, D, h, w] of that part, posterior means, on the model's device.
        """
        volume, indices = torch.from_numpy(image), torch.from_numpy(classes.astype(np.int64))
        return self.plan.standardised(encode_volume(self.autoencoder, volume, indices, part, precision))

    def decode(
        self, latent: torch.Tensor, part: Part = EVERYTHING, precision: str = "fp32"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image [C, D, H, W] in network scale and label logits [K, D, H, W]; see :func:`decode_standardised`."""
        return decode_standardised(self.plan, self.autoencoder, latent, part, precision)


def generator_folder(dataset: NnunetDataset, preset: str, fold: Fold) -> Path:
    """``nnUNet_results/DATASET/SBLDM__PLANS__PRESET/fold_F``."""
    return nnunet_folder("nnUNet_results") / dataset.name / folder_name(dataset.plans_name, preset) / f"fold_{fold}"


def training_command(dataset_name: str, plans_name: str, fold: Fold, preset: str | None = None) -> str:
    """The command that trains the generator of a fold; ``preset``, perhaps with a length, None for the default."""
    words = ["sbldm_train", "-d", str(number_of(dataset_name)), "-f", str(fold)]
    words += ["-p", plans_name] if plans_name != DEFAULT_PLANS else []
    return " ".join([*words, *(training_options(preset) if preset else ())])


def load_model(folder: Path, device: torch.device | None = None) -> SBLDMModel:
    """Load a finished generator.

    Raises:
        UserError: no generator there, damaged, or of another format.
    """
    if not is_complete(folder):
        raise UserError(f"There is no finished SBLDM in {folder}; train one with sbldm_train.")
    with _damaged_if_unreadable(folder):
        value = read_json(folder / "generator.json")
        found = value["format"]
    if found != FORMAT_VERSION:
        raise UserError(f"{folder / 'generator.json'} has format {found}; this version reads {FORMAT_VERSION}.")
    with _damaged_if_unreadable(folder):
        plan = GeneratorPlan.from_json(value)
        retired = [option for option in RETIRED_OPTIONS if value["preset"]["diffusion"].get(option)]
    if retired:
        raise UserError(
            f"The SBLDM in {folder} was trained with {' and '.join(retired)}, which this version no longer has; sample it with "
            f"nnunet-sbldm {plan.library_version}, or train it again."
        )
    with _damaged_if_unreadable(folder):
        autoencoder, denoiser = build_autoencoder(plan), build_denoiser(plan)
        for network, name in zip((autoencoder, denoiser), WEIGHTS, strict=True):
            _load_weights(network, folder / name)
        seen = _read_seen(folder, plan)
        if not read_json(folder / "dataset.json")["labels"]:
            raise ValueError("dataset.json names no labels")
    model = SBLDMModel(folder, plan, autoencoder, denoiser, seen, hash_of(folder))
    return model.to(device) if device else model


@contextmanager
def _damaged_if_unreadable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as e:
        raise UserError(f"The SBLDM in {folder} is damaged ({str(e).rstrip('.')}); copy it again or retrain it.") from e


def _read_seen(folder: Path, plan: GeneratorPlan) -> tuple[CaseFingerprint, ...]:
    """The list of training cases, on which the fold rule rests: it has one for every row of the plan's conditions, or more."""
    seen = tuple(CaseFingerprint.from_json(c) for c in read_json(folder / "training_cases.json"))
    if len(seen) < len(plan.condition_table):
        raise ValueError(f"training_cases.json lists {len(seen)} cases, but it was trained on {len(plan.condition_table)}")
    return seen


def _load_weights(network: nn.Module, path: Path) -> None:
    network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    network.eval().requires_grad_(False)


def hash_of(folder: Path) -> str:
    """Hash of everything in a checkpoint that decides what it generates or may be used for."""
    return sha256_of_json([sha256_of_file(folder / n) for n in (*WEIGHTS, "generator.json", "training_cases.json")])[:16]


def refuse_mismatch(model: SBLDMModel, dataset: NnunetDataset) -> None:
    """Raise a :class:`UserError` if channels or labels of a generator are not those of the dataset."""
    if list(model.plan.channel_names) != dataset.channel_names:
        raise UserError(
            f"The SBLDM in {model.folder} makes the channels {', '.join(model.plan.channel_names)}, but "
            f"{dataset.name} has {', '.join(dataset.channel_names)}."
        )
    theirs = read_json(model.folder / "dataset.json")["labels"]
    if theirs != dataset.dataset_json["labels"]:
        raise UserError(
            f"The SBLDM in {model.folder} makes the labels {theirs}, but {dataset.name} has {dataset.dataset_json['labels']}."
        )


def has_its_plans(model: SBLDMModel, dataset: NnunetDataset) -> bool:
    """Whether the plans that a generator was trained with still say of a dataset what they said then."""
    plan = model.plan
    view = replace(dataset, plans_name=plan.plans_name, configuration=plan.configuration)
    is_planned = (dataset.preprocessed / f"{plan.plans_name}.json").is_file()
    return is_planned and plan.configuration in view.plans.available_configurations and view.plans_hash() == plan.plans_hash
