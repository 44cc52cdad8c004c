"""The plan's normalisation: one way to the networks' scale, and back."""

import numpy as np
import torch

from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.intensities import FILL
from nnunet_sbldm.types import OUTSIDE


def test_a_preprocessed_case_and_one_that_lies_on_the_grid_reach_the_network_alike(generator, phantom_dataset):
    plan = generator.plan
    image, label = load_preprocessed(phantom_dataset, phantom_dataset.real_case_ids[0])
    scaled, classes = plan.to_network(image, label)
    assert scaled.shape == (len(plan.channel_names), *plan.grid.shape)
    assert scaled.dtype == np.float32
    assert (scaled[:, classes == 0] == FILL).all()
    inside = classes != 0
    assert inside.sum() == (label != OUTSIDE).sum()
    np.testing.assert_allclose(plan.intensity.normalised(scaled)[:, inside], image[:, label != OUTSIDE], rtol=1e-5, atol=1e-5)
    for again, once in zip(plan.scaled(plan.intensity.normalised(scaled), plan.encoding.decode(classes)), (scaled, classes),
                           strict=True):
        np.testing.assert_allclose(again, once, atol=1e-6)


def test_standardised_latents_are_those_that_the_model_encodes_and_decodes(generator, phantom_dataset):
    plan = generator.plan
    image, classes = plan.to_network(*load_preprocessed(phantom_dataset, phantom_dataset.real_case_ids[0]))
    latent = generator.encode(image, classes)
    assert latent.shape == (len(plan.latent_mean), *plan.grid.latent_shape)
    raw = plan.unstandardised(latent)
    torch.testing.assert_close(plan.standardised(raw), latent)
    torch.testing.assert_close(plan.standardised(raw[None])[0], latent)  # a batch, too
    decoded, logits = generator.decode(latent)
    assert decoded.shape == image.shape
    assert logits.shape == (plan.encoding.num_classes, *plan.grid.shape)
    mean, std = torch.tensor(plan.latent_mean), torch.tensor(plan.latent_std)
    torch.testing.assert_close(raw[:, 0, 0, 0], latent[:, 0, 0, 0] * std + mean)


def test_conditions_reach_the_denoiser_in_its_scale_with_missing_ones_missing(generator):
    plan = generator.plan
    condition = plan.condition_model.table[0].copy()
    condition[1] = np.nan
    (row,) = plan.network_conditions([condition])
    assert row.dtype == torch.float32
    np.testing.assert_allclose(row.numpy(), plan.condition_scaling.scaled(condition), rtol=1e-6)
    assert row[1].isnan()
