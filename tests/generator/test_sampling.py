"""Synthesis: a case belongs to its seed, has exact zeros outside, and says where it comes from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.outlines import RealComponents, components_of, intensity_range, without_strays
from nnunet_sbldm.generator.sampling import Request, check_asked, condition_of, draw
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import UserError

SAMPLER = SamplerConfig(num_steps=4)


def make(generator, seeds, sampler=SAMPLER):
    return {d.request.seed: d.case(generator) for d in draw(generator, [Request(f"s{s}", s, {}) for s in seeds], sampler)}


def test_equal_seeds_give_equal_cases_whatever_the_order_and_company(generator):
    together, apart = make(generator, [1, 2, 3, 4, 5]), make(generator, [5, 2])
    for seed in (2, 5):
        np.testing.assert_array_equal(together[seed].image, apart[seed].image)
        np.testing.assert_array_equal(together[seed].label, apart[seed].label)
    assert not np.array_equal(together[1].image.mean(), together[2].image.mean())


def test_a_short_batch_gives_the_same_case_bit_for_bit_and_another_batch_size_nearly(generator):
    by_four = replace(SAMPLER, batch_size=4)
    full, short, single = make(generator, [1, 2, 3, 4], by_four), make(generator, [3], by_four), make(generator, [3])
    np.testing.assert_array_equal(full[3].image, short[3].image)
    spread = np.ptp(single[3].image)
    assert single[3].image.shape == full[3].image.shape
    assert np.abs(single[3].image - full[3].image).mean() < 1e-3 * spread


def test_bf16_is_close_to_fp32_and_does_not_round_images_to_few_grey_values(generator):
    request, plan, once = Request("s", 3, {}), generator.plan, replace(SAMPLER, max_corrections=0)
    still = replace(generator, plan=replace(plan, texture=replace(plan.texture, std=np.zeros_like(plan.texture.std).tolist())))
    (exact,), (rounded,) = (list(draw(still, [request], replace(once, precision=p))) for p in ("fp32", "bf16"))
    inside = exact.anatomy & rounded.anatomy
    error = np.abs(exact.image - rounded.image)[:, inside]
    assert 0 < error.mean() < 0.05 * exact.image[:, inside].std()
    assert len(np.unique(rounded.image[0, inside])) > 0.5 * inside.sum()


def test_cases_have_every_channel_real_labels_and_exact_zeros_outside_the_head(generator):
    drawn = next(draw(generator, [Request("s", 0, {})], SAMPLER))
    case, record = drawn.case(generator), drawn.record(generator, SAMPLER)
    assert case.image.shape[0] == 2
    assert set(np.unique(case.label)) <= {0, 1}
    head = (case.image != 0).all(axis=0)
    assert ((case.image != 0).any(axis=0) == head).all()
    assert (case.label[~head] == 0).all()
    assert case.geometry.spacing_mm == generator.plan.template.spacing_mm
    assert record.generator_hash == generator.hash
    assert record.condition_asked["tumour/presence"] in (0, 1)


def test_asked_features_reach_the_denoiser_and_unusual_ones_are_warned_of(generator):
    names = list(generator.plan.condition_scaling.names)
    asked = {"tumour/volume_ml": 9.5}
    condition = dict(zip(names, condition_of(generator, Request("s", 0, asked)), strict=True))
    assert condition["tumour/volume_ml"] == pytest.approx(9.5)
    assert condition["tumour/presence"] == 1
    assert check_asked(generator, {"tumour/volume_ml": 1e4})[0].startswith(
        "tumour/volume_ml = 10000 is outside the training range"
    )
    with pytest.raises(UserError, match="no condition tumor/volume_ml"):
        check_asked(generator, {"tumor/volume_ml": 3})


def test_a_training_case_is_its_own_nearest_case_at_distance_zero(generator, phantom_dataset):
    nearest = NearestRealCase(generator, phantom_dataset)
    case_id = generator.seen[2].case_id
    assert nearest.of(nearest.latents[case_id]) == {"case_id": case_id, "latent_distance": 0.0}
    distances = nearest.among_real
    assert len(distances) == len(generator.seen)
    others = [z for c, z in nearest.latents.items() if c != case_id]
    expected = min(float((z - nearest.latents[case_id]).square().mean().sqrt()) for z in others)
    assert distances[2] == pytest.approx(expected, rel=1e-4)


def test_specks_become_background_and_the_rest_stays():
    label = np.zeros((6, 8, 8), np.int16)
    label[1:3, 1:3, 1:3], label[5, 7, 7], label[4, 6, 1] = 1, 1, 2
    real = {"1": RealComponents(5), "2": RealComponents(1), "3": RealComponents(1)}
    cleaned = without_strays(label, real, np.zeros((1, 6, 8, 8)))
    assert (cleaned[5, 7, 7], cleaned[4, 6, 1], (cleaned == 1).sum()) == (0, 2, 8)


def test_components_in_tissue_that_no_real_one_has_become_background_unless_they_are_all_there_is():
    label, image = np.zeros((6, 8, 8), np.int16), np.full((2, 6, 8, 8), 0.4)
    label[1:3, 1:4, 1:3], label[5, 6:, 6:], label[5, 0, 0], label[0, 7, :2] = 1, 1, 1, 2
    image[1, 5, 6:, 6:] = -1.0  # air, in one channel
    image[1, 0, 7] = -1.0
    real = {v: RealComponents(1, ((0.0, 0.8), (0.1, 0.9))) for v in ("1", "2")}
    cleaned = without_strays(label, real, image)
    assert (cleaned[5, 6, 6], cleaned[5, 0, 0], (cleaned == 1).sum(), (cleaned == 2).sum()) == (0, 1, 13, 2)
    image[1, 1:3] = -1.0  # the largest, too
    assert np.argwhere(without_strays(label, real, image) == 1).tolist() == [[5, 0, 0]]
    real["1"] = replace(real["1"], min_voxels=2)  # a speck of the right brightness does not speak against the others
    assert (without_strays(label, real, image) == 1).sum() == 16
    assert np.array_equal(without_strays(label, {v: RealComponents(1) for v in real}, image), label)


def test_the_intensities_of_real_components_are_measured_and_widened():
    mask, image = np.zeros((4, 8, 8), bool), np.zeros((1, 4, 8, 8))
    mask[0, :2, :2] = mask[3, 5:, 5:] = True
    image[0, 0], image[0, 3] = 0.2, 0.6
    numbers, voxels, means = components_of(mask, image)
    assert (numbers.max(), voxels.tolist()) == (2, [4, 9])
    np.testing.assert_allclose(means, [[0.2], [0.6]])
    assert intensity_range(means)[0] == pytest.approx((0.1, 0.7))
    assert intensity_range(means[:1])[0] == pytest.approx((0.1, 0.3))


def test_a_trained_generator_knows_them(generator, phantom_dataset):
    ((low, high),) = generator.plan.component_intensity["1"][:1]
    means = []
    for case in generator.seen:
        image, label = load_preprocessed(phantom_dataset, case.case_id)
        means.append(float(generator.plan.intensity.scaled(image)[0][label == 1].mean()))
    assert low < min(means)
    assert max(means) < high
    assert low > -1


def test_sbldm_sample_writes_pairs_records_and_a_montage(generator, tmp_path, capsys):
    out = tmp_path / "samples"
    sample_entry(
        [
            "-m",
            str(generator.folder),
            "-o",
            str(out),
            "-n",
            "2",
            "-steps",
            "3",
            "-device",
            "cpu",
            "-label",
            "tumour",
            "-volume_ml",
            "12",
            "-centroid",
            "0.3",
            "0.5",
            "0.6",
            "--no_gate",
        ]
    )
    written = {p.name for p in out.iterdir()}
    assert written == {
        "montage.png",
        "samples.json",
        *(f"sbldm_0000{i}{e}" for i in range(2) for e in ("_0000.nii.gz", "_0001.nii.gz", ".nii.gz", ".json")),
    }
    asked = json.loads((out / "sbldm_00001.json").read_text())["condition_asked"]
    assert asked["tumour/volume_ml"] == pytest.approx(12)
    assert [asked[f"tumour/centroid_{a}"] for a in "dhw"] == pytest.approx([0.6, 0.5, 0.3])
