"""Seams and blur of what is put into an image."""

import numpy as np
from editing_cases import ball

from nnunet_sbldm.quality.seams import seam_scores, texture_scores


def test_seams_and_blur_are_noticed_and_plain_noise_has_none():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, 20, 40, 40)).astype(np.float32)
    region = ball(image.shape[1:], (10, 20, 20), 7)
    tissue = np.ones(region.shape, bool)
    assert abs(seam_scores(image, region.astype(float), tissue)["channel_0/seam"]) < 0.1
    assert seam_scores(image + 3 * region, region.astype(float), tissue)["channel_0/seam"] > 0.5
    assert abs(texture_scores(image, region, ~region, "lesion")["channel_0/lesion_fine"]) < 0.1
    assert texture_scores(np.where(region, 0.2, 1) * image, region, ~region, "lesion")["channel_0/lesion_fine"] < -1
