"""The methods paragraph of a study, with all its settings, ready to paste."""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_sbldm.ablation.statistics import MIN_PAIRS_TESTED, SIGNIFICANCE
from nnunet_sbldm.ablation.study import PHANTOM, TEST_FOLDER, Study


def methods_paragraph(study: Study, versions: Mapping[str, str], num_test: int, units: str = "cases") -> str:
    """Say in prose what was compared, on what, how it was trained, and how it was tested.

    Args:
        study: the study, without what is not finished.
        versions: library -> version.
        num_test: number of test cases.
        units: what intervals resample and tests compare, ``cases`` or ``patients``.
    """
    parts = [_data(study, num_test), _training(study), _generator(study), _arms(study), _evaluation(study, units)]
    parts.append("Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".")
    return " ".join(p for p in parts if p)


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _data(study: Study, num_test: int) -> str:
    source = "the embedded phantom" if study.dataset == PHANTOM else f"dataset {study.dataset}"
    held_out = f"the cases of {TEST_FOLDER}" if study.test_cases == TEST_FOLDER else (
        "listed by hand" if isinstance(study.test_cases, tuple) else f"drawn at random with seed {study.split_seed}")
    by, numbers = ", by patient" if study.groups else "", _list(tuple(sorted(study.num_cases)))
    return (
        f"We used {source}. {num_test} test cases ({held_out}{by}) were held out from everything: fingerprint, plans, generators "
        f"and networks were made from the n = {numbers} real training cases alone, unless an arm says otherwise. The training "
        f"cases are the first n of a random order of all others{by}, so that subsets are nested, for {len(study.draws)} draw(s) "
        f"({_list(study.draws)}) and {len(study.seeds)} repetition(s) (seeds {_list(study.seeds)} of generators and synthetic "
        "cases; nnU-Net takes no seed)."
    )


_NETWORKS = {
    "planned": "the planned network",
    "half": "the planned network with half the features in every stage",
    "small": "the first three stages of the planned network with 8, 16 and 32 features and one convolution each",
}


def _training(study: Study) -> str:
    t = study.training
    network = _NETWORKS[t.network]
    changes = [f"patch size {' x '.join(map(str, t.patch_size))}"] if t.patch_size else []
    changes += [f"batch size {t.batch_size}"] if t.batch_size else []
    precision = f" in {t.cpu_precision}" if study.run.device == "cpu" and t.cpu_precision != "fp32" else ""
    changed = f", {' and '.join(changes)}" if changes else ""
    tta = "with" if t.test_time_augmentation else "without"
    return (
        f"Every arm trained nnU-Net's 3d_fullres ({network}{changed}) for {t.num_epochs} epochs of {t.num_iterations_per_epoch} "
        f"iterations{precision}, the same number for every arm, on all its cases (fold all), and predicted {tta} test-time "
        "mirroring from the last checkpoint; no checkpoint was chosen."
    )


def _generator(study: Study) -> str:
    if not any(arm.definition.needs_generator for arm in study.arms):
        return ""
    g = study.generator
    steps = f", {g.steps} denoising steps" if g.steps else ""
    guidance = f", guidance {g.guidance:g}" if g.guidance is not None else ""
    edits = f", edits {', '.join(g.edit_kinds)} where nothing else is said" if any(
        "edit" in arm.definition.modes for arm in study.arms) else ""
    gate = "judged by the quality gate" if g.gate else "unjudged"
    return (
        f"For every n, draw and seed one slice-based latent diffusion model (preset {g.preset}) was trained on the same n cases, "
        f"where nothing else is said, and shared by the arms that use it; it made {g.cases_per_real:g} synthetic cases per "
        f"real case and mode{steps}{guidance}{edits}, {gate}."
    )


def _arms(study: Study) -> str:
    return "Arms: " + "; ".join(arm.definition.described(arm) for arm in study.arms) + "."


def _evaluation(study: Study, units: str) -> str:
    e, one = study.evaluation, units.removesuffix("s")
    surface = (f" NSD at {e.tolerance_mm:g} mm and HD95 were computed with MONAI; HD95 leaves out structures that are missing on "
               "one side.") if e.surface_distances else ""
    scans = ", then over the scans of a patient" if units != "cases" else ""
    baselines = [a.name for a in study.arms if a.definition.is_baseline]
    families = baselines and any(a.definition.needs_generator for a in study.arms)
    baseline = f", and as a family of its own over those of arms with a generator to {baselines[0]}" if families else ""
    return (
        f"Dice per case comes from nnU-Net's evaluation (1 for a structure neither there nor predicted), averaged over "
        f"structures{scans}.{surface} Intervals are {100 * e.confidence:g} % percentile bootstrap intervals ({e.num_resamples} "
        f"samples) that resample {_resampled(study, units)}; differences are paired by {one}, draw and repetition. Wilcoxon's "
        f"signed-rank test on each {one}'s mean difference (at least {MIN_PAIRS_TESTED} that are not 0) was adjusted after Holm "
        f"over all differences to real_only{baseline}; significance level {SIGNIFICANCE:g}."
    )


def _resampled(study: Study, units: str) -> str:
    """What the intervals resample: what there are several of."""
    several = [name for name, values in (("draws", study.draws), ("repetitions", study.seeds)) if len(values) > 1]
    return " and ".join([f"test {units}", *several]) if len(several) < 2 else f"test {units}, draws and repetitions"
