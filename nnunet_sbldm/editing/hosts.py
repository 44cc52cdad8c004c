"""Hosts: real training cases that receive new lesions, mirrored or mildly deformed if wished.

An edit is made on nnU-Net's preprocessed arrays and pasted back at the host's own resolution, so that the raw voxels that it
does not touch stay as they are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from scipy import ndimage

from nnunet_sbldm.common.files import sha256_of_array
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import find_copies, without_patients_of_val
from nnunet_sbldm.data.grid import left_right_axis
from nnunet_sbldm.data.groups import remembered_groups
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.types import OUTSIDE, Case, FloatArray, LabelArray, UserError

SMOOTHNESS_MM = 25.0
"""Standard deviation of the Gaussian that smooths a deformation: heads bend a little, lesions do not tear."""
MAX_FIT_VOXELS = 20_000
MAX_FIT_ERROR = 1e-3


@dataclass(frozen=True)
class HostTransform:
    """What is done to a real case before it becomes a host.

    Attributes:
        mirrored: left and right are exchanged.
        deformation_mm: largest displacement of a smooth deformation, 0 for none.
        seed: seed of the deformation.
    """

    mirrored: bool = False
    deformation_mm: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Host:
    """A real case, transformed, raw and preprocessed.

    Attributes:
        case: the raw case after its transform, reader order; its id is that of the real case.
        image: [C, D, H, W] nnU-Net's normalised intensities at the plan's spacing.
        label: [D, H, W] likewise, ``OUTSIDE`` outside the anatomy.
        box: where nnU-Net crops the raw arrays, in plan order.
        native_label: [d, h, w] raw labels in that box, plan order, ``OUTSIDE`` outside the anatomy.
        gain: raw distance of normalised 1, per channel.
        offset: raw value of normalised 0, per channel.
        axes: axes of reader order in plan order.
        dataset: name of the dataset that the case is of.
        content: hash of the raw voxels before the transform.
    """

    case: Case
    image: FloatArray
    label: LabelArray
    box: tuple[slice, ...]
    native_label: LabelArray
    gain: tuple[float, ...]
    offset: tuple[float, ...]
    axes: tuple[int, ...]
    dataset: str = ""
    content: str = ""

    @property
    def native_image(self) -> FloatArray:
        """[C, d, h, w] normalised intensities at the raw resolution, cropped, plan order."""
        return (self._raw_crop() - _channels(self.offset)) / _channels(self.gain)

    def _raw_crop(self) -> FloatArray:
        return _to_plan(self.case.image, self.axes)[(slice(None), *self.box)]

    def paste(self, case_id: str, image: FloatArray, label: LabelArray, changed: np.ndarray) -> Case:
        """The host with other voxels; whatever is not ``changed`` stays bit for bit.

        Args:
            case_id: identifier of the new case.
            image: [C, d, h, w] like :attr:`native_image`.
            label: [d, h, w] like :attr:`native_label`.
            changed: [d, h, w] bool, voxels to take from ``image`` and ``label``; those outside the anatomy are left alone.
        """
        changed = changed & (self.native_label != OUTSIDE)
        raw, labels = _to_plan(self.case.image, self.axes).copy(), self.case.label.transpose(self.axes).copy()
        host, values = self._raw_crop(), image * _channels(self.gain) + _channels(self.offset)
        inside = self.native_label != OUTSIDE
        for crop, own, new in zip(raw[(slice(None), *self.box)], host, values, strict=True):
            crop[changed] = _like_the_hosts(new[changed], own[inside])
        labels[self.box][changed] = label[changed]
        back = np.argsort(self.axes)
        new_image = np.ascontiguousarray(raw.transpose(0, *(back + 1)), dtype=np.float32)
        return Case(case_id, new_image, np.ascontiguousarray(labels.transpose(back)), self.case.geometry)


def _like_the_hosts(new: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Whole numbers where the host's are whole, and above 0 where the host's are, so that exact zeros mark the outside."""
    positive = own[own > 0]
    if len(positive) and own.min() >= 0:
        new = np.maximum(new, positive.min())
    return np.round(new) if np.array_equal(own, np.round(own)) else new


def _to_plan(image: FloatArray, axes: Sequence[int]) -> FloatArray:
    return image.transpose(0, *(a + 1 for a in axes))


def _channels(values: Sequence[float]) -> FloatArray:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1, 1)


# --- which cases -----------------------------------------------------------------------------------------------------


def allowed_hosts(dataset: NnunetDataset, fold: Fold, chosen: Sequence[str] = ()) -> list[str]:
    """Real training cases of a fold that share neither id, content nor patient with its validation cases.

    Args:
        dataset: where the cases are.
        fold: fold the edited cases train in.
        chosen: take these alone.

    Raises:
        UserError: none is allowed, or a chosen one is not.
    """
    train, val = fold_cases(dataset, fold)
    train = without_patients_of_val(train, val, remembered_groups(dataset.preprocessed))
    unknown = [c for c in chosen if c not in train]
    if unknown:
        raise UserError(
            f"{', '.join(unknown[:10])} cannot be a host in fold {fold} of {dataset.name}: hosts are real training cases of the "
            f"fold, whose patients are not among its validation cases."
        )
    candidates = fingerprints_of(dataset, chosen or train)
    leaking = find_copies(candidates.values(), fingerprints_of(dataset, val).values())
    allowed = [c for c in candidates if c not in leaking]
    if not allowed:
        raise UserError(
            f"No case of {dataset.name} may be a host in fold {fold}: it has {len(train)} training case(s), "
            f"{len(leaking)} of which are copies of validation cases."
        )
    return allowed


# --- loading ---------------------------------------------------------------------------------------------------------


def load_host(dataset: NnunetDataset, case_id: str, transform: HostTransform) -> Host:
    """Read, transform and preprocess a real case.

    Args:
        dataset: where the case is.
        case_id: the real case.
        transform: mirroring, between the host's own left and right, and deformation.

    Raises:
        UserError: the case cannot be read, or its normalisation cannot be taken back.
    """
    case = read_case(dataset, case_id)
    content = sha256_of_array(case.image)
    if transform.mirrored:
        case = mirrored(case, left_right_axis(case.geometry))
    if transform.deformation_mm:
        case = deformed(case, transform.deformation_mm, transform.seed)
    return replace(host_of(dataset, case), dataset=dataset.name, content=content)


def host_of(dataset: NnunetDataset, case: Case) -> Host:
    """A raw case with what nnU-Net's preprocessing makes of it."""
    cm, axes = dataset.config, tuple(dataset.plans.transpose_forward)
    preprocessor = cm.preprocessor_class(verbose=False)
    properties = {"spacing": list(case.geometry.spacing_mm)}
    label = case.label[None].astype(np.float32)
    image, seg, properties = preprocessor.run_case_npy(
        case.image, label, properties, dataset.plans, cm, dataset.dataset_json
    )
    native, native_seg, _ = crop_to_nonzero(_to_plan(case.image, axes), _to_plan(label, axes).copy())
    properties_of_intensities = dataset.plans.foreground_intensity_properties_per_channel
    normalised = preprocessor._normalize(native.copy(), native_seg, cm, properties_of_intensities)
    inside = native_seg[0] != OUTSIDE
    pairs = zip(dataset.channel_names, native, normalised, strict=True)
    maps = [_affine(f"Channel {name} of case {case.case_id}", raw[inside], own[inside]) for name, raw, own in pairs]
    return Host(
        case,
        image.astype(np.float32, copy=False),
        seg[0].astype(np.int16),
        tuple(slice(int(a), int(b)) for a, b in properties["bbox_used_for_cropping"]),
        native_seg[0].astype(np.int16),
        tuple(gain for gain, _ in maps),
        tuple(offset for _, offset in maps),
        axes,
    )


def _affine(what: str, raw: np.ndarray, normalised: np.ndarray) -> tuple[float, float]:
    """Gain and offset with raw = gain * normalised + offset, for values that the normalisation has not clipped."""
    unclipped = (normalised > normalised.min()) & (normalised < normalised.max())
    x, y = normalised[unclipped].astype(np.float64), raw[unclipped].astype(np.float64)
    step = max(1, len(x) // MAX_FIT_VOXELS)
    x, y = x[::step], y[::step]
    if len(x) < 2 or np.ptp(x) == 0:
        raise UserError(f"{what} has too few different intensities to be a host.")
    gain = np.cov(x, y)[0, 1] / x.var(ddof=1)
    offset = y.mean() - gain * x.mean()
    if np.abs(gain * x + offset - y).max() > MAX_FIT_ERROR * max(np.ptp(y), 1e-12):
        raise UserError(f"{what} cannot be a host: its normalisation is not affine and cannot be taken back.")
    return float(gain), float(offset)


# --- transforms ------------------------------------------------------------------------------------------------------


def mirrored(case: Case, axis: int) -> Case:
    """The case with one axis of reader order reversed; its geometry is kept."""
    flip = (slice(None),) * axis + (slice(None, None, -1),)
    image = np.ascontiguousarray(case.image[(slice(None), *flip)])
    return replace(case, image=image, label=np.ascontiguousarray(case.label[flip]))


def deformed(case: Case, largest_mm: float, seed: int) -> Case:
    """The case bent by a smooth random displacement of at most ``largest_mm``.

    Intensities are interpolated by cubic splines within the host's range, labels and the anatomy's border by the nearest
    voxel, so that exact zeros stay outside.
    """
    spacing = case.geometry.spacing_mm
    displacement = _smooth_field(case.label.shape, spacing, np.random.default_rng(seed)) * largest_mm
    where = np.stack(np.meshgrid(*(np.arange(n) for n in case.label.shape), indexing="ij")).astype(np.float32)
    where += displacement / np.reshape(spacing, (3, 1, 1, 1))
    inside = (case.image != 0).any(axis=0)
    nearest = {"order": 0, "mode": "nearest"}
    new_inside = ndimage.map_coordinates(inside, where, **nearest)
    label = ndimage.map_coordinates(case.label, where, **nearest)
    image = np.empty_like(case.image)
    for new, channel in zip(image, case.image, strict=True):
        values = channel[inside]
        low = values[values != 0].min() if (values != 0).any() else 0
        bent = np.clip(ndimage.map_coordinates(channel, where, order=3, mode="nearest"), low, values.max())
        whole = np.array_equal(values, np.round(values))
        new[:] = np.where(new_inside, np.round(bent) if whole else bent, 0)
    return replace(case, image=image, label=np.where(new_inside, label, 0).astype(np.int16))


def _smooth_field(shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator) -> FloatArray:
    """[3, Z, Y, X] displacement along the axes whose largest length is 1."""
    sigma = [SMOOTHNESS_MM / s for s in spacing_mm]
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="nearest") for _ in range(3)])
    return (field / max(float(np.sqrt((field**2).sum(axis=0)).max()), 1e-12)).astype(np.float32)
