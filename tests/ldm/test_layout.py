"""The layout of the denoiser: what is halved, and how many latents share a token."""

import pytest

from nnunet_sbldm.ldm.layout import latents_per_token, strides_for


def test_thick_slices_are_not_halved_before_thin_pixels():
    assert strides_for((24, 32, 28), (4.5, 7.2, 7.2), 2) == [(2, 2, 2)]
    assert strides_for((24, 32, 28), (20.0, 4.0, 4.0), 3) == [(1, 2, 2), (1, 2, 2)]
    assert strides_for((45, 14, 11), (1.0, 4.0, 4.0), 2) == [(2, 1, 1)]
    assert strides_for((4, 32, 32), (1.0, 1.0, 1.0), 2) == [(1, 2, 2)]


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
