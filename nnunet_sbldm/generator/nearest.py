"""The nearest real case: how far a synthetic case is from the training cases, in the generator's own latent space."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import known_case_ids
from nnunet_sbldm.data.folds import names_of
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.types import FloatArray, LabelArray


class NearestRealCase:
    """Distance of synthetic cases to the real training cases, in the generator's own latent space.

    The distance is the root mean square difference of standardised latents: 0 is a copy, about sqrt(2) is unrelated. Without a
    dataset there is nothing to compare with.
    """

    def __init__(self, model: SBLDMModel, dataset: NnunetDataset | None) -> None:
        self.model, self.dataset = model, dataset
        self.latents: dict[str, Tensor] = {}
        if dataset is not None and model.seen:
            ids = names_of(model.seen, known_case_ids(dataset))
            self.latents = {c: self._latent(*load_preprocessed(dataset, c)) for c in ids}

    def _latent(self, image: FloatArray, label: LabelArray) -> Tensor:
        return self.model.encode(*self.model.plan.to_network(image, label)).cpu()

    def of(self, latent: Tensor) -> dict[str, Any]:
        """Nearest training case of a standardised latent volume [Z, D, h, w], and its distance; empty without real data."""
        distances = {c: float((latent - z).square().mean().sqrt()) for c, z in self.latents.items()}
        if not distances:
            return {}
        nearest = min(distances, key=distances.__getitem__)
        return {"case_id": nearest, "latent_distance": round(distances[nearest], 5)}

    @cached_property
    def among_real(self) -> list[float]:
        """Distance of every training case to its nearest other one; empty with fewer than two."""
        z = torch.stack(list(self.latents.values())).flatten(1) if len(self.latents) > 1 else torch.zeros(0, 1)
        distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") / z.shape[1] ** 0.5
        return distances.fill_diagonal_(torch.inf).amin(dim=1).tolist() if len(z) else []
