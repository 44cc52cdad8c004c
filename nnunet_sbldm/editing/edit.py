"""New lesions in real hosts: edit a training case with the same SBLDM that makes whole cases.

The host's latents stay where nothing changes; the others are diffused under a new condition and decoded, image and mask
together, and blended into the host at its own resolution. Outside the region the raw voxels of the written case are the
host's, bit for bit (of the mirrored or deformed host, where it was).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from skimage.transform import resize
from torch import Tensor

from nnunet_sbldm.common.seeds import Stream, rng_of
from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.data.conditions import as_vector, measure
from nnunet_sbldm.editing.blending import BlendMap, blend
from nnunet_sbldm.editing.inpainting import Known, inpaint
from nnunet_sbldm.editing.planner import EditTask
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.outlines import without_strays
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import record_of
from nnunet_sbldm.generator.size_correction import draw_to_size
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.ldm.denoiser import Part
from nnunet_sbldm.ldm.diffusion import SeededNoise
from nnunet_sbldm.types import OUTSIDE, Case, FloatArray, LabelArray

CONTEXT_LATENTS = 4
"""Latents around the region, at least, that the denoiser sees of the host."""
DECODED_MARGIN = 2
"""Latents around the region, within slices, that are decoded with it: at the region's border, where an edit begins to show,
what the decoder does not see beyond them matters no more, and the texture is measured in them."""
HALF_NEW = 0.5
"""Labels are the edit's where more than this share of a voxel is new."""
EXCHANGE_SIGMA_VOXELS = 0.7
"""Softness of the border between the host's own fine texture and the random one of new and removed lesions."""


@dataclass(frozen=True)
class DecodedEdit:
    """An edit as it was decoded.

    Attributes:
        task: what was to be done.
        latent: [Z, D, h, w] standardised; 0 beyond what the denoiser saw.
        decoded: [C, D, H, W] as decoded around the region, network scale; the host's image elsewhere.
        label: [D, H, W] label values, ``OUTSIDE`` outside the anatomy.
        focus: [D, H, W] the label of the region alone, background elsewhere in the anatomy.
        obtained: [F] features measured on ``focus``.
        cut_share: share of the decoded lesion, specks left out, that lies in the fading border of the region.
    """

    task: EditTask
    latent: Tensor
    decoded: FloatArray
    label: LabelArray
    focus: LabelArray
    obtained: np.ndarray
    cut_share: float


@dataclass(frozen=True)
class EditedDraw(DecodedEdit):
    """One edited host, before it becomes a case; it serves where a :class:`nnunet_sbldm.generator.sampling.Draw` does.

    Attributes:
        image: [C, D, H, W] blended into the host, network scale.
        decoded_host: [C, D, H, W] the host as it was decoded, network scale.
        num_draws: draws made for it, of which it is the best.
    """

    image: FloatArray
    decoded_host: FloatArray
    num_draws: int

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.task.request

    def case(self, model: SBLDMModel) -> Case:
        """The case at the host's own resolution: its raw voxels outside the region, bit for bit."""
        prepared, host = self.task.prepared, self.task.prepared.host
        shape = host.label.shape
        if shape != host.native_label.shape:
            return _at_native_resolution(self, model)
        image = prepared.window.put(model.plan.intensity.normalised(self.image), shape, 0)
        label = prepared.window.put(self.label, shape, OUTSIDE)
        return host.paste(self.request.case_id, image, label, self.native_weight > 0)

    @property
    def native_weight(self) -> np.ndarray:
        """[d, h, w] share of new voxels at the host's raw resolution, in nnU-Net's crop, plan order."""
        host = self.task.prepared.host
        weight = self.task.prepared.window.put(self.task.region.weight, host.label.shape, 0)
        return np.where(host.native_label == OUTSIDE, 0, _resized(weight, host.native_label.shape, order=1))

    def record(self, model: SBLDMModel, sampler: SamplerConfig) -> SyntheticRecord:
        """Its provenance, without gate and nearest real lesion."""
        region, prepared = self.task.region.mask, self.task.prepared
        record = record_of(model, self.request, sampler, self.task.asked, self.task.condition, self.obtained)
        return replace(
            record,
            edit={
                "dataset": prepared.host.dataset,
                "host_content": prepared.host.content,
                **asdict(self.task.choice),
                "window_start": list(prepared.window.start),
                "region_box": [[int(v.min()), int(v.max()) + 1] for v in np.nonzero(region)],
                "region_voxels": int(region.sum()),
            },
        )


def edit(model: SBLDMModel, tasks: Sequence[EditTask], sampler: SamplerConfig) -> Iterator[EditedDraw]:
    """Make decided edits one by one: each has its own part of the volume to be diffused.

    Args:
        model: trained model, on the device to use.
        tasks: what to do.
        sampler: solver, steps and guidance.
    """
    names = model.plan.condition_scaling.names
    for task in tasks:
        latent = _latent_of_host(model, task, sampler.precision)
        decoded_host, _, _ = _decoded(model, task, latent, sampler.precision)
        make = partial(_edit_one, model, task, sampler, latent)
        asked, corrected = as_vector(names, task.asked), task.condition
        ((drawn, num_draws),) = draw_to_size(model.plan, [asked], [corrected], sampler.max_corrections, make)
        image = _blended(drawn, decoded_host)
        yield EditedDraw(**vars(drawn), image=image, decoded_host=decoded_host, num_draws=num_draws)


def _part(model: SBLDMModel, task: EditTask) -> Part:
    """The latents that the denoiser sees: those to be made, and some around them."""
    return model.denoiser.part_around(task.free, CONTEXT_LATENTS)


def _latent_of_host(model: SBLDMModel, task: EditTask, precision: str) -> Tensor:
    """[Z, D, h, w] standardised latents of the host in the part that the denoiser sees, 0 elsewhere."""
    grid, part, prepared = model.plan.grid, _part(model, task), task.prepared
    encoded = model.encode(prepared.image, prepared.classes, part, precision)
    latent = encoded.new_zeros(len(encoded), *grid.latent_shape)
    latent[(slice(None), *part)] = encoded
    return latent


def _edit_one(
    model: SBLDMModel,
    task: EditTask,
    sampler: SamplerConfig,
    latent_of_host: Tensor,
    _: Sequence[int],
    corrected: Sequence[np.ndarray],
) -> list[DecodedEdit]:
    """An edit, with the condition that the denoiser gets; latents far from the region take no part."""
    plan, device, latent, part = model.plan, model.device, latent_of_host.clone(), _part(model, task)
    place = (slice(None), *part)
    free = torch.from_numpy(task.free[part])[None, None].to(device)
    known = Known(latent[place][None], free.float())
    condition = plan.network_conditions(corrected, device)
    denoise = partial(model.denoiser, part=part)
    noise = SeededNoise([task.request.noise_seed], known.clean.shape[1:], plan.noise_correlation)
    latent[place] = inpaint(denoise, plan.preset.diffusion, sampler, known, noise, condition)[0].to(latent)
    task = replace(task, condition=corrected[0])
    decoded, logits, voxels = _decoded(model, task, latent, sampler.precision)
    region, decoded_label = task.region, np.zeros(task.region.mask.shape, np.int16)
    rng = rng_of(task.request.noise_seed, Stream.EDIT_OUTLINE)
    decoded_label[voxels] = plan.encoding.decode(plan.outlines.draw(logits.float().cpu().numpy(), rng))
    label, focus = _labels(task, decoded_label, plan, decoded)
    drawn = without_strays(np.where(region.mask, decoded_label, 0), plan.components, decoded) > 0
    cut_share = float((drawn & (region.weight < 1)).sum() / max(drawn.sum(), 1))
    obtained = measure(focus, plan.targets, plan.grid.spacing_mm)
    return [DecodedEdit(task, latent, decoded, label, focus, obtained, cut_share)]


def _decoded(model: SBLDMModel, task: EditTask, latent: Tensor, precision: str) -> tuple[FloatArray, Tensor, Part]:
    """Decode what is around the region: image [C, D, H, W], elsewhere the host's, and label logits of the voxels decoded."""
    image, f = task.prepared.image.copy(), model.plan.grid.downsampling
    d, h, w = bounding_box(task.region.latent_mask(latent.shape[1:]), (0, DECODED_MARGIN, DECODED_MARGIN))
    voxels = (d, slice(f * h.start, f * h.stop), slice(f * w.start, f * w.stop))
    decoded, logits = model.decode(latent, (d, h, w), precision)
    image[(slice(None), *voxels)] = decoded.cpu().numpy()
    return image, logits, voxels


def _blended(drawn: DecodedEdit, decoded_host: FloatArray) -> FloatArray:
    """The image [C, D, H, W] with the edit blended into the host, network scale."""
    task, prepared = drawn.task, drawn.task.prepared
    exchanged = _exchanged(prepared.gone(task.choice.kind), drawn.focus > 0)
    tissue = (drawn.label != OUTSIDE) & ~prepared.lesions & (drawn.focus <= 0)
    where, rng = BlendMap(task.region.weight, exchanged, tissue), rng_of(task.request.noise_seed, Stream.EDIT_TEXTURE)
    return blend(prepared.image, decoded_host, drawn.decoded, where, rng)


def _labels(task: EditTask, decoded: LabelArray, plan: GeneratorPlan, image: FloatArray) -> tuple[LabelArray, LabelArray]:
    """The edited label map, and its part in the region alone; what was decoded, label and image, on the whole grid."""
    host = task.prepared.label
    new = task.region.weight > HALF_NEW  # within the anatomy
    focus = np.where(new, decoded, np.where(host == OUTSIDE, OUTSIDE, 0)).astype(np.int16)
    focus = without_strays(focus, plan.components, image)
    return np.where(new, focus, host).astype(np.int16), focus


def _exchanged(gone: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Share 0 to 1 of the random texture: 1 in lesions that come or go, one voxel more around those that go."""
    changed = ndimage.binary_dilation(gone, np.ones((1, 3, 3))) | new
    return np.clip(1.5 * ndimage.gaussian_filter(changed.astype(np.float32), EXCHANGE_SIGMA_VOXELS), 0, 1)


# --- the way back ----------------------------------------------------------------------------------------------------


def _at_native_resolution(drawn: EditedDraw, model: SBLDMModel) -> Case:
    """Blend at the raw resolution, so that the edit has the raw image's own fine texture."""
    task, intensity = drawn.task, model.plan.intensity
    prepared = task.prepared
    host, native = prepared.host, prepared.host.native_label

    def to_native(array: np.ndarray, order: int) -> np.ndarray:
        return _resized(prepared.window.put(array, host.label.shape, 0), native.shape, order)

    def all_to_native(image: FloatArray) -> FloatArray:
        return np.stack([to_native(channel, 3) for channel in intensity.normalised(image)])

    share = drawn.native_weight
    new = share > HALF_NEW
    label = np.where(new, _resized_label(drawn.focus, to_native), native)
    lesions = (native > 0) | (new & (label > 0))
    exchanged = to_native(_exchanged(prepared.gone(task.choice.kind), drawn.focus > 0), 1)
    where = BlendMap(share, exchanged, (native != OUTSIDE) & ~lesions)
    decoded = (all_to_native(drawn.decoded_host), all_to_native(drawn.decoded))
    image = blend(host.native_image, *decoded, where, rng_of(task.request.noise_seed, Stream.EDIT_TEXTURE))
    return host.paste(drawn.request.case_id, image, label.astype(np.int16), share > 0)


def _resized(array: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """A volume at another resolution, aligned at its outer faces as nnU-Net's resampling is."""
    if array.shape == tuple(shape):
        return array
    return resize(array.astype(np.float32), shape, order=order, mode="edge", anti_aliasing=False, preserve_range=True)


def _resized_label(label: LabelArray, to_native: Callable[[np.ndarray, int], np.ndarray]) -> LabelArray:
    """Each label resized on its own, the largest share wins, as nnU-Net resamples label maps."""
    values = np.unique(np.maximum(label, 0))
    shares = [to_native((np.maximum(label, 0) == v).astype(np.float32), 1) for v in values]
    return values[np.argmax(shares, axis=0)].astype(np.int16)
