"""Smaller networks for nnU-Net's plans, for demos and studies on CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NETWORK_FEATURES = (8, 16, 32)


def small_network(network: dict[str, Any]) -> dict[str, Any]:
    """The first stages of a U-Net, with few features and one convolution per stage."""
    stages = len(NETWORK_FEATURES)
    return {
        **network,
        "n_stages": stages,
        "features_per_stage": list(NETWORK_FEATURES),
        "kernel_sizes": network["kernel_sizes"][:stages],
        "strides": network["strides"][:stages],
        "n_conv_per_stage": [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }


def half_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """The same U-Net with half the features in every stage."""
    return {**network, "features_per_stage": [features // 2 for features in network["features_per_stage"]]}
