"""Random streams: their numbers stay, and none serves two purposes."""

import numpy as np
import pytest

from nnunet_sbldm.common.seeds import (
    EvaluationStream,
    Stream,
    TrainingStream,
    attempt_seed,
    case_seed,
    derived_seed,
    rng_of,
    volume_rng,
)


def test_the_numbers_on_which_finished_cases_and_models_rest_stay():
    assert {s.name: s.value for s in Stream} == {
        "CONDITION": 1, "TEXTURE": 2, "OUTLINE": 3, "HOST": 11, "WINDOW": 12, "DEFORMATION": 13, "EDIT_TEXTURE": 14,
        "EDIT_OUTLINE": 15, "ATTEMPT": 21, "VOLUME": 22,
    }  # fmt: skip
    assert (len("autoencoder"), len("denoiser")) == (TrainingStream.AUTOENCODER, TrainingStream.DENOISER)
    assert (EvaluationStream.COMPARISON, EvaluationStream.ORDER) == (2, 15)
    assert derived_seed(7, 3) == 2530781778362038830
    assert case_seed(5, 2, 1) == derived_seed(5, 2, 1) != case_seed(5, "all", 1)


def test_a_stream_is_numpys_generator_of_seed_and_number():
    assert np.array_equal(rng_of(9, Stream.OUTLINE).random(4), np.random.default_rng([9, 3]).random(4))


@pytest.mark.parametrize(("streams", "is_shared"), [(1, True), (2, False)])
def test_what_two_purposes_shared_is_separated_in_version_2(streams, is_shared):
    attempts = {attempt_seed(7, k, streams) for k in range(1, 30)}
    steps = {derived_seed(7, step) for step in range(1, 30)}
    assert bool(attempts & steps) == is_shared
    volume, texture = volume_rng(7, streams).random(4), rng_of(7, Stream.TEXTURE).random(4)
    assert np.array_equal(volume, texture) == is_shared
    assert attempt_seed(7, 0, streams) == 7
