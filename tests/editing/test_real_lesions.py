"""What real cases allow edits to be, where there are few cases and little healthy tissue."""


import numpy as np
import pytest
from editing_cases import ball

from nnunet_sbldm.editing.gate import judge_edit
from nnunet_sbldm.editing.real_lesions import (
    MAX_PLACEMENTS,
    PLACEMENTS_PER_CASE,
    RealLesions,
    healthy_scores,
    lesion_distance,
    lesion_patch,
    measure_real_lesions,
)
from nnunet_sbldm.quality.gate import Reason
from nnunet_sbldm.types import OUTSIDE

SHAPE, SPACING = (12, 40, 40), (3.0, 2.0, 2.0)


def case_with_lesion(seed: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise in a cylinder, and a brighter ball off its centre."""
    rng = np.random.default_rng(seed)
    d, h, w = np.indices(SHAPE)
    label = np.where((h - 19.5) ** 2 + (w - 19.5) ** 2 < 19**2, 0, OUTSIDE).astype(np.int16)
    label[(label == 0) & (((d - 6) * 1.5) ** 2 + (h - 14) ** 2 + (w - 14) ** 2 < radius**2)] = 1
    image = np.where(label == OUTSIDE, 0, rng.normal(size=SHAPE) + 2 * (label == 1))
    return image[None].astype(np.float32), label


def measured(num_cases: int, radius: int) -> RealLesions:
    cases = {f"case_{i}": case_with_lesion(i, radius) for i in range(num_cases)}
    return measure_real_lesions(list(cases), cases.__getitem__, SPACING)


@pytest.mark.parametrize("radius", [4, 12])
def test_few_cases_give_many_borders_of_healthy_tissue_however_large_their_lesions(radius):
    values = measured(5, radius).values
    for name in ("seam", "border_fine", "border_medium", "healthy_contrast"):
        assert len(values[f"channel_0/{name}"]) >= 0.9 * 5 * PLACEMENTS_PER_CASE, name


def test_of_many_cases_fewer_borders_are_looked_at_in_each():
    assert 0.9 * MAX_PLACEMENTS <= len(measured(30, 4).values["channel_0/border_fine"]) <= MAX_PLACEMENTS


def test_borders_differ_from_place_to_place_so_bounds_hold_other_real_ones():
    few, others = measured(5, 12), measured(8, 6)
    for name in ("channel_0/border_fine", "channel_0/border_medium"):
        low, high = few.bounds(name)
        within = [low <= v <= high for v in others.values[name]]
        assert np.mean(within) > 0.9, name
        assert len(set(few.values[name])) > 20, name


def test_a_lesion_left_in_place_and_mottled_tissue_are_no_healthy_tissue():
    bounds = measured(5, 6).bounds
    image, label = case_with_lesion(9, 6)
    place, tissue = label == 1, label == 0

    def outside(image: np.ndarray) -> set[str]:
        scores = healthy_scores(image, place, tissue, SPACING)
        return {n.split("_")[-1] for n, v in scores.items() if not bounds(n)[0] <= v <= bounds(n)[1]}

    healed = image - 2 * place
    assert outside(image) == {"contrast"}
    assert outside(healed) == set()
    assert outside(np.where(place, 3 * healed, healed)) == {"fine", "medium"}
    assert healthy_scores(image, np.zeros_like(place), tissue, SPACING) == {}


def test_one_real_value_bounds_nothing():
    assert RealLesions(0.0, {"channel_0/seam": [0.1]}).bounds("channel_0/seam") is None
    assert RealLesions(0.0, {"channel_0/seam": [0.1, 0.1]}).bounds("channel_0/seam") == pytest.approx((-0.05, 0.25))


def test_without_healthy_tissue_only_lesions_are_measured():
    def load(_: str) -> tuple[np.ndarray, np.ndarray]:
        image, label = case_with_lesion(0, 6)
        label[label == 0] = OUTSIDE
        return image, label

    values = measure_real_lesions(["a", "b"], load, SPACING).values
    assert not any("border" in name or "healthy" in name for name in values)


def test_a_copied_lesion_is_found_under_flips_and_shifts_and_another_is_not():
    rng = np.random.default_rng(3)
    label = ball((24, 40, 40), (12, 18, 20), 6).astype(np.int16)
    label |= ball(label.shape, (14, 23, 22), 4)
    image = (rng.normal(size=(2, *label.shape)) + 4 * label).astype(np.float32)
    patch = lesion_patch(image, label)
    moved = lesion_patch(np.roll(image[..., ::-1], (1, 2), (1, 2)), np.roll(label[..., ::-1], (1, 2), (0, 1)))
    other_label = ball(label.shape, (12, 20, 20), 7).astype(np.int16)
    other = lesion_patch((rng.normal(size=image.shape) + 4 * other_label).astype(np.float32), other_label)
    assert lesion_distance(patch, moved) < 1e-5
    assert lesion_distance(patch, other) > 0.05
    real = RealLesions(0.0, {}, {"a": patch, "b": other}, lesion_distance(patch, other))
    (reason,) = judge_edit(real, {}, 0.0, real.nearest(moved)).reasons
    assert reason.rule == "copy"
    assert reason.text.startswith("copy of the lesion of a: distance")
    (cut,) = judge_edit(real, {}, 0.2, {}).reasons
    assert cut == Reason("cut", "cut: 20% of the lesion lies in the border of the region")
