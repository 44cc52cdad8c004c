"""From a trained generator to synthetic cases: conditions, latents, decoding, cleaning, the way back to a case.

Everything random about a case comes from its own seed, so it is the same case in any batch, part or order.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nnunet_sbldm import __version__
from nnunet_sbldm.common.seeds import Stream, rng_of
from nnunet_sbldm.data.conditions import FEATURES, as_dict, as_vector, measure
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.decoding import decoded_volume
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request, range_warnings
from nnunet_sbldm.generator.size_correction import draw_to_size
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.ldm.diffusion import sample
from nnunet_sbldm.types import Case, FloatArray, LabelArray, UserError


def check_asked(model: SBLDMModel, asked: Mapping[str, float]) -> list[str]:
    """Refuse unknown features; return a warning for each value outside the training range."""
    names = model.plan.condition_scaling.names
    for name in asked:
        if name not in names:
            raise UserError(f"This SBLDM has no condition {name}; it has {', '.join(names)}.")
    return range_warnings(model.plan, [asked])


def condition_of(model: SBLDMModel, request: Request) -> np.ndarray:
    """Condition vector [F] in physical units for a request; asking any feature of a label asks for its presence."""
    asked = dict(request.asked)
    for name in request.asked:
        asked.setdefault(f"{name.rsplit('/', 1)[0]}/{FEATURES[0]}", 1.0)
    return model.plan.condition_model.sample(rng_of(request.noise_seed, Stream.CONDITION), asked, request.diversity)


@dataclass(frozen=True)
class Draw:
    """One sampled volume, before it becomes a case.

    Attributes:
        request: what was asked for.
        condition: [F] condition vector in physical units, NaN where missing.
        corrected: [F] condition that the denoiser got; another one than ``condition`` where the size was corrected.
        obtained: [F] the same features measured on the label map.
        latent: [Z, D, h, w] standardised latent volume.
        image: [C, D, H, W] in network scale.
        label: [D, H, W] label values, ``OUTSIDE`` outside the anatomy.
        anatomy: [D, H, W] bool.
        num_draws: draws made for it, of which it is the best.
    """

    request: Request
    condition: np.ndarray
    corrected: np.ndarray
    obtained: np.ndarray
    latent: Tensor
    image: FloatArray
    label: LabelArray
    anatomy: np.ndarray
    num_draws: int = 1

    def case(self, model: SBLDMModel) -> Case:
        """The case: raw intensities, exact zeros outside, reader order."""
        return model.plan.from_network(self.request.case_id, self.image, self.label, self.anatomy)

    def record(self, model: SBLDMModel, sampler: SamplerConfig) -> SyntheticRecord:
        """Its provenance, without gate and nearest real case."""
        asked = as_dict(model.plan.condition_scaling.names, self.condition)
        return record_of(model, self.request, sampler, asked, self.corrected, self.obtained)


def record_of(
    model: SBLDMModel,
    request: Request,
    sampler: SamplerConfig,
    asked: dict[str, float],
    corrected: np.ndarray,
    obtained: np.ndarray,
) -> SyntheticRecord:
    """Provenance of a draw or an edit, without gate, nearest real case and what belongs to edits alone.

    Args:
        model: what made it.
        request: what was requested.
        sampler: how it was sampled.
        asked: condition asked, by feature, in physical units.
        corrected: [F] condition that the denoiser got.
        obtained: [F] the same features measured on the label map.
    """
    names = model.plan.condition_scaling.names
    return SyntheticRecord(
        case_id=request.case_id,
        generator_hash=model.hash,
        generator_path=str(model.folder),
        format=request.streams,
        seed=request.seed,
        attempt=request.attempt,
        fold=model.plan.fold,
        condition_asked=asked,
        condition_obtained=as_dict(names, obtained),
        condition_told=differing(as_dict(names, corrected), asked),
        sampler={**asdict(sampler), "diversity": request.diversity},
        versions={
            "nnunet_sbldm": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": model.device.type,
        },
    )


def draw(model: SBLDMModel, requests: Sequence[Request], sampler: SamplerConfig) -> Iterator[Draw]:
    """Sample and decode batch by batch.

    Args:
        model: trained model, on the device to use.
        requests: what to make.
        sampler: steps, guidance and batch size.
    """
    for start in range(0, len(requests), sampler.batch_size):
        batch = requests[start : start + sampler.batch_size]
        conditions = [condition_of(model, r) for r in batch]
        make = partial(_draw_some, model, batch, conditions, sampler)
        for drawn, num_draws in draw_to_size(model.plan, conditions, conditions, sampler.max_corrections, make):
            yield replace(drawn, num_draws=num_draws)


def _draw_some(
    model: SBLDMModel,
    requests: Sequence[Request],
    conditions: Sequence[np.ndarray],
    sampler: SamplerConfig,
    chosen: Sequence[int],
    corrected: Sequence[np.ndarray],
) -> Iterator[Draw]:
    """Some draws of a batch, with the condition that the denoiser gets for each."""
    latents = sample_latents(model, [requests[i] for i in chosen], corrected, sampler)
    for i, condition, latent in zip(chosen, corrected, latents, strict=True):
        yield _decode(model, requests[i], conditions[i], condition, latent, sampler.precision)


def draw_again(model: SBLDMModel, request: Request, sampler: SamplerConfig, corrected: Mapping[str, float]) -> Draw:
    """A recorded draw; ``corrected`` is the condition that the denoiser got by the record, empty if it is the asked one."""
    asked = condition_of(model, request)
    condition = as_vector(model.plan.condition_scaling.names, corrected) if corrected else asked
    (drawn,) = _draw_some(model, [request], [asked], sampler, [0], [condition])
    return drawn


def differing(corrected: dict[str, float], asked: dict[str, float]) -> dict[str, float]:
    """The corrected condition, if it is not the asked one; else nothing."""
    return {} if corrected == asked else corrected


def sample_latents(
    model: SBLDMModel, requests: Sequence[Request], conditions: Sequence[np.ndarray], sampler: SamplerConfig
) -> Tensor:
    """Standardised latent volumes [B, Z, D, h, w] for requests with given conditions.

    A short batch is filled with repetitions, so that a case's rounding depends on the recorded batch size alone.
    """
    plan, n = model.plan, len(requests)
    filled = [i % n for i in range(sampler.batch_size)]
    c = plan.network_conditions([conditions[i] for i in filled], model.device)
    noise = plan.noise([requests[i].noise_seed for i in filled])
    return sample(model.denoiser, plan.preset.diffusion, sampler, noise, c)[:n]


def _decode(
    model: SBLDMModel, request: Request, condition: np.ndarray, corrected: np.ndarray, latent: Tensor, precision: str
) -> Draw:
    plan = model.plan
    volume = decoded_volume(plan, model.autoencoder, latent, request.noise_seed, precision)
    obtained = measure(volume.label, plan.targets, plan.grid.spacing_mm)
    return Draw(request, condition, corrected, obtained, latent.cpu(), volume.image, volume.label, volume.anatomy)
