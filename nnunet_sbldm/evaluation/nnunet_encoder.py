"""Features of a case as a trained nnU-Net sees it: means over its encoder's deepest feature maps.

The network must be one that was trained on the same preprocessing, on real cases alone, in the fold of the generator: then
the held-out cases of the comparison are unseen by both.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from torch import nn

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.dataset import NnunetDataset, channel_names_of, preprocessing_hash
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.mixing.settings import SETTINGS_NAME
from nnunet_sbldm.types import FloatArray, UserError

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


@dataclass(frozen=True)
class NnunetEncoder:
    """Encoder of a trained nnU-Net.

    Attributes:
        encoder: network that gives one feature map per resolution, the deepest last.
        patch_size: (D, H, W) it was trained on.
        device: where it is.
    """

    encoder: nn.Module
    patch_size: tuple[int, ...]
    device: torch.device

    @torch.inference_mode()
    def features(self, image: FloatArray) -> np.ndarray:
        """Mean of the deepest feature maps over all patches of a preprocessed image [C, D, H, W]: float64 [features]."""
        padding = [(0, max(p - n, 0)) for n, p in zip(image.shape[1:], self.patch_size, strict=True)]
        volume = F.pad(torch.from_numpy(image), [n for pair in padding[::-1] for n in pair])
        steps = compute_steps_for_sliding_window(tuple(volume.shape[1:]), self.patch_size, 1.0)
        means = []
        for start in product(*steps):
            box = tuple(slice(s, s + p) for s, p in zip(start, self.patch_size, strict=True))
            means.append(self.encoder(volume[(None, slice(None), *box)].to(self.device))[-1].mean(dim=(0, 2, 3, 4)))
        return torch.stack(means).mean(dim=0).cpu().numpy().astype(np.float64)

    def table(self, images: Iterable[FloatArray], num_cases: int, title: str) -> np.ndarray:
        """[N, features] of preprocessed images."""
        return np.stack([self.features(image) for image in progress(images, title, num_cases)])


def load_encoder(folder: Path, dataset: NnunetDataset, fold: Fold, device: torch.device) -> NnunetEncoder:
    """Encoder of the nnU-Net in ``folder`` (``TRAINER__PLANS__CONFIGURATION``), trained on the given fold.

    Raises:
        UserError: nothing trained there, or another dataset, preprocessing or channels, or trained on synthetic cases.
    """
    folder = folder.parent if folder.name.startswith("fold_") else folder
    found = [c for c in CHECKPOINTS if (folder / f"fold_{fold}" / c).is_file()]
    if not found:
        raise UserError(
            f"-nnunet {folder} has no fold_{fold}/{CHECKPOINTS[0]}; expected the folder TRAINER__PLANS__CONFIGURATION of an "
            f"nnU-Net trained on fold {fold}, the fold of the SBLDM."
        )
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, verbose=False, allow_tqdm=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor.initialize_from_trained_model_folder(str(folder), (fold,), found[0])
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError, EOFError) as e:
        raise UserError(f"The nnU-Net in -nnunet {folder} cannot be loaded: {' '.join(str(e).split())}") from e
    _refuse_other_training(predictor, folder, fold, dataset)
    encoder = getattr(predictor.network, "encoder", None)
    if encoder is None:
        raise UserError(f"The network in -nnunet {folder} is a {type(predictor.network).__name__}, which has no encoder to use.")
    patch_size = tuple(predictor.configuration_manager.patch_size)
    return NnunetEncoder(encoder.eval().requires_grad_(False).to(device), patch_size, device)


def _refuse_other_training(predictor: nnUNetPredictor, folder: Path, fold: Fold, dataset: NnunetDataset) -> None:
    plans, config, content = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    channels = channel_names_of(content)
    if channels != dataset.channel_names:
        raise UserError(
            f"The nnU-Net in -nnunet {folder} was trained on the channels {', '.join(channels)}; "
            f"{dataset.name} has {', '.join(dataset.channel_names)}."
        )
    if plans.dataset_name != dataset.name or preprocessing_hash(plans, config) != dataset.plans_hash():
        raise UserError(
            f"The nnU-Net in -nnunet {folder} was trained on {plans.dataset_name} with {plans.plans_name}, preprocessed "
            f"differently from {dataset.name} with {dataset.plans_name}, {dataset.configuration}."
        )
    applied = folder / f"fold_{fold}" / SETTINGS_NAME
    mixes = applied.is_file() and read_json(applied)["ratio"] > 0
    if mixes or content.get("sbldm", {}).get("synthetic_cases"):
        raise UserError(f"The nnU-Net in -nnunet {folder} was trained on synthetic cases; give one trained on real cases alone.")
