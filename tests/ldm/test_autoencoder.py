"""The slice autoencoder: sizes, the positional cue, and what a latent reaches."""

import pytest
import torch
from networks import wake

from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.config import AutoencoderConfig


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
