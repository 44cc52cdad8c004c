"""From a trained generator to synthetic cases: conditions, latents, decoding, cleaning, the way back to a case.

Everything random about a case comes from its own seed, so it is the same case in any batch, part or order.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from nnunet_sbldm import __version__
from nnunet_sbldm.checkpoint import Generator
from nnunet_sbldm.conditions import FEATURES, as_dict, measure
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.diffusion import initial_noise, sample
from nnunet_sbldm.formats import write_case
from nnunet_sbldm.grid import FILL, anatomy_of, from_grid, to_grid
from nnunet_sbldm.latents import decode_volume, encode_volume
from nnunet_sbldm.nnunet import NnunetDataset, load_preprocessed
from nnunet_sbldm.pictures import Panel, montage
from nnunet_sbldm.provenance import SyntheticRecord
from nnunet_sbldm.types import OUTSIDE, Case, LabelArray, UserError

MAX_PANELS = 12


@dataclass(frozen=True)
class Request:
    """One synthetic case to make.

    Attributes:
        case_id: its identifier.
        seed: decides its condition, where left open, and its noise.
        asked: feature name -> value in physical units; features left out are drawn from the condition model.
        diversity: width of the condition model's kernels, 1 as fitted.
    """

    case_id: str
    seed: int
    asked: Mapping[str, float]
    diversity: float = 1.0


def check_asked(generator: Generator, asked: Mapping[str, float]) -> list[str]:
    """Refuse unknown features; return a warning for each value outside the training range."""
    model, warnings = generator.plan.condition_model, []
    names = list(model.scaling.names)
    for name, value in asked.items():
        if name not in names:
            raise UserError(f"This SBLDM has no condition {name}; it has {', '.join(names)}.")
        column = model.table[:, names.index(name)]
        known = column[np.isfinite(column)]
        if len(known) and not known.min() <= value <= known.max():
            warnings.append(f"{name} = {value:g} is outside the training range {known.min():g} to {known.max():g}.")
    return warnings


def condition_of(generator: Generator, request: Request) -> np.ndarray:
    """Condition vector [F] in physical units for a request; asking any feature of a label asks for its presence."""
    asked = dict(request.asked)
    for name in request.asked:
        asked.setdefault(f"{name.split('/')[0]}/{FEATURES[0]}", 1.0)
    return generator.plan.condition_model.sample(np.random.default_rng([request.seed, 1]), asked, request.diversity)


def synthesise(
    generator: Generator, requests: Sequence[Request], sampler: SamplerConfig
) -> Iterator[tuple[Case, SyntheticRecord]]:
    """Make cases batch by batch.

    Args:
        generator: trained generator, on the device to use.
        requests: what to make.
        sampler: steps, guidance and batch size.

    Yields:
        Each case with its provenance (without the nearest real case, which needs the real data).
    """
    for start in range(0, len(requests), sampler.batch_size):
        batch = requests[start : start + sampler.batch_size]
        conditions = [condition_of(generator, r) for r in batch]
        for request, condition, latent in zip(
            batch, conditions, sample_latents(generator, batch, conditions, sampler), strict=True
        ):
            yield _decode_case(generator, request, condition, latent, sampler)


def sample_latents(
    generator: Generator, requests: Sequence[Request], conditions: Sequence[np.ndarray], sampler: SamplerConfig
) -> Tensor:
    """Latent volumes [B, Z, D, h, w] (not standardised) for requests with given conditions.

    A short batch is filled with repetitions, so that a case's rounding depends on the recorded batch size alone.
    """
    plan, n = generator.plan, len(requests)
    filled = [i % n for i in range(sampler.batch_size)]
    c = torch.from_numpy(plan.condition_scaling.scaled(np.stack([conditions[i] for i in filled]))).float().to(generator.device)
    seeds = [requests[i].seed for i in filled]
    noise = initial_noise(seeds, (len(plan.latent_mean), *plan.grid.latent_shape)).to(generator.device)
    z = sample(generator.denoiser, plan.preset.diffusion, sampler, noise, c, seeds)
    mean, std = generator.latent_statistics()
    return z[:n] * std + mean


def _decode_case(
    generator: Generator, request: Request, condition: np.ndarray, latent: Tensor, sampler: SamplerConfig
) -> tuple[Case, SyntheticRecord]:
    plan = generator.plan
    image, logits = decode_volume(generator.autoencoder, latent)
    anatomy = anatomy_of(logits.argmax(0).cpu().numpy(), plan.grid)
    label = plan.encoding.decode(1 + logits[1:].argmax(0).cpu().numpy())
    label = remove_specks(np.where(anatomy, label, OUTSIDE).astype(np.int16), plan.min_component_voxels)
    case = from_grid(request.case_id, image.cpu().numpy(), label, anatomy, plan.grid, plan.intensity, plan.template)
    names = plan.condition_scaling.names
    record = SyntheticRecord(
        case_id=request.case_id,
        generator_hash=generator.hash,
        generator_path=str(generator.folder),
        seed=request.seed,
        fold=plan.fold,
        condition_asked=as_dict(names, condition),
        condition_obtained=as_dict(names, measure(label, plan.targets, plan.grid.spacing_mm)),
        sampler={**asdict(sampler), "diversity": request.diversity},
        nearest_real_case={},
        versions={
            "nnunet_sbldm": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": generator.device.type,
        },
    )
    return case, record


def remove_specks(label: LabelArray, min_component_voxels: Mapping[str, int]) -> LabelArray:
    """Turn components smaller than the smallest real one of their label into background.

    Args:
        label: [D, H, W] label values.
        min_component_voxels: label value (as text) -> voxels.
    """
    out = label.copy()
    for value, smallest in min_component_voxels.items():
        components, _ = ndimage.label(label == int(value), np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())
        out[(sizes < smallest)[components] & (components > 0)] = 0
    return out


class NearestRealCase:
    """Distance of synthetic cases to the real training cases, in the generator's own latent space.

    The distance is the root mean square difference of standardised latents: 0 is a copy, about sqrt(2) is unrelated.
    """

    def __init__(self, generator: Generator, dataset: NnunetDataset) -> None:
        self.generator, self.dataset = generator, dataset
        ids = [c.case_id for c in generator.seen if c.case_id in dataset.case_files]
        self.latents = {c: self._latent(*load_preprocessed(dataset, c)) for c in ids}

    def _latent(self, image: np.ndarray, label: LabelArray) -> Tensor:
        plan = self.generator.plan
        classes = plan.encoding.encode(to_grid(label, plan.grid.shape, OUTSIDE))
        scaled = to_grid(plan.intensity.scaled(image), plan.grid.shape, 0)
        scaled = np.where(classes == 0, FILL, scaled).astype(np.float32)
        z = encode_volume(self.generator.autoencoder, torch.from_numpy(scaled), torch.from_numpy(classes.astype(np.int64)))
        mean, std = self.generator.latent_statistics()
        return ((z - mean[0]) / std[0]).cpu()

    def of(self, image: np.ndarray, label: LabelArray) -> dict[str, object]:
        """Nearest training case of a preprocessed case (image [C, D, H, W], label [D, H, W]) and its distance."""
        if not self.latents:
            return {}
        latent = self._latent(image, label)
        distances = {c: float((latent - z).square().mean().sqrt()) for c, z in self.latents.items()}
        nearest = min(distances, key=distances.__getitem__)
        return {"case_id": nearest, "latent_distance": round(distances[nearest], 5)}


def write_samples(generator: Generator, requests: Sequence[Request], sampler: SamplerConfig, folder: Path) -> Path:
    """Write cases as ``CASE_0000.nii.gz`` (one per channel) and ``CASE.nii.gz``, their records, and a montage.

    Returns:
        The montage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    panels = []
    for case, record in tqdm(synthesise(generator, requests, sampler), "sampling", len(requests), unit="case"):
        images = [folder / f"{case.case_id}_{c:04d}.nii.gz" for c in range(len(case.image))]
        write_case(case, images, folder / f"{case.case_id}.nii.gz")
        record.save(folder)
        panels.append(_panel_of(generator, case))
    picture = folder / "montage.png"
    montage(
        picture,
        [("", panels[i : i + 2]) for i in range(0, min(len(panels), MAX_PANELS), 2)],
        {v: t.name for t in generator.plan.targets if len(t.label_values) == 1 for v in t.label_values},
    )
    return picture


def _panel_of(generator: Generator, case: Case) -> Panel:
    """First channel of a case, plan order."""
    axes = generator.plan.grid.transpose_forward
    label = np.where((case.image != 0).any(axis=0), case.label, OUTSIDE).astype(np.int16)
    return Panel(case.image[0].transpose(axes), label.transpose(axes), generator.plan.grid.spacing_mm, case.case_id)
