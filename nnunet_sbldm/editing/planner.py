"""What to do to which host: kinds of edits, the choice of hosts, conditions that fit, and the latents to diffuse.

Everything random about an edit comes from its request's seed, and the record names what was chosen, so that an edit can be
made again although other hosts have come or gone since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from nnunet_sbldm.common.files import sha256_of_json
from nnunet_sbldm.data.conditions import AXES, FEATURES, as_dict
from nnunet_sbldm.data.dataset import NnunetDataset, load_preprocessed, read_case
from nnunet_sbldm.data.grid import FILL, bounding_box
from nnunet_sbldm.editing.hosts import Host, HostTransform, host_of, load_host
from nnunet_sbldm.editing.regions import (
    LESION_MARGIN,
    Region,
    Window,
    condition_elsewhere,
    dilated,
    ellipsoids,
    fitting_condition,
    impossible,
    region_around,
    room_for_lesions,
    tissue_like,
)
from nnunet_sbldm.generator.checkpoint import Generator, refuse_mismatch
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.diffusion import derived_seed
from nnunet_sbldm.quality.memorisation import left_right_axis
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray, UserError

T = TypeVar("T")

KINDS = ("replace", "add", "remove")
MAX_DEFORMATION_MM = 20.0
MAX_HOSTS_KEPT = 16
HOST_STREAM, CONDITION_STREAM, WINDOW_STREAM, DEFORMATION_STREAM = 11, 1, 12, 13


@dataclass(frozen=True)
class EditSettings:
    """How hosts are edited.

    Attributes:
        hosts: real training cases that may be hosts.
        kinds: what may be done, each case draws one: ``replace``, ``add`` or ``remove`` a lesion.
        mirror: mirror half of the hosts left to right.
        deformation_mm: largest displacement of a smooth deformation of every host, 0 for none.
    """

    hosts: tuple[str, ...]
    kinds: tuple[str, ...] = ("replace", "add")
    mirror: bool = True
    deformation_mm: float = 0.0

    def __post_init__(self) -> None:
        unknown = [k for k in self.kinds if k not in KINDS]
        if unknown or not self.kinds:
            raise UserError(f"-kind takes {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}.")
        if not 0 <= self.deformation_mm <= MAX_DEFORMATION_MM:
            raise UserError(f"-deformation takes 0 to {MAX_DEFORMATION_MM:g} mm; got {self.deformation_mm:g}.")

    def signature(self) -> dict[str, Any]:
        """What decides the edits, as JSON."""
        hosts = sha256_of_json(sorted(self.hosts))
        return {"kinds": list(self.kinds), "mirror": self.mirror, "deformation_mm": self.deformation_mm, "hosts": hosts}


@dataclass(frozen=True)
class EditChoice:
    """What is done to which host, as the record of an edited case says.

    Attributes:
        kind: one of ``KINDS``.
        host: id of the real case.
        transform: what is done to the host first.
        min_depth_mm: lesions lie at least so deep below the anatomy's surface.
        tissue: they lie in tissue of these normalised intensities, a range per channel; empty for any.
    """

    kind: str
    host: str
    transform: HostTransform
    min_depth_mm: float = 0.0
    tissue: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def from_record(edit: Mapping[str, Any]) -> EditChoice:
        """The choice that a record stores."""
        tissue = tuple((low, high) for low, high in edit.get("tissue", ()))
        return EditChoice(edit["kind"], edit["host"], HostTransform(**edit["transform"]), edit["min_depth_mm"], tissue)


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
        condition: [F] what the denoiser is told, physical units.
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
        generator: trained generator, on the device to use.
        dataset: where the hosts are.

    Raises:
        UserError: other channels, labels or orientation than the generator's.
    """

    def __init__(self, generator: Generator, dataset: NnunetDataset) -> None:
        refuse_mismatch(generator, dataset)
        refuse_other_axes(generator, dataset)
        self.generator, self.dataset = generator, _at_spacing_of(generator, dataset)
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
        plan, prepared = self.generator.plan, self.prepared(request, choices[0])
        host = prepared.host.label
        room = prepared.window.put(self._room(prepared, choices[0]), host.shape, False)
        raise impossible(plan, choices[0].host, host, room, request.asked)

    def task(self, request: Request, choice: EditChoice) -> EditTask | None:
        """Condition, region and latents of an edit; None if this host has no room for it."""
        plan, prepared = self.generator.plan, self.prepared(request, choice)
        label, spacing_mm, latent_shape = prepared.label, plan.grid.spacing_mm, plan.grid.latent_shape
        rng = np.random.default_rng([request.noise_seed, CONDITION_STREAM])
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
        plan, kept = self.generator.plan, prepared.kept(choice.kind)
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
        ignore_label = self.generator.plan.encoding.ignore_label
        return np.zeros(label.shape, bool) if ignore_label is None else label == ignore_label

    def prepared(self, request: Request, choice: EditChoice) -> PreparedHost:
        """A host where the model's grid lies on it; the latest ones are kept."""
        axis = left_right_axis(self.generator.plan)
        host = _recent(
            self._hosts,
            (choice.host, choice.transform),
            lambda: load_host(self.dataset, choice.host, choice.transform, axis),
        )
        centre = self._centre(host, request, choice)
        window = Window.around(self.generator.plan.grid.shape, host.label.shape, centre)
        return _recent(self._prepared, (choice.host, choice.transform, window), lambda: self._prepare(host, window))

    def _prepare(self, host: Host, window: Window) -> PreparedHost:
        plan, label = self.generator.plan, window.take(host.label, OUTSIDE)
        classes = plan.encoding.encode(label)
        image = np.where(classes == 0, FILL, window.take(plan.intensity.scaled(host.image), 0)).astype(np.float32)
        ignored = self._is_ignored(label)
        lesions, fixed = (label > 0) & ~ignored, ignored | (window.open_faces(host.label.shape) & (label != OUTSIDE))
        return PreparedHost(host, window, label, lesions, fixed, image, classes)

    def _centre(self, host: Host, request: Request, choice: EditChoice) -> list[float]:
        """Host voxel around which a host larger than the grid is looked at: the old lesion, or where a new one is asked."""
        lesions = np.argwhere((host.label > 0) & ~self._is_ignored(host.label))
        if choice.kind != "add" and len(lesions):
            return lesions.mean(axis=0).tolist()
        rng = np.random.default_rng([request.noise_seed, WINDOW_STREAM])
        asked, targets = request.asked, self.generator.plan.targets
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


def refuse_other_axes(generator: Generator, dataset: NnunetDataset) -> None:
    """Raise a :class:`UserError` if the hosts of a dataset are not turned as the generator's training cases were."""
    if not has_same_axes(generator, dataset):
        raise UserError(
            f"The SBLDM in {generator.folder} works with axes {generator.plan.grid.transpose_forward}, but {dataset.name} is "
            f"planned with axes {tuple(dataset.plans.transpose_forward)}; hosts must be turned alike."
        )


def has_same_axes(generator: Generator, dataset: NnunetDataset) -> bool:
    """Whether the hosts of a dataset are turned as the generator's training cases were."""
    return tuple(dataset.plans.transpose_forward) == generator.plan.grid.transpose_forward


def _at_spacing_of(generator: Generator, dataset: NnunetDataset) -> NnunetDataset:
    """The dataset with its cases at the generator's spacing, which is that of its own plans where these are alike."""
    spacing_mm = generator.plan.grid.spacing_mm
    is_alike = len(dataset.config.spacing) == len(spacing_mm) and np.allclose(dataset.config.spacing, spacing_mm, rtol=1e-3)
    return dataset if is_alike else replace(dataset, resampled_mm=spacing_mm)


def edit_choices(
    settings: EditSettings,
    request: Request,
    with_lesion: Collection[str],
    min_depth_mm: float = 0.0,
    tissue: tuple[tuple[float, float], ...] = (),
) -> list[EditChoice]:
    """Kinds and hosts of a request, in the order in which they are tried; its seed decides.

    Another kind is tried only where no host has room for the first.

    Args:
        settings: kinds and hosts.
        request: what is asked.
        with_lesion: the hosts that have a lesion to replace or remove.
        min_depth_mm: lesions lie at least so deep.
        tissue: and in tissue of these intensities.

    Raises:
        UserError: no host has a lesion to replace or remove.
    """
    rng = np.random.default_rng([request.noise_seed, HOST_STREAM])
    kinds = [settings.kinds[i] for i in rng.permutation(len(settings.kinds))]
    presences = [v for name, v in request.asked.items() if name.endswith(f"/{FEATURES[0]}")]
    if presences and not any(presences):  # absence is asked
        kinds = ["remove"]
    mirrored = settings.mirror and bool(rng.integers(2))
    seed = derived_seed(request.noise_seed, DEFORMATION_STREAM) if settings.deformation_mm else 0
    transform = HostTransform(mirrored, settings.deformation_mm, seed)
    order = [settings.hosts[i] for i in rng.permutation(len(settings.hosts))]
    pairs = [(kind, host) for kind in kinds for host in order if kind == "add" or host in with_lesion]
    if not pairs:
        raise UserError(f"None of the {len(order)} possible host(s) has a lesion to {' or '.join(kinds)}; use -kind add.")
    return [EditChoice(kind, host, transform, min_depth_mm, tissue) for kind, host in pairs]
