"""The gate of edits."""

import numpy as np
import pytest
import torch
from editing_cases import SAMPLER

from nnunet_sbldm.editing.choices import EditChoice
from nnunet_sbldm.editing.edit import edit
from nnunet_sbldm.editing.hosts import HostTransform
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.generator import decoding
from nnunet_sbldm.generator.requests import Request


@pytest.mark.parametrize(("num_voxels", "is_cut"), [(1, False), (10_000, True)])
def test_specks_in_the_fading_border_are_no_lesion_that_it_cuts(generator, phantom_dataset, monkeypatch, num_voxels, is_cut):
    task = EditPlanner(generator, phantom_dataset).first_fitting(
        Request("e0", 0, {}), [EditChoice("remove", "phantom_001", HostTransform())])
    border = np.argwhere((task.region.weight > 0) & (task.region.weight < 1))[:num_voxels]
    real_decode, (tumour,) = decoding.decode_volume, generator.plan.encoding.encode(np.ones((1, 1, 1), np.int16)).ravel()

    def decode(autoencoder, latent, part, precision):
        image, logits = (t.clone() for t in real_decode(autoencoder, latent, part, precision))
        logits[:] = torch.nn.functional.one_hot(torch.tensor(1), len(logits))[:, None, None, None] * 1e4
        d, h, w = (border - np.multiply([s.start for s in part], (1, *2 * [autoencoder.downsampling]))).T
        logits[tumour, d, h, w] = 1e5
        return image, logits

    monkeypatch.setattr(decoding, "decode_volume", decode)
    (drawn,) = edit(generator, [task], SAMPLER)
    assert drawn.cut_share == float(is_cut)
