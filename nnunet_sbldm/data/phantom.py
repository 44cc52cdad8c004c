"""A made-up MRI phantom with known truth: heads with a tumour of known size, place and contrast.

Arrays [Z, Y, X] run to superior, posterior and left, as an axial scan does. Case ``index`` of a configuration is the
same in every process, however many others are made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.data.phantom_anatomy import Anatomy, Tumour, grow, paint_over, paint_tissues, radius, rotation_matrix
from nnunet_sbldm.types import Case, Geometry, LabelArray, UserError

CHANNELS = ("FLAIR", "T1")
TUMOUR, CORE = 1, 2
WHITE_INTENSITY = 400.0
MIN_INTENSITY = 1.0
"""Smallest intensity inside the head, so that 0 means outside."""


@dataclass(frozen=True)
class PhantomConfig:
    """How phantom cases are made.

    Attributes:
        seed: seed of the whole series.
        shape: voxels along (Z, Y, X).
        spacing_mm: voxel size along (Z, Y, X).
        head_mm: diameters of the head along (Z, Y, X) before variation; a smaller volume cuts it.
        size_variation: largest relative deviation of each diameter.
        max_rotation_deg: largest rotation about each axis.
        max_shift_mm: largest shift along each axis.
        volume_ml: smallest and largest tumour volume, drawn log-uniformly.
        flair_contrast: smallest and largest FLAIR intensity of the tumour relative to white matter.
        t1_contrast: the same for T1.
        noise: standard deviation of the noise relative to white matter.
        bias: largest deviation of the smooth bias field from 1.
        num_labels: 1 for a tumour, 2 for a tumour with a core inside.
        core_fraction: share of the tumour's volume that is core.
        healthy_probability: probability of a head without tumour.
        regions: declare the labels as nested regions, as in BraTS (needs two labels).
        ignore_slices: number of lowest slices whose label is ``ignore``.
    """

    seed: int = 0
    shape: tuple[int, int, int] = (24, 48, 44)
    spacing_mm: tuple[float, float, float] = (5.0, 3.5, 3.5)
    head_mm: tuple[float, float, float] = (106.0, 148.0, 128.0)
    size_variation: float = 0.05
    max_rotation_deg: float = 6.0
    max_shift_mm: float = 3.0
    volume_ml: tuple[float, float] = (8.0, 40.0)
    flair_contrast: tuple[float, float] = (1.6, 2.1)
    t1_contrast: tuple[float, float] = (0.45, 0.65)
    noise: float = 0.04
    bias: float = 0.12
    num_labels: int = 1
    core_fraction: float = 0.3
    healthy_probability: float = 0.0
    regions: bool = False
    ignore_slices: int = 0

    def __post_init__(self) -> None:
        if self.num_labels not in (1, 2) or (self.regions and self.num_labels == 1):
            raise UserError(f"A phantom has 1 or 2 labels, and regions need 2; got {self.num_labels} label(s).")

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm)) / 1000


@dataclass(frozen=True)
class PhantomTruth:
    """What was asked of a case; the voxels follow it to within half a voxel in volume and about one in place.

    Attributes:
        case_id: identifier of the case.
        volume_ml: volume of the whole tumour, core included; 0 for a healthy head.
        core_volume_ml: volume of the core.
        centroid: tumour centroid along (Z, Y, X) as a fraction of the head's bounding box; None for a healthy head.
        contrast: tumour intensity in (FLAIR, T1) relative to white matter.
        noise_std: standard deviation of the noise, in intensity units.
    """

    case_id: str
    volume_ml: float
    core_volume_ml: float
    centroid: tuple[float, float, float] | None
    contrast: tuple[float, float]
    noise_std: float


@dataclass(frozen=True)
class _Parameters:
    """All random numbers of a case but its noise."""

    anatomy: Anatomy
    tumour: Tumour | None
    contrast: tuple[float, float]
    gain: float
    bias: np.ndarray


def make_phantom_case(config: PhantomConfig, index: int, name: str = "phantom") -> tuple[Case, PhantomTruth]:
    """Make one case.

    Args:
        config: how to make it.
        index: number of the case in the series.
        name: case ids are ``NAME_INDEX``.

    Returns:
        The case (image float32 [2, Z, Y, X], exactly 0 outside the head) and the truth about it.
    """
    rng = np.random.default_rng([config.seed, index])
    p = _draw_parameters(config, rng)
    mm = _coordinates_mm(config)
    head_mm = p.anatomy.to_head(mm)
    tumour, core = _masks(config, p, head_mm)
    relative = paint_tissues(head_mm, p.anatomy)  # [2, Z, Y, X]
    for channel, contrast in enumerate(p.contrast):
        relative[channel] = paint_over(relative[channel], tumour, contrast, config.spacing_mm)
        relative[channel] = paint_over(relative[channel], core, 0.5 * contrast + 0.1, config.spacing_mm)
    relative = relative * _bias_field(mm, p.bias, config) + rng.normal(0, config.noise, relative.shape)
    head = radius(head_mm / p.anatomy.semi_axes_mm) < 1
    image = np.maximum(WHITE_INTENSITY * p.gain * relative, MIN_INTENSITY) * head
    case_id = f"{name}_{index:03d}"
    case = Case(case_id, image.astype(np.float32), _label(config, tumour, core), _geometry(config))
    return case, _truth(config, p, case_id)


# more than six arguments: a converter's options
def write_phantom_dataset(
    raw_folder: Path, dataset_id: int, num_cases: int, num_test_cases: int = 0, config: PhantomConfig | None = None,
    name: str = "Phantom", file_ending: str = ".nii.gz",
) -> Path:
    """Write phantom cases as an nnU-Net raw dataset.

    Args:
        raw_folder: ``nnUNet_raw``.
        dataset_id: number of the dataset.
        num_cases: training cases, in ``imagesTr`` and ``labelsTr``.
        num_test_cases: further cases, in ``imagesTs`` and ``labelsTs``.
        config: how cases are made; the defaults if None.
        name: the dataset is called ``DatasetXXX_NAME``.
        file_ending: file format of images and labels.

    Returns:
        Folder of the dataset. ``phantom_truth.json`` lists what is known of every case; ``dataset.json`` is written last.
    """
    from nnunet_sbldm.data.formats import write_case

    config = config or PhantomConfig()
    folder = raw_folder / f"Dataset{dataset_id:03d}_{name}"
    truths = []
    for index in range(num_cases + num_test_cases):
        part = "Tr" if index < num_cases else "Ts"
        case, truth = make_phantom_case(config, index, name.lower())
        images = [folder / f"images{part}" / f"{case.case_id}_{c:04d}{file_ending}" for c in range(len(CHANNELS))]
        write_case(case, images, folder / f"labels{part}" / f"{case.case_id}{file_ending}")
        truths.append(asdict(truth))
    write_json(folder / "phantom_truth.json", {"config": asdict(config), "cases": truths})
    write_json(folder / "dataset.json", dataset_json(config, num_cases, name, file_ending))
    return folder


def dataset_json(config: PhantomConfig, num_cases: int, name: str = "Phantom", file_ending: str = ".nii.gz") -> dict[str, Any]:
    """Content of nnU-Net's ``dataset.json`` for phantom cases."""
    labels: dict[str, Any] = {"background": 0, "tumour": TUMOUR}
    if config.num_labels == 2:
        labels = {"background": 0, "tumour": [TUMOUR, CORE] if config.regions else TUMOUR, "core": CORE}
    if config.ignore_slices:
        labels["ignore"] = config.num_labels + 1
    content = {
        "name": name,
        "description": "Made-up heads with a tumour of known size, place and contrast",
        "channel_names": {str(i): c for i, c in enumerate(CHANNELS)},
        "labels": labels,
        "numTraining": num_cases,
        "file_ending": file_ending,
    }
    return {**content, "regions_class_order": [TUMOUR, CORE]} if config.regions else content


def _draw_parameters(config: PhantomConfig, rng: np.random.Generator) -> _Parameters:
    anatomy = Anatomy(
        semi_axes_mm=np.asarray(config.head_mm) / 2 * (1 + config.size_variation * rng.uniform(-1, 1, 3)),
        rotation=rotation_matrix(np.deg2rad(config.max_rotation_deg) * rng.uniform(-1, 1, 3)),
        shift_mm=config.max_shift_mm * rng.uniform(-1, 1, 3),
        folding_phase=rng.uniform(0, 2 * np.pi, 3),
        ventricle_size=rng.uniform(0.8, 1.3),
    )
    tumour = _draw_tumour(config, anatomy, rng)
    healthy = rng.uniform() < config.healthy_probability
    contrast = (rng.uniform(*config.flair_contrast), rng.uniform(*config.t1_contrast))
    return _Parameters(anatomy, None if healthy else tumour, contrast, rng.uniform(0.7, 1.4), rng.uniform(-1, 1, 3))


def _draw_tumour(config: PhantomConfig, anatomy: Anatomy, rng: np.random.Generator) -> Tumour:
    """A tumour whose ball fits into the brain, anywhere in it."""
    volume_ml = float(np.exp(rng.uniform(*np.log(config.volume_ml))))
    radius_mm = (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    room_mm = np.maximum(anatomy.brain_axes_mm - 1.25 * radius_mm, 0)
    direction = rng.normal(size=3)
    centre_mm = direction / np.linalg.norm(direction) * rng.uniform(0.1, 1) ** 0.5 * room_mm
    return Tumour(centre_mm, volume_ml, axes=np.exp(rng.uniform(-0.2, 0.2, 3)), bumps=rng.uniform(-1, 1, (3, 3)))


def _coordinates_mm(config: PhantomConfig) -> np.ndarray:
    """Voxel centres [Z, Y, X, 3] in mm from the centre of the volume."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(config.shape, config.spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _geometry(config: PhantomConfig) -> Geometry:
    """The centre of the volume lies at the physical origin."""
    z, y, x = (-(n - 1) / 2 * s for n, s in zip(config.shape, config.spacing_mm, strict=True))
    return Geometry(config.spacing_mm, (x, y, z))


def _masks(config: PhantomConfig, p: _Parameters, head_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole tumour and its core, bool [Z, Y, X]."""
    if p.tumour is None:
        return np.zeros(config.shape, bool), np.zeros(config.shape, bool)
    brain = radius(head_mm / p.anatomy.brain_axes_mm) < 1
    return grow(p.tumour, head_mm, brain, config.voxel_ml, config.core_fraction if config.num_labels == 2 else 0)


def _bias_field(mm: np.ndarray, bias: np.ndarray, config: PhantomConfig) -> np.ndarray:
    """Smooth multiplicative field within 1 +- ``config.bias``."""
    extent_mm = np.multiply(config.shape, config.spacing_mm) / 2
    return 1 + config.bias * np.mean(np.sin(2 * bias * mm / extent_mm + np.pi * bias), axis=-1)


def _label(config: PhantomConfig, tumour: np.ndarray, core: np.ndarray) -> LabelArray:
    label = np.zeros(config.shape, np.int16)
    label[tumour] = TUMOUR
    label[core] = CORE
    label[: config.ignore_slices] = config.num_labels + 1
    return label


def _truth(config: PhantomConfig, p: _Parameters, case_id: str) -> PhantomTruth:
    noise_std = config.noise * WHITE_INTENSITY * p.gain
    if p.tumour is None:
        return PhantomTruth(case_id, 0.0, 0.0, None, p.contrast, noise_std)
    d, h, w = (float(f) for f in p.anatomy.box_fraction(p.tumour.centre_mm))
    core_ml = p.tumour.volume_ml * config.core_fraction if config.num_labels == 2 else 0.0
    return PhantomTruth(case_id, p.tumour.volume_ml, core_ml, (d, h, w), p.contrast, noise_std)
