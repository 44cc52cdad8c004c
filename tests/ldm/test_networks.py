"""The networks: shapes, what they look at, and that a batch equals its elements."""

import numpy as np
import pytest
import torch

from nnunet_sbldm.data.conditions import ConditionScaling, Target, feature_names
from nnunet_sbldm.data.labels import IGNORED
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.conditioning import ConditionMaps
from nnunet_sbldm.ldm.config import AutoencoderConfig, DenoiserConfig
from nnunet_sbldm.ldm.denoiser import VolumeDenoiser, merge_latents, split_tokens
from nnunet_sbldm.ldm.layout import latents_per_token, strides_for, tokens_shape
from nnunet_sbldm.ldm.losses import autoencoder_loss, label_loss


def wake(network):
    """Replace the zeros that blocks start with, so that every input matters."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize(("downsampling", "size"), [(4, (20, 12)), (8, (24, 40))])
def test_the_autoencoder_keeps_sizes_for_any_channels_labels_and_factor(downsampling, size):
    network = SliceAutoencoder(3, 5, downsampling, AutoencoderConfig(widths=(8, 16)))
    image, one_hot, position = torch.randn(2, 3, *size), torch.rand(2, 5, *size), torch.rand(2)
    posterior = network.encode(image, one_hot, position)
    assert posterior.mean.shape == (2, network.latent_channels, size[0] // downsampling, size[1] // downsampling)
    decoded, logits = network.decode(posterior.mean, position)
    assert (decoded.shape, logits.shape) == (image.shape, one_hot.shape)


@pytest.mark.parametrize("use_position", [True, False])
def test_the_positional_cue_changes_encoder_and_decoder_unless_switched_off(use_position):
    network = wake(SliceAutoencoder(1, 3, 4, AutoencoderConfig(widths=(8, 8, 8), use_position=use_position)))
    image, one_hot = torch.randn(1, 1, 16, 16), torch.rand(1, 3, 16, 16)
    low, high = torch.tensor([0.1]), torch.tensor([0.8])
    same_code = torch.equal(network.encode(image, one_hot, low).mean, network.encode(image, one_hot, high).mean)
    latent = torch.randn(1, 4, 4, 4)
    same_image = torch.equal(network.decode(latent, low)[0], network.decode(latent, high)[0])
    assert (same_code, same_image) == (not use_position, not use_position)


def test_slices_are_encoded_independently():
    network = wake(SliceAutoencoder(1, 3, 4, AutoencoderConfig(widths=(8, 8, 8))))
    image, one_hot, position = torch.randn(3, 1, 16, 16), torch.rand(3, 3, 16, 16), torch.rand(3)
    together = network.encode(image, one_hot, position).mean
    alone = torch.cat([network.encode(image[i : i + 1], one_hot[i : i + 1], position[i : i + 1]).mean for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_ignored_voxels_and_the_outside_do_not_enter_the_loss():
    torch.manual_seed(0)
    image, logits, target = torch.randn(1, 1, 8, 8), torch.randn(1, 3, 8, 8), torch.randn(1, 1, 8, 8)
    classes = torch.randint(1, 3, (1, 8, 8))
    classes[:, :2], classes[:, 2:4] = 0, IGNORED
    loss, _ = autoencoder_loss(image, logits, torch.zeros(()), target, classes)
    other_image, other_logits = image.clone(), logits.clone()
    other_image[:, :, :2] += 5
    other_logits[:, :, 2:4] += torch.randn(1, 3, 2, 8)
    other, _ = autoencoder_loss(other_image, other_logits, torch.zeros(()), target, classes)
    torch.testing.assert_close(loss, other)


def test_a_batch_in_which_nothing_is_known_teaches_nothing():
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = label_loss(logits, torch.full((2, 8, 8), IGNORED))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_a_perfect_label_map_has_almost_no_loss():
    classes = torch.randint(0, 3, (2, 8, 8))
    logits = 50.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)
    assert label_loss(logits, classes) < 1e-3
    assert label_loss(logits.roll(1, dims=1), classes) > 1


TARGETS = (Target("tumour", (1,)),)
NAMES = feature_names(TARGETS)


def plain_scaling():
    """Network scale = physical units, or their logarithm."""
    return ConditionScaling(tuple(NAMES), (0.0,) * len(NAMES), (1.0,) * len(NAMES))


def scaled(**features):
    """A condition [1, F] in network scale with the given physical features, the rest missing."""
    vector = np.array([features.get(n.replace("tumour/", "").replace("anatomy/", "anatomy_"), np.nan) for n in NAMES])
    return torch.from_numpy(plain_scaling().scaled(vector)).float()[None]


@pytest.mark.parametrize("shape", [(45, 14, 11), (24, 32, 28), (5, 6, 7)])
def test_the_denoiser_keeps_any_volume_size(shape):
    config = DenoiserConfig(widths=(8, 8, 16), embedding_dim=16)
    network = VolumeDenoiser(4, shape, (1.0, 4.0, 4.0), plain_scaling(), TARGETS, config)
    z = torch.randn(2, 4, *shape)
    assert network(z, torch.tensor([3, 900]), torch.randn(2, len(NAMES))).shape == z.shape


def test_a_condition_is_drawn_where_it_lies_and_as_large_as_it_is():
    shape, voxel_mm = (20, 20, 20), (2.0, 2.0, 2.0)
    maps = ConditionMaps(plain_scaling(), TARGETS, shape, voxel_mm)
    anatomy = {f"anatomy_extent_{a}_mm": 32.0 for a in "dhw"}  # of 40 mm, centred
    place = {
        "centroid_d": 0.25,
        "centroid_h": 0.5,
        "centroid_w": 0.75,
        "extent_d_mm": 8.0,
        "extent_h_mm": 12.0,
        "extent_w_mm": 16.0,
    }
    (drawn,) = maps(scaled(presence=1.0, **place, **anatomy))[0]
    inside = (drawn > 0).nonzero().float()
    centre_mm = (inside.mean(dim=0) + 0.5) * 2 - 4
    torch.testing.assert_close(centre_mm, torch.tensor([8.0, 16.0, 24.0]), atol=0.5, rtol=0)
    extent_mm = (inside.amax(dim=0) - inside.amin(dim=0) + 1) * 2
    torch.testing.assert_close(extent_mm, torch.tensor([8.0, 12.0, 16.0]), atol=2.1, rtol=0)
    assert (maps(scaled(presence=0.0, **anatomy)) == -1).all()
    assert (maps(scaled(presence=1.0, centroid_d=0.5, **anatomy)) == 0).all()
    assert (maps(scaled()) == 0).all()


@pytest.mark.parametrize("shape", [(24, 32, 32), (9, 30, 17)])
def test_a_part_of_a_volume_is_denoised_where_it_lies(shape, monkeypatch):
    config, condition = DenoiserConfig(widths=(8, 8, 16), embedding_dim=16), torch.zeros(1, len(NAMES))
    network = VolumeDenoiser(4, shape, (1.0, 4.0, 4.0), plain_scaling(), TARGETS, config)
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
    network = wake(VolumeDenoiser(2, (6, 6, 6), (2.0, 2.0, 2.0), plain_scaling(), TARGETS, config))
    z, t, c = torch.randn(1, 2, 6, 6, 6), torch.tensor([10]), torch.linspace(-1, 2, len(NAMES))[None]
    with torch.no_grad():
        conditions = (c, c + 1, c.where(c > 0, torch.nan), torch.full_like(c, torch.nan))
        outputs = [network(z, t, other) for other in conditions] + [network(z, t + 500, c)]
    assert all(o.isfinite().all() for o in outputs)
    assert len({round(float(o.sum()), 3) for o in outputs}) == len(outputs)


def test_thick_slices_are_not_halved_before_thin_pixels():
    assert strides_for((24, 32, 28), (4.5, 7.2, 7.2), 2) == [(2, 2, 2)]
    assert strides_for((24, 32, 28), (20.0, 4.0, 4.0), 3) == [(1, 2, 2), (1, 2, 2)]
    assert strides_for((45, 14, 11), (1.0, 4.0, 4.0), 2) == [(2, 1, 1)]
    assert strides_for((4, 32, 32), (1.0, 1.0, 1.0), 2) == [(1, 2, 2)]


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 1, 1), (3, 2, 4)])
def test_tokens_hold_neighbouring_latents_and_give_them_back(patch):
    volume = torch.randn(2, 3, 11, 10, 9)
    tokens = merge_latents(volume, patch)
    assert list(tokens.shape) == [2, 3 * patch[0] * patch[1] * patch[2], *tokens_shape(volume.shape[2:], patch)]
    assert set(tokens[0, :, 0, 0, 0].tolist()) == set(volume[0, :, : patch[0], : patch[1], : patch[2]].flatten().tolist())
    assert torch.equal(split_tokens(tokens, patch)[:, :, :11, :10, :9], volume)


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "patch"),
    [
        ((45, 14, 11), (1.0, 4.0, 4.0), (2, 1, 1)),  # thin slices
        ((22, 30, 30), (5.0, 8.0, 8.0), (1, 1, 1)),
        ((155, 30, 30), (1.0, 8.0, 8.0), (8, 1, 1)),  # many thin slices
        ((20, 64, 64), (8.0, 4.0, 4.0), (1, 2, 2)),  # wide slices
    ],
)
def test_large_volumes_share_tokens_along_their_shortest_sides(shape, voxel_mm, patch):
    assert latents_per_token(shape, voxel_mm) == patch


def test_an_error_in_one_corner_of_a_slice_leaves_the_other_corner_as_it_is():
    """Nothing is normalised over a slice, so slices keep their brightness against their neighbours."""
    network = wake(SliceAutoencoder(1, 3, 4, AutoencoderConfig(widths=(8, 8, 8))))
    latent, position = torch.randn(1, 4, 24, 24), torch.tensor([0.5])
    wrong = latent.clone()
    wrong[..., :2, :2] += 3
    image, other = network.decode(latent, position)[0], network.decode(wrong, position)[0]
    assert not torch.equal(image[..., :8, :8], other[..., :8, :8])
    assert torch.equal(image[..., 48:, 48:], other[..., 48:, 48:])


def test_training_latents_get_noise_in_proportion_to_their_spread():
    network = SliceAutoencoder(1, 3, 4, AutoencoderConfig(widths=(8, 8, 8), latent_noise=0.4))
    latent = torch.randn(64, 4, 6, 6) * torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    added = network._with_noise(latent, torch.Generator().manual_seed(0)) - latent
    spread = added.std(dim=(0, 2, 3)) / latent.std(dim=(0, 2, 3))
    torch.testing.assert_close(spread, torch.full((4,), 0.4 / 3**0.5), atol=0.04, rtol=0)
    assert added.std(dim=(1, 2, 3)).min() < 0.2 < 0.5 < added.std(dim=(1, 2, 3)).max()
