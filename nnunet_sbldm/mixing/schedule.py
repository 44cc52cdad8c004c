"""How the share of synthetic draws goes over the epochs of a training."""

from __future__ import annotations

SCHEDULES = ("constant", "ramp_down", "pretrain")

RAMP_START, RAMP_END = 0.25, 0.75
"""Between these fractions of the epochs ``ramp_down`` falls from the ratio to real cases alone."""


def ratio_at(schedule: str, ratio: float, epoch: int, num_epochs: int) -> float:
    """Share of synthetic cases among the draws of an epoch.

    * ``constant``: the ratio, always.
    * ``ramp_down``: the ratio up to ``RAMP_START`` of the epochs, then linearly down to 0 at ``RAMP_END``, then real cases
      alone; over the whole training half the ratio.
    * ``pretrain``: synthetic cases alone for the first ``ratio`` of the epochs, then real cases alone; over the whole training
      the ratio. An epoch that the change falls into gets the share that belongs to it.

    Args:
        schedule: one of ``SCHEDULES``.
        ratio: the ratio of the settings, 0 to 1.
        epoch: epoch, from 0.
        num_epochs: epochs of the whole training.
    """
    if schedule == "constant":
        return ratio
    if schedule == "ramp_down":
        progress = (epoch + 0.5) / num_epochs  # the middle of the epoch stands for it
        return ratio * _clip((RAMP_END - progress) / (RAMP_END - RAMP_START))
    assert schedule == "pretrain", schedule  # MixingSettings refuses others
    return _clip(ratio * num_epochs - epoch)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
