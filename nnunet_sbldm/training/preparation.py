"""From a fold's training cases to a generator plan and training arrays; where bad data is refused."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_sbldm import __version__
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.cases import load_preprocessed, read_case
from nnunet_sbldm.data.conditions import ConditionScaling, Target, feature_names, measure
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.grid import configure_grid, left_right_axis, nearest_axes
from nnunet_sbldm.data.intensities import IntensityScaling
from nnunet_sbldm.data.labels import LabelEncoding, values_of
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.outlines import components_of, intensity_range
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.quality.appearance import measure_appearance
from nnunet_sbldm.quality.gate import fit_gate
from nnunet_sbldm.training.augmentation import Augmenter, may_be_mirrored, num_copies
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.types import OUTSIDE, FloatArray, Geometry, LabelArray, SBLDMWarning, UserError

NO_FLOOR = -3.0e38
MIN_CASES = 2
LOW, HIGH = 0.5, 99.5
"""Percentiles of the intensities inside the anatomy that become about -1 and 1."""


@dataclass(frozen=True)
class CaseSummary:
    """What the plan needs to know of one training case.

    Attributes:
        shape: (D, H, W) preprocessed.
        outside_share: share of ``OUTSIDE`` voxels in the crop.
        normalised: [C, 2] low and high percentile of nnU-Net's normalised intensities inside.
        raw: [C, 2] the same of the raw intensities.
        condition: [F] condition vector.
        appearance: intensities and contrasts, see :func:`nnunet_sbldm.quality.appearance.measure_appearance`.
        components: label value -> voxels [N] and mean normalised intensities [N, C] of its connected components.
        geometry: of the raw case.
    """

    shape: tuple[int, ...]
    outside_share: float
    normalised: np.ndarray
    raw: np.ndarray
    condition: np.ndarray
    appearance: dict[str, float]
    components: dict[int, tuple[np.ndarray, np.ndarray]]
    geometry: Geometry


def condition_targets(dataset: NnunetDataset) -> tuple[Target, ...]:
    """Foreground labels, or regions where the dataset defines them."""
    manager = dataset.plans.get_label_manager(dataset.dataset_json)
    wanted = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    names = {values_of(v): name for name, v in dataset.dataset_json["labels"].items()}
    return tuple(Target(names.get(values_of(v), f"label_{v}"), values_of(v)) for v in wanted)


def label_encoding(dataset: NnunetDataset) -> LabelEncoding:
    """Class indices for the labels of ``dataset.json``; the ignore label is left out."""
    manager = dataset.plans.get_label_manager(dataset.dataset_json)
    return LabelEncoding((OUTSIDE, *sorted(int(v) for v in manager.all_labels)), manager.ignore_label)


def summarise(dataset: NnunetDataset, case_id: str, encoding: LabelEncoding, targets: Sequence[Target]) -> CaseSummary:
    """Read one case raw and preprocessed, check it, and measure it.

    Raises:
        UserError: NaN, constant image, unknown label, geometry mismatch, not preprocessed.
    """
    raw = read_case(dataset, case_id)
    image, label = load_preprocessed(dataset, case_id)
    _check(dataset, case_id, image, label, encoding)
    inside = label != OUTSIDE
    ranges = [_ranges(*pair) for pair in zip(image[:, inside], raw.image[:, (raw.image != 0).any(axis=0)], strict=True)]
    for name, found in zip(dataset.channel_names, ranges, strict=True):
        if not np.ptp(found, axis=1).all():
            raise UserError(f"Channel {name} of case {case_id} of {dataset.name} is constant in the anatomy; remove the case.")
    return CaseSummary(
        shape=label.shape,
        outside_share=float(1 - inside.mean()),
        normalised=np.array([own for own, _ in ranges]),
        raw=np.array([theirs for _, theirs in ranges]),
        condition=measure(label, targets, dataset.config.spacing),
        appearance=measure_appearance(image, label, targets, dataset.config.spacing),
        components={v: components_of(label == v, image)[1:] for v in encoding.values if v > 0 and (label == v).any()},
        geometry=raw.geometry,
    )


def _ranges(normalised: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """Low and high of a channel's voxels [2, 2], normalised and raw: percentiles, the extremes where few voxels differ at all."""
    ranges = np.array([np.percentile(v, (LOW, HIGH)) for v in (normalised, raw)])
    return ranges if np.ptp(ranges, axis=1).all() else np.array([(v.min(), v.max()) for v in (normalised, raw)])


def _check(dataset: NnunetDataset, case_id: str, image: FloatArray, label: LabelArray, encoding: LabelEncoding) -> None:
    if not np.isfinite(image).all():
        raise UserError(f"Case {case_id} of {dataset.name} has NaN or infinite voxels after preprocessing; repair or remove it.")
    for name, channel in zip(dataset.channel_names, image, strict=True):
        if channel.min() == channel.max():
            raise UserError(f"Channel {name} of case {case_id} of {dataset.name} is constant; repair or remove the case.")
    unknown = sorted(set(np.unique(label).tolist()) - set(encoding.values) - {encoding.ignore_label})
    if unknown:
        raise UserError(f"Case {case_id} of {dataset.name} has the label(s) {unknown}, which dataset.json does not define.")


def intensity_scaling(dataset: NnunetDataset, summaries: Sequence[CaseSummary]) -> IntensityScaling:
    """Scaling of every channel, measured over the training cases.

    The way to raw intensities is exact for CT and fixed scalings; for normalisations that depend on the case itself
    (z-score, 0-1) any gain serves, and the training cases' median is taken, so that files look like the user's own.
    """
    normalised = np.array([s.normalised for s in summaries])  # [N, C, 2]
    raw = np.array([s.raw for s in summaries])  # [N, C, 2]
    has_outside = np.mean([s.outside_share for s in summaries]) > 0
    channels = []
    for c, (scheme, masked) in enumerate(
        zip(dataset.config.normalization_schemes, dataset.config.use_mask_for_norm, strict=True)
    ):
        gains = np.ptp(raw[:, c], axis=1) / np.ptp(normalised[:, c], axis=1)
        zeros = normalised[:, c, 0] - raw[:, c, 0] / gains  # normalised value of raw 0, per case
        gain, zero = _fixed_scaling(dataset, scheme, c) or (float(np.median(gains)), float(np.median(zeros)))
        margin = 0.5 * float(np.ptp(zeros)) + 0.05 if scheme == "ZScoreNormalization" and has_outside and not masked else None
        low, high = (zero, zero) if margin is None else (float(zeros.min()) - margin, float(zeros.max()) + margin)
        positive = scheme != "CTNormalization" and raw[:, c].min() >= 0
        channels.append((gain, low, high, 0.01 * gain if positive else NO_FLOOR))
    typical = normalised.mean(axis=0)
    scale = np.maximum(np.ptp(typical, axis=1) / 2, 1e-6)
    return IntensityScaling(tuple(typical.mean(axis=1).tolist()), tuple(scale.tolist()), *zip(*channels, strict=True))


def _fixed_scaling(dataset: NnunetDataset, scheme: str, channel: int) -> tuple[float, float] | None:
    """Raw distance of normalised 1 and normalised value of raw 0, where they do not depend on the case."""
    if scheme == "CTNormalization":
        properties = dataset.plans.foreground_intensity_properties_per_channel[str(channel)]
        gain = max(properties["std"], 1e-8)
        return gain, -properties["mean"] / gain
    return {"NoNormalization": (1.0, 0.0), "RGBTo01Normalization": (255.0, 0.0)}.get(scheme)


def prepare(
    request: TrainingRequest, work: Path
) -> tuple[GeneratorPlan, TrainingArrays, list[CaseFingerprint]]:
    """Plan a generator from its training cases alone and lay the cases on its grid.

    Args:
        request: what is to be trained.
        work: folder for the training arrays.

    Raises:
        UserError: too few cases, a bad case, no foreground in any, or other channels and labels than the initial model's.
    """
    dataset, fold, case_ids, initial = request.dataset, request.fold, request.case_ids, request.initial
    if len(case_ids) < MIN_CASES:
        raise UserError(
            f"{dataset.name} has {len(case_ids)} training case(s) in fold {fold}; an SBLDM needs at least {MIN_CASES}."
        )
    encoding, targets = label_encoding(dataset), condition_targets(dataset)
    if initial:
        initial.match(dataset.name, dataset.channel_names, encoding, targets)
    summaries = [summarise(dataset, c, encoding, targets) for c in progress(case_ids, "reading cases")]
    if not any(s.components for s in summaries):
        raise UserError(f"No training case of {dataset.name} in fold {fold} has any foreground; there is nothing to synthesise.")
    geometries = [s.geometry for s in summaries]
    _warn_of_orientations(dataset.name, geometries)
    fingerprints = list(fingerprints_of(dataset, case_ids).values())
    plan = _plan(request, encoding, targets, summaries)
    plan = initial.adopted(plan) if initial else plan
    copies = num_copies(len(case_ids), request.preset.augmentation)
    arrays = TrainingArrays.create(work, len(case_ids) * (1 + copies), len(plan.channel_names), plan.grid.shape)
    for n, case_id in enumerate(case_ids):
        arrays.put(n, *plan.to_network(*load_preprocessed(dataset, case_id)))
    _add_copies(arrays, geometries, plan)
    return plan, arrays, fingerprints


def _most_common(geometries: Sequence[Geometry]) -> Geometry:
    """The first geometry among those that are oriented as most are."""
    axes = [nearest_axes(g.array_axes()) for g in geometries]
    return geometries[axes.index(Counter(axes).most_common(1)[0][0])]


def _warn_of_orientations(name: str, geometries: Sequence[Geometry]) -> None:
    """Say so where cases are turned differently: to the networks, which see arrays, their heads lie in different ways."""
    found = Counter(nearest_axes(g.array_axes()) for g in geometries)
    if len(found) > 1:
        turned = len(geometries) - found.most_common(1)[0][1]
        warnings.warn(
            f"{turned} of {len(geometries)} training cases of {name} are stored in another orientation than most; nnU-Net does "
            "not turn them, so the SBLDM learns heads that lie in different ways: reorient the files, then preprocess again.",
            SBLDMWarning,
            stacklevel=2,
        )


def _add_copies(arrays: TrainingArrays, geometries: Sequence[Geometry], plan: GeneratorPlan) -> None:
    """Fill the rows after the real cases with augmented copies of them, each mirrored between its own left and right."""
    num_cases = len(geometries)
    if len(arrays.images) == num_cases:
        return
    axes = [left_right_axis(g, plan.grid.transpose_forward) for g in geometries]
    mirroring = may_be_mirrored(arrays.images[:num_cases], arrays.classes[:num_cases], axes)
    for row in progress(range(num_cases, len(arrays.images)), "augmenting cases"):
        n = row % num_cases
        augmenter = Augmenter(plan.preset.augmentation, plan.grid, axes[n] if mirroring else None)
        copy = augmenter.copy(arrays.images[n].astype(np.float32), arrays.classes[n], np.random.default_rng([plan.seed, row]))
        arrays.put(row, *copy)


def _plan(
    request: TrainingRequest, encoding: LabelEncoding, targets: tuple[Target, ...], summaries: Sequence[CaseSummary]
) -> GeneratorPlan:
    dataset = request.dataset
    table = np.array([s.condition for s in summaries])
    values = sorted({v for s in summaries for v in s.components})
    components = {str(v): [s.components[v] for s in summaries if v in s.components] for v in values}
    intensity = intensity_scaling(dataset, summaries)
    grid = configure_grid(
        [s.shape for s in summaries],
        dataset.config.spacing,
        dataset.plans.transpose_forward,
        float(np.mean([s.outside_share for s in summaries])),
    )
    return GeneratorPlan(
        dataset_name=dataset.name,
        plans_name=dataset.plans_name,
        configuration=dataset.configuration,
        plans_hash=dataset.plans_hash(),
        fold=request.fold,
        seed=request.seed,
        library_version=__version__,
        preset=request.preset,
        channel_names=tuple(dataset.channel_names),
        encoding=encoding,
        targets=targets,
        grid=grid,
        intensity=intensity,
        condition_scaling=ConditionScaling.fit(feature_names(targets), table),
        condition_table=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in table),
        min_component_voxels={v: min(int(voxels.min()) for voxels, _ in known) for v, known in components.items()},
        component_intensity={v: intensity_range(intensity.scaled(np.concatenate([means for _, means in known]).T).T)
                             for v, known in components.items()},
        gate=fit_gate(table, feature_names(targets), [s.appearance for s in summaries]),
        template=_most_common([s.geometry for s in summaries]),
    )
