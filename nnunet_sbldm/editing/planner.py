"""Edits, planned: a host made ready for the generator, and for every request the region and the condition of its lesion."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from nnunet_sbldm.common.seeds import Stream, rng_of
from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.data.cases import load_preprocessed, read_case
from nnunet_sbldm.data.conditions import AXES, FEATURES, as_dict
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.choices import EditChoice
from nnunet_sbldm.editing.hosts import Host, host_of, load_host
from nnunet_sbldm.editing.regions import (
    Region,
    condition_elsewhere,
    dilated,
    ellipsoids,
    fitting_condition,
    impossible,
    region_around,
    room_for_lesions,
    tissue_like,
)
from nnunet_sbldm.editing.window import LESION_MARGIN, Window
from nnunet_sbldm.generator.checkpoint import SBLDMModel, refuse_mismatch
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray, UserError

T = TypeVar("T")
MAX_HOSTS_KEPT = 16


@dataclass(frozen=True)
class PreparedHost:
    """A host on the model's grid.

    Attributes:
        host: the host itself.
        window: where the grid lies.
        label: [D, H, W] on the grid.
        lesions: [D, H, W] bool, every foreground voxel.
        fixed: [D, H, W] bool, voxels that always stay: those of the ignore label, and the anatomy in the last plane before a
            face of the grid that the host reaches beyond, so that no edit ends there abruptly.
        image: [C, D, H, W] network scale, ``FILL`` outside.
        classes: [D, H, W] class indices.
    """

    host: Host
    window: Window
    label: LabelArray
    lesions: np.ndarray
    fixed: np.ndarray
    image: FloatArray
    classes: np.ndarray

    def kept(self, kind: str) -> np.ndarray:
        """[D, H, W] bool, labelled voxels that stay."""
        return self.fixed | self.lesions if kind == "add" else self.fixed

    def gone(self, kind: str) -> np.ndarray:
        """[D, H, W] bool, lesion voxels that are painted over."""
        return np.zeros_like(self.lesions) if kind == "add" else self.lesions

    @property
    def open_faces(self) -> np.ndarray:
        """[D, H, W] bool, voxels in the last plane before a face of the grid that the host reaches beyond."""
        return self.window.open_faces(self.host.label.shape)

    def asked_on_grid(self, asked: Mapping[str, float]) -> Mapping[str, float]:
        """What is asked of the whole host, with places as fractions of that part of the anatomy that the grid holds."""
        if self.window.holds(self.host.label.shape):
            return asked
        whole, part = bounding_box(self.host.label != OUTSIDE), bounding_box(self.label != OUTSIDE)
        out = dict(asked)
        for axis, w, p, start in zip(AXES, whole, part, self.window.start, strict=True):
            for name in (n for n in asked if n.endswith(f"/centroid_{axis}")):
                voxel = w.start + asked[name] * (w.stop - w.start) - start
                out[name] = (voxel - p.start) / (p.stop - p.start)
        return out


@dataclass(frozen=True)
class EditTask:
    """One edit, decided but not made.

    Attributes:
        request: what was asked for.
        choice: host and kind.
        prepared: the host on the grid.
        condition: [F] what the denoiser gets, physical units.
        asked: feature name -> value that the result is judged by.
        region: where the host may change.
        free: [D, h, w] bool, latents that are diffused: those of the region, and those of lesions that stay, which the model
            must not see, lest it takes them for the lesion that it was asked for.
    """

    request: Request
    choice: EditChoice
    prepared: PreparedHost
    condition: np.ndarray
    asked: dict[str, float]
    region: Region
    free: np.ndarray


class EditPlanner:
    """Decides the edits of one dataset's hosts with one generator, at the generator's spacing.

    Args:
        model: trained model, on the device to use.
        dataset: where the hosts are.

    Raises:
        UserError: other channels, labels or orientation than the generator's.
    """

    def __init__(self, model: SBLDMModel, dataset: NnunetDataset) -> None:
        refuse_mismatch(model, dataset)
        refuse_other_axes(model, dataset)
        self.model, self.dataset = model, _at_spacing_of(model, dataset)
        self._hosts: OrderedDict[tuple[Any, ...], Host] = OrderedDict()
        self._prepared: OrderedDict[tuple[Any, ...], PreparedHost] = OrderedDict()

    def first_fitting(self, request: Request, choices: Sequence[EditChoice]) -> EditTask:
        """The task of the first choice whose host has room for what is asked.

        Raises:
            NoRoomError: none has; the sentence says what the first has room for.
        """
        for choice in choices:
            task = self.task(request, choice)
            if task is not None:
                return task
        plan, prepared = self.model.plan, self.prepared(request, choices[0])
        host = prepared.host.label
        room = prepared.window.put(self._room(prepared, choices[0]), host.shape, False)
        raise impossible(plan, choices[0].host, host, room, request.asked)

    def task(self, request: Request, choice: EditChoice) -> EditTask | None:
        """Condition, region and latents of an edit; None if this host has no room for it."""
        plan, prepared = self.model.plan, self.prepared(request, choice)
        label, spacing_mm, latent_shape = prepared.label, plan.grid.spacing_mm, plan.grid.latent_shape
        rng = rng_of(request.noise_seed, Stream.CONDITION)
        kept, core = prepared.kept(choice.kind), prepared.gone(choice.kind)
        if (core & dilated(prepared.open_faces, max(spacing_mm), spacing_mm)).any():  # a part of the lesion would stay
            return None
        if choice.kind == "remove":
            condition = condition_elsewhere(plan, label, core, rng)
            asked = {f"{t.name}/{FEATURES[0]}": 0.0 for t in plan.targets}
        else:
            room = self._room(prepared, choice)
            found = fitting_condition(
                plan, label, room, prepared.asked_on_grid(request.asked), request.diversity, rng
            )
            if found is None:
                return None
            condition, asked = found, as_dict(plan.condition_scaling.names, found)
            core = core | (ellipsoids(condition, plan.targets, label, spacing_mm, LESION_MARGIN) & (label != OUTSIDE))
        region = region_around(core, label, spacing_mm, kept)
        if not region.mask.any():  # all of it must stay
            return None
        free = region.latent_mask(latent_shape)
        if choice.kind == "add" and prepared.lesions.any():
            everything = region_around(prepared.lesions, label, spacing_mm, np.zeros_like(kept))
            free = free | everything.latent_mask(latent_shape)
        return EditTask(request, choice, prepared, condition, asked, region, free)

    def _room(self, prepared: PreparedHost, choice: EditChoice) -> np.ndarray:
        plan, kept = self.model.plan, prepared.kept(choice.kind)
        room = room_for_lesions(prepared.label, plan.grid.spacing_mm, choice.min_depth_mm, kept)
        if choice.tissue:
            image, inside = plan.intensity.normalised(prepared.image), prepared.label != OUTSIDE
            room &= prepared.gone(choice.kind) | tissue_like(image, inside, choice.tissue, plan.grid.spacing_mm)
        return room

    # --- hosts on the grid ---

    def real_arrays(self, case_id: str) -> tuple[FloatArray, LabelArray]:
        """A real case at the generator's spacing: image [C, D, H, W] and label [D, H, W], as nnU-Net preprocesses them.

        Ignored voxels count as background: what is in them is not known to be a lesion.
        """
        if self.dataset.resampled_mm is None:
            image, label = load_preprocessed(self.dataset, case_id)
        else:
            host = host_of(self.dataset, read_case(self.dataset, case_id))
            image, label = host.image, host.label
        return image, np.where(self._is_ignored(label), 0, label)

    def _is_ignored(self, label: LabelArray) -> np.ndarray:
        """[D, H, W] bool, voxels of the ignore label."""
        ignore_label = self.model.plan.encoding.ignore_label
        return np.zeros(label.shape, bool) if ignore_label is None else label == ignore_label

    def prepared(self, request: Request, choice: EditChoice) -> PreparedHost:
        """A host where the model's grid lies on it; the latest ones are kept."""
        host = _recent(
            self._hosts,
            (choice.host, choice.transform),
            lambda: load_host(self.dataset, choice.host, choice.transform),
        )
        centre = self._centre(host, request, choice)
        window = Window.around(self.model.plan.grid.shape, host.label.shape, centre)
        return _recent(self._prepared, (choice.host, choice.transform, window), lambda: self._prepare(host, window))

    def _prepare(self, host: Host, window: Window) -> PreparedHost:
        plan, label = self.model.plan, window.take(host.label, OUTSIDE)
        image, classes = plan.scaled(window.take(host.image, 0), label)
        ignored = self._is_ignored(label)
        lesions, fixed = (label > 0) & ~ignored, ignored | (window.open_faces(host.label.shape) & (label != OUTSIDE))
        return PreparedHost(host, window, label, lesions, fixed, image, classes)

    def _centre(self, host: Host, request: Request, choice: EditChoice) -> list[float]:
        """Host voxel around which a host larger than the grid is looked at: the old lesion, or where a new one is asked."""
        lesions = np.argwhere((host.label > 0) & ~self._is_ignored(host.label))
        if choice.kind != "add" and len(lesions):
            return lesions.mean(axis=0).tolist()
        rng = rng_of(request.noise_seed, Stream.WINDOW)
        asked, targets = request.asked, self.model.plan.targets
        places = [[asked[n] for t in targets if (n := f"{t.name}/centroid_{a}") in asked] for a in AXES]
        fractions = [next(iter(p), float(f)) for p, f in zip(places, rng.random(3), strict=True)]
        box = bounding_box(host.label != OUTSIDE)
        return [b.start + f * (b.stop - b.start) for b, f in zip(box, fractions, strict=True)]


def _recent(kept: OrderedDict[tuple[Any, ...], T], key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """The value of a key, made if it is not among the latest."""
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > MAX_HOSTS_KEPT:
        kept.popitem(last=False)
    return kept[key]


def refuse_other_axes(model: SBLDMModel, dataset: NnunetDataset) -> None:
    """Raise a :class:`UserError` if the hosts of a dataset are not turned as the generator's training cases were."""
    if not has_same_axes(model, dataset):
        raise UserError(
            f"The SBLDM in {model.folder} works with axes {model.plan.grid.transpose_forward}, but {dataset.name} is "
            f"planned with axes {tuple(dataset.plans.transpose_forward)}; hosts must be turned alike."
        )


def has_same_axes(model: SBLDMModel, dataset: NnunetDataset) -> bool:
    """Whether the hosts of a dataset are turned as the generator's training cases were."""
    return tuple(dataset.plans.transpose_forward) == model.plan.grid.transpose_forward


def _at_spacing_of(model: SBLDMModel, dataset: NnunetDataset) -> NnunetDataset:
    """The dataset with its cases at the generator's spacing, which is that of its own plans where these are alike."""
    spacing_mm = model.plan.grid.spacing_mm
    is_alike = len(dataset.config.spacing) == len(spacing_mm) and np.allclose(dataset.config.spacing, spacing_mm, rtol=1e-3)
    return dataset if is_alike else replace(dataset, resampled_mm=spacing_mm)
