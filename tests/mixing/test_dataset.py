import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from hypothesis import given
from hypothesis import strategies as st
from worker_tasks import Cases, KeyLoader

from nnunet_sbldm.mixing.dataset import SHARE_STEPS, SHARE_TOLERANCE, MixedDataset, multiplicities
from nnunet_sbldm.mixing.schedule import SCHEDULES, ratio_at
from nnunet_sbldm.types import UserError


def mixed(num_real, num_synthetic, ratio):
    synthetic = Cases("synthetic", [f"case_{i}x" for i in range(num_synthetic)])
    return MixedDataset(Cases("real", [f"case_{i}" for i in range(num_real)]), synthetic, ratio)


def loader_of(dataset, batch_size=2):
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    return KeyLoader(dataset, batch_size, (8, 8, 8), (8, 8, 8), labels)


def drawn_share(loader, num_draws):
    batch_size = getattr(loader, "generator", loader).batch_size
    drawn = np.concatenate([next(loader)["keys"] for _ in range(num_draws // batch_size)])
    return np.char.endswith(drawn, "x").mean()


# --- the share of synthetic ids ------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, SHARE_STEPS))
def test_the_share_is_met_whatever_the_numbers_of_cases(num_real, num_synthetic, steps):
    share = steps / SHARE_STEPS
    a, b = multiplicities(num_real, num_synthetic, share)
    assert min(a, b) in range(26)
    assert abs(b * num_synthetic / (a * num_real + b * num_synthetic) - share) <= SHARE_TOLERANCE


@pytest.mark.parametrize(("num_synthetic", "ratio"), [(3, 0), (0, 0.5), (0, 1)])
def test_at_ratio_0_or_without_synthetic_cases_the_ids_are_the_real_ones(num_synthetic, ratio):
    identifiers = mixed(7, num_synthetic, ratio).identifiers
    assert list(identifiers) == np.asarray(identifiers).tolist() == [f"case_{i}" for i in range(7)]


def test_ratio_1_gives_synthetic_identifiers_alone():
    identifiers = mixed(7, 3, 1).identifiers
    assert list(identifiers) == np.asarray(identifiers).tolist() == ["case_0x", "case_1x", "case_2x"]


def test_every_real_case_stands_equally_often_and_so_does_every_synthetic_one():
    ids, counts = np.unique(np.asarray(mixed(13, 5, 0.3).identifiers), return_counts=True)
    assert len(set(counts[np.char.endswith(ids, "x")])) == 1
    assert len(set(counts[~np.char.endswith(ids, "x")])) == 1


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.33, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_nnunets_loader_draws_the_share_of_every_epoch(schedule, ratio, batch_size):
    dataset = mixed(16, 40, ratio)
    loader = loader_of(dataset, batch_size)
    for epoch in range(8):
        asked = ratio_at(schedule, ratio, epoch, 8)
        dataset.set_ratio(asked)
        assert drawn_share(loader, 2000) == pytest.approx(asked, abs=0.02)  # at any seed


def test_slots_of_a_batch_are_drawn_one_by_one():
    loader = loader_of(mixed(16, 40, 0.5))
    np.random.seed(0)
    kinds = {tuple(np.char.endswith(next(loader)["keys"], "x")) for _ in range(50)}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


def test_each_synthetic_case_and_each_real_one_is_drawn_equally_often():
    loader = loader_of(mixed(4, 8, 0.4), 10)
    np.random.seed(0)
    drawn = np.concatenate([next(loader)["keys"] for _ in range(1000)])
    keys, counts = np.unique(drawn, return_counts=True)
    expected = np.where(np.char.endswith(keys, "x"), 4000 / 8, 6000 / 4)
    assert ((counts - expected) ** 2 / expected).sum() < 28  # chi square of 10 degrees of freedom: beyond once in 500


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_background_workers_follow_a_change_of_the_ratio(start_method, monkeypatch):
    context = multiprocessing.get_context(start_method)
    for name in ("Process", "Queue", "Event"):
        monkeypatch.setattr(f"batchgenerators.dataloading.nondet_multi_threaded_augmenter.{name}", getattr(context, name))
    dataset = mixed(16, 40, 0.0)
    augmenter = NonDetMultiThreadedAugmenter(loader_of(dataset), None, 2, num_cached=2, wait_time=0.002)
    try:
        assert drawn_share(augmenter, 40) == 0
        dataset.set_ratio(1.0)
        batches = [next(augmenter)["keys"] for _ in range(40)]  # a slow worker may hand out what it drew before at any time
        earlier = sum(not np.char.endswith(keys, "x").all() for keys in batches)
        assert earlier <= 2 * 2 + 2 + 2  # two queues, what each worker holds, and what it draws
    finally:
        augmenter._finish()


def test_a_seed_gives_the_same_draws_whatever_the_order_of_the_synthetic_cases():
    drawn = []
    for order in (1, -1):
        synthetic = Cases("synthetic", [f"case_{i}x" for i in range(40)][::order])
        loader = loader_of(MixedDataset(Cases("real", ["a", "b"]), synthetic, 0.5))
        np.random.seed(3)
        drawn.append([next(loader)["keys"].tolist() for _ in range(50)])
    assert drawn[0] == drawn[1]


def test_at_ratio_0_the_draws_are_those_of_nnunet():
    drawn = []
    for dataset in (Cases("real", [f"case_{i}" for i in range(7)]), mixed(7, 3, 0)):
        np.random.seed(3)
        loader = loader_of(dataset)
        drawn.append([next(loader)["keys"].tolist() for _ in range(50)])
    assert drawn[0] == drawn[1]


# --- cases that come and go ----------------------------------------------------------------------------------------


def test_cases_that_arrive_or_leave_while_training_are_drawn_or_not():
    synthetic = Cases("synthetic", [])
    dataset = MixedDataset(Cases("real", ["a", "b"]), synthetic, 0.5)
    loader = loader_of(dataset)
    np.random.seed(0)
    assert drawn_share(loader, 100) == 0
    synthetic.identifiers = ["1x", "2x"]
    assert drawn_share(loader, 2000) == pytest.approx(0.5, abs=0.02)
    synthetic.identifiers = ["3x"]
    assert {str(k) for _ in range(100) for k in next(loader)["keys"]} == set(dataset.identifiers) == {"a", "b", "3x"}
    synthetic.identifiers = []
    assert drawn_share(loader, 100) == 0


def test_a_case_is_loaded_from_where_it_belongs():
    dataset = mixed(12, 12, 0.5)
    assert dataset.load_case("case_1") == ("real", "case_1")
    assert dataset.load_case(np.str_("case_1x")) == ("synthetic", "case_1x")


def test_in_place_of_a_case_that_vanished_another_synthetic_one_is_loaded():
    dataset = mixed(3, 3, 0.5)
    dataset._synthetic.gone = {"case_0x", "case_1x"}
    dataset._synthetic.identifiers = ["case_1x", "case_2x"]
    assert {dataset.load_case("case_0x")[0] for _ in range(20)} == {"synthetic"}


@pytest.mark.parametrize("left", [[], ["case_1x"]])
def test_when_no_synthetic_case_is_left_a_real_one_is_loaded(left):
    dataset = mixed(3, 3, 0.5)
    dataset._synthetic.gone, dataset._synthetic.identifiers = {"case_0x", "case_1x"}, left
    assert dataset.load_case("case_0x")[0] == "real"


def test_a_synthetic_case_with_the_id_of_a_real_one_is_refused():
    with pytest.raises(UserError, match=r"1 synthetic case\(s\) have the id of a real one \(case_1\)"):
        MixedDataset(Cases("real", ["case_1", "case_10"]), Cases("synthetic", ["case_1", "case_100"]), 0.5)


def test_it_survives_pickling():
    dataset = pickle.loads(pickle.dumps(mixed(4, 4, 0.5)))
    assert dataset.load_case("case_1x") == ("synthetic", "case_1x")
    assert sorted(dataset.identifiers) == sorted(np.asarray(dataset.identifiers))
