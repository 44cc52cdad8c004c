"""The denoiser: any volume size, parts of a volume, and what it listens to."""

import numpy as np
import pytest
import torch
from networks import NAMES, TARGETS, plain_scaling, wake

from nnunet_sbldm.ldm.config import DenoiserConfig
from nnunet_sbldm.ldm.denoiser import VolumeDenoiser, merge_latents, split_tokens
from nnunet_sbldm.ldm.layout import tokens_shape


@pytest.mark.parametrize("shape", [(45, 14, 11), (24, 32, 28), (5, 6, 7)])
def test_the_denoiser_keeps_any_volume_size(shape):
    config = DenoiserConfig(widths=(8, 8, 16), embedding_dim=16)
    network = VolumeDenoiser((4, *shape), (1.0, 4.0, 4.0), plain_scaling(), TARGETS, config)
    z = torch.randn(2, 4, *shape)
    assert network(z, torch.tensor([3, 900]), torch.randn(2, len(NAMES))).shape == z.shape


@pytest.mark.parametrize("shape", [(24, 32, 32), (9, 30, 17)])
def test_a_part_of_a_volume_is_denoised_where_it_lies(shape, monkeypatch):
    config, condition = DenoiserConfig(widths=(8, 8, 16), embedding_dim=16), torch.zeros(1, len(NAMES))
    network = VolumeDenoiser((4, *shape), (1.0, 4.0, 4.0), plain_scaling(), TARGETS, config)
    free = np.zeros(shape, bool)
    free[5, 11:20, 12:14] = True
    part, z = network.part_around(free, context=2), torch.randn(1, 4, *shape)
    step = np.multiply(network.patch, np.prod(network.strides, axis=0))
    for s, first, last, n, multiple in zip(part, (5, 11, 12), (5, 19, 13), shape, step, strict=True):
        assert s.start <= first - 2
        assert min(last + 3, n) <= s.stop <= n
        assert s.start % multiple == 0
        assert s.stop % multiple == 0 or s.stop == n
    entered = []
    monkeypatch.setattr(network.conv_in, "forward", lambda x: entered.append(x) or x[:, :8])
    assert network(z, torch.tensor([3]), condition).shape == z.shape
    cut = z[(..., *part)]
    assert network(cut, torch.tensor([3]), condition, part=part).shape == cut.shape
    d, h, w = (slice(s.start // p, -(-s.stop // p)) for s, p in zip(part, network.patch, strict=True))
    torch.testing.assert_close(entered[1], entered[0][:, :, d, h, w], rtol=0, atol=0)


def test_the_denoiser_hears_time_condition_and_missing_features():
    config = DenoiserConfig(widths=(8, 8), embedding_dim=16)
    network = wake(VolumeDenoiser((2, 6, 6, 6), (2.0, 2.0, 2.0), plain_scaling(), TARGETS, config))
    z, t, c = torch.randn(1, 2, 6, 6, 6), torch.tensor([10]), torch.linspace(-1, 2, len(NAMES))[None]
    with torch.no_grad():
        conditions = (c, c + 1, c.where(c > 0, torch.nan), torch.full_like(c, torch.nan))
        outputs = [network(z, t, other) for other in conditions] + [network(z, t + 500, c)]
    assert all(o.isfinite().all() for o in outputs)
    assert len({round(float(o.sum()), 3) for o in outputs}) == len(outputs)


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 1, 1), (3, 2, 4)])
def test_tokens_hold_neighbouring_latents_and_give_them_back(patch):
    volume = torch.randn(2, 3, 11, 10, 9)
    tokens = merge_latents(volume, patch)
    assert list(tokens.shape) == [2, 3 * patch[0] * patch[1] * patch[2], *tokens_shape(volume.shape[2:], patch)]
    assert set(tokens[0, :, 0, 0, 0].tolist()) == set(volume[0, :, : patch[0], : patch[1], : patch[2]].flatten().tolist())
    assert torch.equal(split_tokens(tokens, patch)[:, :, :11, :10, :9], volume)
