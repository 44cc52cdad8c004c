"""The measure that notices copying, and that training ends by it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nnunet_sbldm.common.seeds import TrainingStream
from nnunet_sbldm.generator.presets import StageConfig
from nnunet_sbldm.training.loop import Stage, make_accelerator, train_stage
from nnunet_sbldm.training.novelty import Novelty

NUM_CASES = 12


def cases(seed, count=NUM_CASES):
    return torch.randn(count, 3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_new_cases_are_as_new_as_real_ones_and_copies_are_not():
    real = cases(0)
    assert Novelty(real, NUM_CASES).of(cases(1)) == pytest.approx(1, abs=0.05)
    assert Novelty(real, NUM_CASES).of(real + 0.05 * cases(2)) < 0.1


def test_smooth_samples_are_no_copies():
    """Averages of many cases are nearer to every case than cases are to one another, but to none in particular."""
    real = cases(0)
    smooth = torch.stack([real[torch.randperm(NUM_CASES)[:8]].mean(dim=0) for _ in range(6)])
    assert Novelty(real, NUM_CASES).of(smooth) > 0.8


def test_a_copy_of_an_augmented_copy_is_a_copy():
    real = cases(0)
    rows = torch.cat([real, real + cases(3), real + cases(4)])
    assert Novelty(rows, NUM_CASES).of(rows[NUM_CASES + 2 : NUM_CASES + 8].clone()) < 0.1
    assert Novelty(rows, NUM_CASES).of(cases(1)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("novelties", "last_step"), [([1.0, 0.9, 1.0], 30), ([1.0, 0.5], 10), ([0.5, 0.5], 10)])
def test_training_ends_when_samples_become_copies_and_keeps_the_weights_before(tmp_path, novelties, last_step):
    network, found, seen = torch.nn.Linear(1, 1), iter(novelties), {}

    def loss(net, rng):
        return (net(torch.ones(1, 1)) - 5).square().sum(), {}

    def novelty(net):
        seen[10 * (len(seen) + 1)] = {k: v.clone() for k, v in net.state_dict().items()}
        return next(found)

    config = StageConfig(num_steps=30, batch_size=1, learning_rate=0.1, warmup_steps=1, picture_every_steps=10)
    stage = Stage("denoiser", TrainingStream.DENOISER, network, config, loss, lambda net, file: None, novelty)
    train_stage(make_accelerator("cpu"), stage, tmp_path, seed=0)
    kept = load_file(tmp_path / "denoiser.safetensors")
    assert all(torch.equal(kept[k], v) for k, v in seen[last_step].items())
    log = np.genfromtxt(tmp_path / "training_log.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert [n for n in log["novelty"] if not np.isnan(n)] == novelties
