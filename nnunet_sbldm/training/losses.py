"""Losses of both stages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_sbldm.data.labels import IGNORED

KL_WEIGHT = 1e-3
GRADIENT_WEIGHT = 0.5


def image_loss(image: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Mean absolute error plus that of in-plane differences (edges), inside the anatomy alone.

    Args:
        image: [B, C, H, W] decoded.
        target: [B, C, H, W].
        inside: [B, 1, H, W] bool.
    """
    weight = inside.float()
    error = (image - target) * weight
    loss = error.abs().sum() / (weight.sum() * image.shape[1]).clamp(min=1)
    for axis in (2, 3):
        both = torch.minimum(weight.narrow(axis, 1, weight.shape[axis] - 1), weight.narrow(axis, 0, weight.shape[axis] - 1))
        edges = error.diff(dim=axis).abs() * both
        loss = loss + GRADIENT_WEIGHT * edges.sum() / (both.sum() * image.shape[1]).clamp(min=1)
    return loss


def label_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the batch, ignored voxels left out.

    Args:
        logits: [B, K, H, W].
        classes: [B, H, W] int64, ``IGNORED`` where unknown; where all is, the loss is 0.
    """
    known = classes != IGNORED
    if not known.any():
        return logits.sum() * 0
    cross_entropy = F.cross_entropy(logits, classes, ignore_index=IGNORED)
    probability = logits.softmax(dim=1) * known[:, None]
    one_hot = F.one_hot(classes.where(known, 0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    overlap = (probability * one_hot).sum(dim=(0, 2, 3))
    total = (probability + one_hot).sum(dim=(0, 2, 3))
    present = one_hot.sum(dim=(0, 2, 3)) > 0
    dice = (2 * overlap + 1) / (total + 1)
    return cross_entropy + 1 - dice[present].mean()


def autoencoder_loss(
    image: Tensor, logits: Tensor, kl: Tensor, target: Tensor, classes: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss of the first stage and its parts."""
    inside = (classes != 0)[:, None]
    parts = {"image": image_loss(image, target, inside), "label": label_loss(logits, classes), "kl": kl}
    return parts["image"] + parts["label"] + KL_WEIGHT * kl, parts
