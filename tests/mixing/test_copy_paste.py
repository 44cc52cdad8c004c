import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.mixing.copy_paste import CopyPasteSource, carve, has_foreground, paste
from nnunet_sbldm.types import UserError


class Cases:
    """Cases in memory."""

    def __init__(self, cases):
        self.cases, self.identifiers = cases, sorted(cases)

    def load_case(self, identifier):
        return self.cases[identifier]


def make(shape=(12, 14, 16), labels=(1, 2), seed=0, with_lesion=True, regions=False):
    """A case with two nested boxes at a random place, anatomy all but a rim; locations are all voxels of each class."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    label = np.zeros((1, *shape), np.int16)
    label[:, 0] = label[:, :, :, -1] = -1
    if with_lesion:
        corner = [rng.integers(2, n - 7) for n in shape]
        label[(0, *(slice(c, c + 5) for c in corner))] = labels[0]
        label[(0, *(slice(c + 1, c + 3) for c in corner))] = labels[1]
    keys = [(1, 2), (2,)] if regions else labels
    return image, label, None, {"class_locations": locations_of(label, keys), "spacing": [1, 1, 1]}


def locations_of(label, keys):
    return {key: np.argwhere(np.isin(label, key)) for key in keys}


def as_sets(locations):
    return {key: {tuple(p) for p in points} for key, points in locations.items()}


@given(st.integers(0, 50), st.floats(-0.5, 1))
def test_a_higher_level_carves_a_larger_region_around_the_lesion(seed, level):
    label = make(seed=seed)[1][0]
    size = lambda at: carve(label, at).mask.sum()  # noqa: E731
    assert 0 < size(-0.5) <= size(level) <= size(1)
    assert size(0) >= (label > 0).sum()


def test_at_level_0_it_is_the_lesion_and_its_border():
    label = make()[1][0]
    region = carve(label, -1e-9)
    mask = np.zeros(label.shape, bool)
    mask[region.source] = region.mask
    assert (mask == (label > 0)).all()


@given(st.integers(0, 30), st.integers(31, 60), st.floats(-0.5, 1), st.booleans())
def test_each_voxel_is_the_hosts_or_the_donors_and_nothing_leaves_the_anatomy(donor_seed, host_seed, level, regions):
    donor, host = make(seed=donor_seed, regions=regions), make((10, 17, 13), seed=host_seed, regions=regions)
    before = host[1].copy(), host[0].copy()
    image, label, previous, properties = paste(donor, host, level)
    assert previous is None
    assert np.array_equal(host[1], before[0])
    assert np.array_equal(host[0], before[1])
    assert ((label == -1) == (host[1] == -1)).all()
    changed = (image != host[0]).any(0)
    assert np.array_equal(label[0][~changed], host[1][0][~changed])
    assert np.isin(image[:, changed], donor[0]).all()
    keys = list(host[3]["class_locations"])
    assert as_sets(properties["class_locations"]) == as_sets(locations_of(label, keys))


def test_on_thick_slices_a_region_grows_over_fewer_of_them():
    label = np.zeros((15, 41, 41), np.int16)
    label[7, 14:27, 14:27] = 1
    extent = lambda spacing_mm: [np.ptp(i) + 1 for i in np.nonzero(carve(label, 1, spacing_mm).mask)]  # noqa: E731
    assert extent((6, 1, 1)) == [3, 25, 25]
    assert extent((10, 1, 1)) == [1, 27, 27]


def test_the_region_goes_to_the_same_relative_place():
    donor, host = make((20, 20, 20), seed=4), make((40, 40, 40), seed=5, with_lesion=False)
    label = paste(donor, host, 0.0)[1][0]
    centre = lambda mask: np.argwhere(mask).mean(0) + 0.5  # noqa: E731
    assert np.abs(centre(label > 0) / 40 - centre(donor[1][0] > 0) / 20).max() < 0.5 / 40 + 1e-9


def test_the_ignore_label_is_no_lesion():
    label = np.zeros((9, 9, 9), np.int16)
    label[1:3, 1:3, 1:3], label[5:8, 5:8, 5:8] = 1, 3
    region = carve(label, 0.0, ignore_label=3)
    assert set(np.unique(label[region.source][region.mask])) <= {0, 1}


def test_an_id_decides_the_composite_and_no_case_is_pasted_into_itself():
    cases = Cases({f"case_{i}": make(seed=i) for i in range(3)})
    source = CopyPasteSource(cases)
    for case_id in source.identifiers[:30]:
        (image, label, *_), (again, *_) = source.load_case(case_id), source.load_case(case_id)
        assert np.array_equal(image, again)
        assert all((image != c[0]).any() for c in cases.cases.values())
        assert set(np.unique(label)) <= {-1, 0, 1, 2}
    assert len(set(source.identifiers)) == 1000


def test_cases_without_foreground_are_hosts_only():
    cases = Cases({"empty": make(with_lesion=False), "full": make(seed=1)})
    source = CopyPasteSource(cases)
    assert all((source.load_case(c)[1] > 0).any() for c in source.identifiers[:10])
    assert np.array_equal(source.load_case(source.identifiers[0])[1] == -1, cases.cases["empty"][1] == -1)


def test_what_is_annotated_is_no_foreground():
    assert not has_foreground({1: [], (-1, 0, 1): np.ones((3, 4))})


@pytest.mark.parametrize("cases", [{"one": make()}, {"a": make(with_lesion=False), "b": make(with_lesion=False)}])
def test_too_few_cases_are_refused(cases):
    with pytest.raises(UserError, match="Copy-paste needs two training cases, at least one of them with foreground"):
        CopyPasteSource(Cases(cases))
