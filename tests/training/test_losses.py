"""The losses of the autoencoder: what is not known does not enter them."""

import torch

from nnunet_sbldm.data.labels import IGNORED
from nnunet_sbldm.training.losses import autoencoder_loss, label_loss


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
