"""Conditions drawn as maps: where a region lies, and how large it is."""

import torch
from networks import TARGETS, plain_scaling, scaled

from nnunet_sbldm.ldm.conditioning import ConditionMaps


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
