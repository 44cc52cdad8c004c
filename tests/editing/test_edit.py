"""Editing: what is not in the region stays bit for bit, hosts obey the fold rule, and an edit can be made again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_sbldm.cli.evaluate import evaluate_entry
from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_preprocessed, read_case
from nnunet_sbldm.data.conditions import as_dict
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import guard_split
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.data.phantom import PhantomConfig, make_phantom_case
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.editing import edit as editing
from nnunet_sbldm.editing import planner as edit_tasks
from nnunet_sbldm.editing.blending import BlendMap, blend, same_spectrum
from nnunet_sbldm.editing.choices import EditChoice, EditSettings, edit_choices
from nnunet_sbldm.editing.edit import edit
from nnunet_sbldm.editing.gate import judge_edit
from nnunet_sbldm.editing.hosts import HostTransform, allowed_hosts, deformed, host_of, load_host, mirrored
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.editing.real_lesions import RealLesions, lesion_distance, lesion_patch
from nnunet_sbldm.editing.regions import Region, ellipsoids, region_around, tissue_like
from nnunet_sbldm.editing.window import Window
from nnunet_sbldm.evaluation.edit_measures import lesion_structure, unchanged_outside
from nnunet_sbldm.expansion.places import pool_folder
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.expansion.regenerate import regenerate
from nnunet_sbldm.generator import decoding
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.generator.requests import ExpansionRequest, Request
from nnunet_sbldm.ldm.config import EDIT_SAMPLER
from nnunet_sbldm.quality.gate import Reason, Verdict
from nnunet_sbldm.quality.seams import seam_scores, texture_scores
from nnunet_sbldm.types import OUTSIDE, UserError

SAMPLER = replace(EDIT_SAMPLER, num_steps=3, max_corrections=0)
SPACING_MM = (2.0, 2.0, 2.0)


# --- tissue ----------------------------------------------------------------------------------------------------------


def test_tissue_is_what_is_mostly_as_bright_as_around_real_lesions():
    rng = np.random.default_rng(0)
    inside = np.ones((10, 30, 30), bool)
    inside[:, :, :4] = False
    image = np.where(inside, rng.normal(0, 1, (2, 10, 30, 30)), -9).astype(np.float32)
    image[1, 2:8, 10:20, 20:28] = -5.0  # an eye, say, in one channel
    found = tissue_like(image, inside, ((-1.5, 1.5), (-1.5, 1.5)), SPACING_MM)
    assert not found[3:7, 12:18, 22:26].any()
    assert found[:, :8, 4:].mean() > 0.99  # noise makes no holes, and neither does the edge of the anatomy
    assert not found[~inside].any()


def test_new_lesions_lie_in_tissue_like_that_around_real_ones(generator, phantom_dataset):
    cases = edited_cases(generator, phantom_dataset, EditSettings((), ("add",)))
    ((low, high), *_), request = cases.real.tissue, Request("e0", 0, {})
    image, label = load_preprocessed(phantom_dataset, cases.settings.hosts[0])
    inside = image[0][label != OUTSIDE]
    assert inside.min() < low < high < inside.max()
    (drawn,) = cases.draw([request], SAMPLER)
    choice, host = drawn.task.choice, drawn.task.prepared
    assert choice.tissue == cases.real.tissue
    assert EditChoice.from_record(json.loads(json.dumps(drawn.record(generator, SAMPLER).edit))) == choice
    laid = ellipsoids(drawn.task.condition, generator.plan.targets, host.label, generator.plan.grid.spacing_mm)
    alike = tissue_like(
        generator.plan.intensity.normalised(host.image), host.label != OUTSIDE, choice.tissue, generator.plan.grid.spacing_mm)
    assert alike[laid].mean() > 0.96
    nowhere = replace(choice, tissue=tuple((99.0, 100.0) for _ in choice.tissue))
    with pytest.raises(UserError, match="has no room"):
        cases.planner.first_fitting(request, [nowhere])
    replaced = replace(nowhere, kind="replace")  # where the old lesion was is always room
    assert cases.planner._room(cases.planner.prepared(request, replaced), replaced).sum() > 0


# --- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host_shape", "centre"),
                         [((6, 9, 8), (3, 4, 4)), ((30, 9, 40), (2, 4, 39)), ((30, 30, 30), (15, 9, 20))])
def test_a_window_gives_back_what_it_took_and_holds_its_centre(host_shape, centre):
    array = np.arange(np.prod(host_shape)).reshape(host_shape) + 1
    window = Window.around((8, 12, 16), host_shape, centre)
    taken = window.take(array, 0)
    assert taken.shape == (8, 12, 16)
    assert array[centre] in taken
    back = window.put(taken, host_shape, 0)
    assert (back[back > 0] == array[back > 0]).all()
    assert (back > 0).sum() == np.prod(np.minimum(host_shape, (8, 12, 16)))


def ball(shape, centre, radius):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return ((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) < radius**2


def test_a_region_is_wholly_new_in_its_core_fades_and_spares_the_outside_and_what_is_kept():
    label = np.where(ball((30, 40, 40), (15, 20, 20), 16), 0, OUTSIDE).astype(np.int16)
    core, kept = ball(label.shape, (15, 20, 12), 3), ball(label.shape, (15, 20, 24), 3)
    region = region_around(core, label, SPACING_MM, kept)
    assert (region.weight[core] == 1).all()
    assert not region.mask[kept].any()
    assert not region.mask[label == OUTSIDE].any()
    steps = np.abs(np.diff(region.weight, axis=2))[(label[..., 1:] != OUTSIDE) & (label[..., :-1] != OUTSIDE)]
    assert steps.max() < 0.6
    assert {0.0, 1.0} < set(np.unique(region.weight).tolist())


def test_an_ellipsoid_lies_where_the_measured_features_say(generator):
    plan = generator.plan
    row = np.array([np.nan if v is None else v for v in plan.condition_table[0]])
    label = np.zeros(plan.grid.shape, np.int16)
    lesion = ellipsoids(row, plan.targets, label, plan.grid.spacing_mm)
    asked = as_dict(plan.condition_scaling.names, row)
    centre = (np.argwhere(lesion).mean(axis=0) + 0.5) / label.shape
    assert centre == pytest.approx([asked[f"tumour/centroid_{a}"] for a in "dhw"], abs=0.05)


# --- texture and seams -----------------------------------------------------------------------------------------------


def test_unchanged_tissue_is_given_back_although_the_decoder_blurs_it():
    rng = np.random.default_rng(0)
    host, blurred = rng.normal(size=(2, 8, 20, 20)).astype(np.float32), np.zeros((2, 8, 20, 20), np.float32)
    weight = np.clip(ball(host.shape[1:], (4, 10, 10), 6) * rng.uniform(0.1, 1, host.shape[1:]), 0, 1)
    everywhere = np.ones(weight.shape, bool)
    same = blend(host, blurred, blurred, BlendMap(weight, np.zeros(weight.shape), everywhere), rng)
    np.testing.assert_allclose(same, host, atol=1e-6)
    brighter = blend(host, blurred, blurred + 3, BlendMap(weight, weight, everywhere), rng)
    np.testing.assert_array_equal(brighter[:, weight == 0], host[:, weight == 0])
    assert (brighter - host)[:, weight > 0.9].mean() == pytest.approx(3, abs=0.5)
    assert brighter[:, weight > 0.9].std() == pytest.approx(1, abs=0.25)  # as rough as the host


def test_a_random_texture_has_the_spread_and_smoothness_of_its_source():
    from scipy import ndimage

    rng = np.random.default_rng(1)
    residual = ndimage.gaussian_filter(rng.normal(size=(2, 16, 32, 32)), (0, 0, 1, 1)).astype(np.float32)
    texture = same_spectrum(residual, np.ones(residual.shape[1:], bool), rng)
    assert texture.std() == pytest.approx(residual.std(), rel=0.1)
    neighbours = lambda x: np.corrcoef(x[..., 1:].ravel(), x[..., :-1].ravel())[0, 1]  # noqa: E731
    assert neighbours(texture) == pytest.approx(neighbours(residual), abs=0.1)
    assert abs(np.corrcoef(texture.ravel(), residual.ravel())[0, 1]) < 0.1


def test_seams_and_blur_are_noticed_and_plain_noise_has_none():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, 20, 40, 40)).astype(np.float32)
    region = ball(image.shape[1:], (10, 20, 20), 7)
    tissue = np.ones(region.shape, bool)
    assert abs(seam_scores(image, region.astype(float), tissue)["channel_0/seam"]) < 0.1
    assert seam_scores(image + 3 * region, region.astype(float), tissue)["channel_0/seam"] > 0.5
    assert abs(texture_scores(image, region, ~region, "lesion")["channel_0/lesion_fine"]) < 0.1
    assert texture_scores(np.where(region, 0.2, 1) * image, region, ~region, "lesion")["channel_0/lesion_fine"] < -1


def test_a_copied_lesion_is_found_under_flips_and_shifts_and_another_is_not():
    rng = np.random.default_rng(3)
    label = ball((24, 40, 40), (12, 18, 20), 6).astype(np.int16)
    label |= ball(label.shape, (14, 23, 22), 4)
    image = (rng.normal(size=(2, *label.shape)) + 4 * label).astype(np.float32)
    patch = lesion_patch(image, label)
    moved = lesion_patch(np.roll(image[..., ::-1], (1, 2), (1, 2)), np.roll(label[..., ::-1], (1, 2), (0, 1)))
    other_label = ball(label.shape, (12, 20, 20), 7).astype(np.int16)
    other = lesion_patch((rng.normal(size=image.shape) + 4 * other_label).astype(np.float32), other_label)
    assert lesion_distance(patch, moved) < 1e-5
    assert lesion_distance(patch, other) > 0.05
    real = RealLesions(0.0, {}, {"a": patch, "b": other}, lesion_distance(patch, other))
    (reason,) = judge_edit(real, {}, 0.0, real.nearest(moved)).reasons
    assert reason.rule == "copy"
    assert reason.text.startswith("copy of the lesion of a: distance")
    (cut,) = judge_edit(real, {}, 0.2, {}).reasons
    assert cut == Reason("cut", "cut: 20% of the lesion lies in the border of the region")


# --- hosts -----------------------------------------------------------------------------------------------------------


def test_a_host_is_nnunets_own_array_and_pasting_nothing_changes_nothing(phantom_dataset):
    from nnunet_sbldm.data.cases import load_preprocessed

    host = load_host(phantom_dataset, "phantom_001", HostTransform(), 2)
    image, label = load_preprocessed(phantom_dataset, "phantom_001")
    np.testing.assert_array_equal(host.image, image)
    np.testing.assert_array_equal(host.label, label)
    inside = host.native_label != OUTSIDE
    np.testing.assert_allclose(host.native_image[:, inside], image[:, inside], atol=1e-4)
    same = host.paste("x", host.native_image + 1, host.native_label, np.zeros(inside.shape, bool))
    np.testing.assert_array_equal(same.image, read_case(phantom_dataset, "phantom_001").image)
    other = host.paste("x", host.native_image - 99, host.native_label * 0, np.ones(inside.shape, bool))
    assert ((other.image != 0) == (host.case.image != 0)).all()  # exact zeros mark the outside


def test_mirroring_twice_is_nothing_and_deforming_keeps_the_outside_zero(phantom_dataset):
    case = read_case(phantom_dataset, "phantom_001")
    np.testing.assert_array_equal(mirrored(mirrored(case, 2), 2).image, case.image)
    bent = deformed(case, 6.0, seed=1)
    np.testing.assert_array_equal(bent.image, deformed(case, 6.0, seed=1).image)
    assert (bent.image == 0).all(axis=0).sum() == pytest.approx((case.image == 0).all(axis=0).sum(), rel=0.1)
    assert (bent.label[(bent.image == 0).all(axis=0)] == 0).all()
    assert (bent.image != case.image).mean() > 0.1
    assert (bent.label > 0).sum() == pytest.approx((case.label > 0).sum(), rel=0.3)
    assert bent.image.max() <= case.image.max()


def test_hosts_are_training_cases_of_the_fold_and_no_copies_or_patients_of_its_validation_cases(phantom, phantom_dataset):
    train, val = fold_cases(phantom_dataset, 0)
    assert allowed_hosts(phantom_dataset, 0) == train
    with pytest.raises(UserError, match=rf"{val[0]} cannot be a host in fold 0 of Dataset900_Phantom"):
        allowed_hosts(phantom_dataset, 0, [val[0]])
    patients = {c: c for c in (*train, *val)} | {train[0]: val[0]}
    write_json(phantom_dataset.preprocessed / "sbldm" / "groups.json", patients)
    assert train[0] not in allowed_hosts(phantom_dataset, 0)
    for c in range(2):
        shutil.copy(phantom_dataset.case_files[val[1]]["images"][c], phantom_dataset.case_files[train[1]]["images"][c])
    assert allowed_hosts(phantom_dataset, 0) == train[2:]
    with pytest.raises(UserError, match="No case of Dataset900_Phantom may be a host in fold 0"):
        allowed_hosts(phantom_dataset, 0, [train[1]])
    shutil.copy(phantom_dataset.case_files[val[1]]["label"], phantom_dataset.case_files[train[2]]["label"])
    assert allowed_hosts(phantom_dataset, 0) == train[3:]  # a second copy of the same validation case is one, too


# --- edits -----------------------------------------------------------------------------------------------------------


def make(generator, dataset, kind, seed=0, transform=HostTransform(), host="phantom_001", asked=None, sampler=SAMPLER):  # noqa: B008
    request = Request(f"e{seed}", seed, asked or {})
    task = EditPlanner(generator, dataset).first_fitting(request, [EditChoice(kind, host, transform)])
    (drawn,) = edit(generator, [task], sampler)
    return drawn


@pytest.mark.parametrize("transform", [HostTransform(), HostTransform(mirrored=True), HostTransform(True, 5.0, 3)],
                         ids=["plain", "mirrored", "deformed"])
@pytest.mark.parametrize("kind", ["replace", "add", "remove"])
def test_outside_the_region_the_written_case_is_the_host_bit_for_bit(generator, phantom_dataset, kind, transform):
    drawn = make(generator, phantom_dataset, kind, transform=transform)
    case, host = drawn.case(generator), drawn.task.prepared.host
    assert unchanged_outside(drawn, generator)
    changed = (case.image != host.case.image).any(axis=0)
    assert 0 < changed.mean() < 0.6
    assert case.geometry == host.case.geometry
    assert ((case.image != 0).any(axis=0) == (host.case.image != 0).any(axis=0)).all()
    if transform == HostTransform():
        raw = read_case(phantom_dataset, "phantom_001")
        np.testing.assert_array_equal(case.image[:, ~changed], raw.image[:, ~changed])


def test_kinds_do_to_old_and_new_lesions_what_they_say(generator, phantom_dataset):
    for kind in ("replace", "add", "remove"):
        drawn = make(generator, phantom_dataset, kind)
        old, region = drawn.task.prepared.lesions, drawn.task.region
        if kind == "add":
            assert not region.mask[old].any()
            assert (drawn.label[old] > 0).all()
            assert drawn.task.free[:].sum() > region.latent_mask(generator.plan.grid.latent_shape).sum()
        else:
            assert (region.weight[old] == 1).all()
            assert ((drawn.label > 0) <= region.mask).all()
        names = generator.plan.condition_scaling.names
        asked = drawn.task.asked
        assert asked["tumour/presence"] == (kind != "remove")
        assert as_dict(names, drawn.obtained)["tumour/presence"] == float((drawn.focus > 0).any())


def test_an_edit_belongs_to_its_seed_whatever_its_company(generator, phantom_dataset):
    planner, settings = EditPlanner(generator, phantom_dataset), EditSettings(("phantom_001", "phantom_002"))
    with_lesion = settings.hosts
    tasks = [planner.first_fitting(r, edit_choices(settings, r, with_lesion)) for r in
             (Request(f"e{s}", s, {}) for s in (5, 6, 7))]
    together = {d.request.seed: d.image for d in edit(generator, tasks, SAMPLER)}
    for task in tasks[::-1]:
        (alone,) = edit(generator, [task], SAMPLER)
        np.testing.assert_array_equal(alone.image, together[task.request.seed])
    assert {t.choice.transform.mirrored for t in tasks} <= {True, False}


def test_what_is_far_from_the_region_is_neither_diffused_nor_decoded(generator, phantom_dataset, monkeypatch):
    diffused = []
    monkeypatch.setattr(editing, "CONTEXT_LATENTS", 0)
    monkeypatch.setattr(editing, "inpaint", lambda d, c, s, known, *_: diffused.append(known) or known.clean + 1)
    drawn = make(generator, phantom_dataset, "add")
    host, region, (known,) = drawn.task.prepared, drawn.task.region, diffused
    step = np.multiply(generator.denoiser.patch, np.prod(generator.denoiser.strides, axis=0))
    for size, spread, s in zip(known.clean.shape[2:], np.ptp(np.argwhere(drawn.task.free), axis=0) + 1, step, strict=True):
        assert spread <= size < spread + 2 * s
    changed = (drawn.latent != 0).all(dim=0).numpy()
    assert (changed >= drawn.task.free).all()
    assert changed.sum() == known.unknown.numel()
    for decoded in (drawn.decoded, drawn.decoded_host):
        seen = (decoded != host.image).any(axis=0)
        assert seen[region.mask].mean() > 0.99
        for axis, margin in zip(range(3), (0, 12, 12), strict=True):  # two latents, and the rest of one
            there, wanted = (np.unique(np.argwhere(m)[:, axis]) for m in (seen, region.mask))
            assert wanted.min() - margin < there.min() + 1
            assert there.max() - 1 < wanted.max() + margin
            assert len(there) < seen.shape[axis] or len(wanted) + 2 * margin >= seen.shape[axis]


def test_what_is_encoded_and_decoded_around_a_region_is_there_what_the_whole_volume_is(generator, phantom_dataset):
    drawn = make(generator, phantom_dataset, "replace")
    host, weight = drawn.task.prepared, drawn.task.region.weight
    latent = generator.encode(host.image, host.classes)
    known = ~torch.from_numpy(drawn.task.free) & (drawn.latent != 0).all(dim=0)
    assert known.sum() > drawn.task.free.sum() / 4
    torch.testing.assert_close(drawn.latent[:, known], latent[:, known], atol=0.02, rtol=0)
    whole, _ = generator.decode(latent)
    difference = np.abs(whole.numpy() - drawn.decoded_host).max(axis=0)
    assert difference[weight == 1].max() < 1e-3 * whole.std()
    assert (weight * difference).max() < 0.05 * whole.std()


def test_noise_of_edits_is_shared_by_slices_and_the_hosts_stay(generator, phantom_dataset):
    apart, shared = (replace(generator, plan=replace(generator.plan, noise_correlation=c)) for c in (0.0, 0.6))
    one, other = (make(g, phantom_dataset, "replace") for g in (apart, shared))
    free = torch.from_numpy(one.task.free)
    assert torch.equal(one.latent[:, ~free], other.latent[:, ~free])
    both = free[1:] & free[:-1]
    far, near = ((z[:, 1:] - z[:, :-1])[:, both].square().mean() for z in (one.latent, other.latent))
    assert near < 0.95 * far


def test_a_host_of_which_all_must_stay_is_passed_over(generator, phantom_dataset, monkeypatch):
    request, real_region = Request("e0", 0, {}), edit_tasks.region_around
    regions = iter([Region(np.zeros(generator.plan.grid.shape, np.float32))])
    monkeypatch.setattr(edit_tasks, "region_around", lambda *a: next(regions, None) or real_region(*a))
    choices = [EditChoice("remove", host, HostTransform()) for host in ("phantom_001", "phantom_002")]
    assert EditPlanner(generator, phantom_dataset).first_fitting(request, choices).choice.host == "phantom_002"


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


@pytest.fixture
def narrow(generator):
    """A generator whose grid holds a part of every host alone."""
    grid = generator.plan.grid
    d, h, w = grid.shape
    return replace(generator, plan=replace(generator.plan, grid=replace(grid, shape=(d, h - 2 * grid.downsampling, w))))


def test_an_edit_fades_before_the_face_of_a_grid_that_the_host_reaches_beyond(narrow, phantom_dataset):
    planner, tasks = EditPlanner(narrow, phantom_dataset), []
    for seed in range(8):
        choice = EditChoice("add" if seed % 4 < 3 else "replace", f"phantom_00{1 + seed % 3}", HostTransform())
        task = planner.task(Request(f"e{seed}", seed, {}), choice)
        if task is None:
            continue
        tasks.append(task)
        host, window = task.prepared.host.label, task.prepared.window
        assert not window.holds(host.shape)
        assert not task.region.weight[window.open_faces(host.shape)].any()
        weight = window.put(task.region.weight, host.shape, 0)
        inside = host != OUTSIDE
        for axis in range(3):
            pairs = np.moveaxis(inside, axis, 0)
            steps = np.abs(np.diff(np.moveaxis(weight, axis, 0), axis=0))
            assert steps[pairs[1:] & pairs[:-1]].max() < 0.75
    assert len(tasks) > 4


def test_a_place_in_a_host_larger_than_the_grid_is_one_in_the_whole_host(narrow, phantom_dataset):
    planner, missed = EditPlanner(narrow, phantom_dataset), []
    for seed in range(12):
        request = Request(f"e{seed}", seed, {"tumour/centroid_h": 0.4})
        task = planner.task(request, EditChoice("add", "phantom_001", HostTransform()))
        if task is None:
            continue
        prepared, spacing_mm = task.prepared, narrow.plan.grid.spacing_mm
        lesion = ellipsoids(task.condition, narrow.plan.targets, prepared.label, spacing_mm)
        host, place = prepared.host.label, prepared.window.put(lesion, prepared.host.label.shape, False)
        low, high = np.flatnonzero((host != OUTSIDE).any(axis=(0, 2)))[[0, -1]]
        missed.append((np.argwhere(place)[:, 1].mean() + 0.5 - low) / (high + 1 - low) - 0.4)
    assert len(missed) > 2
    assert np.abs(missed).max() < 0.02


def test_a_lesion_that_the_grid_cuts_is_neither_replaced_nor_removed(narrow, phantom_dataset, monkeypatch):
    planner, choice = EditPlanner(narrow, phantom_dataset), EditChoice("remove", "phantom_001", HostTransform())
    prepared = planner.prepared(Request("e0", 0, {}), choice)
    assert planner.task(Request("e0", 0, {}), choice) is not None
    cut = prepared.lesions | prepared.open_faces
    monkeypatch.setattr(planner, "prepared", lambda *_: replace(prepared, lesions=cut))
    assert planner.task(Request("e0", 0, {}), choice) is None


def test_ignored_voxels_are_no_lesions(generator, phantom_dataset, monkeypatch):
    ignoring = replace(generator, plan=replace(generator.plan, encoding=replace(generator.plan.encoding, ignore_label=3)))
    image, label = load_preprocessed(phantom_dataset, "phantom_001")
    label = np.where(label > 0, 0, label)
    label[0][label[0] == 0] = 3
    monkeypatch.setattr(edit_tasks, "load_preprocessed", lambda *_: (image, label))
    _, real = EditPlanner(ignoring, phantom_dataset).real_arrays("phantom_001")
    assert set(np.unique(real)) == {OUTSIDE, 0}
    cases = edited_cases(ignoring, phantom_dataset, EditSettings((), ("add",)))
    assert not cases.real.patches
    assert not cases.real.tissue


def test_a_host_of_another_resolution_is_edited_at_its_own(generator, phantom_dataset):
    fine = PhantomConfig(shape=(15, 64, 56), spacing_mm=(4.0, 2.0, 2.0))
    case, _ = make_phantom_case(fine, 40)
    files = phantom_dataset.case_files["phantom_001"]
    from pathlib import Path

    write_case(replace(case, case_id="phantom_001"), [Path(f) for f in files["images"]], Path(files["label"]))
    drawn = make(generator, phantom_dataset, "replace")
    host = drawn.task.prepared.host
    assert host.label.shape != host.native_label.shape
    edited = drawn.case(generator)
    assert edited.image.shape == case.image.shape
    assert unchanged_outside(drawn, generator)
    changed = (edited.image != host.case.image).any(axis=0)
    assert 0 < changed.mean() < 0.6
    share = drawn.native_weight
    assert share.shape == host.native_label.shape
    again = host_of(phantom_dataset, edited)
    assert again.label.shape == host.label.shape


def test_hosts_that_are_planned_for_another_spacing_are_edited_alike(generator, phantom_dataset):
    """A generator that others share edits cases at its own spacing, whatever nnU-Net plans for them."""
    plans = read_json(phantom_dataset.preprocessed / "nnUNetPlans.json")
    plans["configurations"]["3d_fullres"]["spacing"] = [s * 1.1 for s in phantom_dataset.config.spacing]
    write_json(phantom_dataset.preprocessed / "Other.json", plans)
    other = replace(phantom_dataset, plans_name="Other")
    assert list(other.config.spacing) == pytest.approx([s * 1.1 for s in generator.plan.grid.spacing_mm])
    own, theirs = (edited_cases(generator, d, EditSettings((), ("replace",))) for d in (phantom_dataset, other))
    assert theirs.real.values == own.real.values
    assert theirs.real.tissue == own.real.tissue
    edited = [next(cases.draw([Request("e0", 0, {})], SAMPLER)) for cases in (own, theirs)]
    assert np.array_equal(edited[0].case(generator).image, edited[1].case(generator).image)
    assert np.array_equal(edited[0].case(generator).label, edited[1].case(generator).label)
    assert edited[0].task.choice == edited[1].task.choice


def test_absence_asked_for_removes(generator, phantom_dataset):
    settings = EditSettings(("phantom_001",), ("add",))
    asked = {"tumour/presence": 0.0}
    assert edit_choices(settings, Request("a", 0, asked), settings.hosts)[0].kind == "remove"
    with pytest.raises(UserError, match="None of the 1 possible host.s. has a lesion to remove"):
        edit_choices(settings, Request("a", 0, asked), ())


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [{"tumour/volume_ml": 900.0, **{f"tumour/extent_{a}_mm": 120.0 for a in "dhw"}},
                                   {f"tumour/centroid_{a}": 0.01 for a in "dhw"}])
def test_what_a_host_has_no_room_for_is_refused_with_its_room(generator, phantom_dataset, asked):
    room = r"Host phantom_001 has no place for .*room for a ball of up to [\d.]+ ml, with centres within x"
    with pytest.raises(UserError, match=room):
        make(generator, phantom_dataset, "replace", asked=asked)


def test_other_labels_and_other_axes_are_refused(generator, phantom_dataset):
    turned = replace(generator, plan=replace(generator.plan, grid=replace(generator.plan.grid, transpose_forward=(1, 0, 2))))
    with pytest.raises(UserError, match=r"works with axes \(1, 0, 2\), but .* hosts must be turned alike"):
        EditPlanner(turned, phantom_dataset)
    with pytest.raises(UserError, match="makes the channels FLAIR, but"):
        EditPlanner(replace(generator, plan=replace(generator.plan, channel_names=("FLAIR",))), phantom_dataset)


def run_command(entry, *arguments):
    with pytest.raises(SystemExit) as e:
        entry([str(a) for a in arguments])
    return e.value.code


@pytest.mark.parametrize(("options", "sentence"), [
    (["-kind", "add"], "-kind goes with -mode edit"),
    (["-mode", "edit", "-kind", "paint"], "-kind takes replace, add, remove; got paint"),
    (["-mode", "edit", "-deformation", "-3"], "-deformation takes 0 to 20 mm; got -3"),
    (["-mode", "edit", "-hosts", "phantom_999"], "phantom_999 cannot be a host in fold 0"),
    (["-mode", "edit", "-volume_ml", "4000"], "has no place for tumour/volume_ml = 4e+03"),
])
def test_bad_options_end_with_one_sentence_and_exit_code_2(generator, tmp_path, capsys, options, sentence):
    arguments = ["-m", generator.folder, "-o", tmp_path / "out", "-n", 1, "-steps", 2, "-device", "cpu", *options]
    assert run_command(sample_entry, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error


# --- commands --------------------------------------------------------------------------------------------------------


def test_sbldm_sample_writes_edits_with_their_records_and_a_picture(generator, tmp_path):
    out = tmp_path / "edits"
    sample_entry(["-m", str(generator.folder), "-o", str(out), "-n", "2", "-steps", "2", "-device", "cpu", "-mode", "edit",
                      "-kind", "replace", "-hosts", "phantom_001", "--no_mirror"])
    assert {p.name for p in out.iterdir()} == {
        "montage.png", *(f"sbldm_0000{i}{e}" for i in range(2) for e in ("_0000.nii.gz", "_0001.nii.gz", ".nii.gz", ".json"))}
    record = read_json(out / "sbldm_00001.json")
    assert (record["edit"]["host"], record["edit"]["kind"]) == ("phantom_001", "replace")
    assert record["sampler"]["name"] == EDIT_SAMPLER.name
    assert "channel_0/seam" in record["gate"]["scores"]


def expand(generator, *options):
    expand_entry(["-d", "900", "-f", "0", "-m", str(generator.folder), "-n", "2", "-steps", "2", "-device", "cpu",
                      "--no_gate", "-mode", "edit", *options])


def test_a_pool_of_edits_names_its_hosts_and_each_can_be_made_again(generator, phantom, phantom_dataset, capsys):
    expand(generator, "--pool", "-kind", "replace", "add", "remove", "-deformation", "3")
    folder = pool_folder(phantom_dataset.preprocessed, phantom_dataset.config.data_identifier, 0)
    index = SyntheticIndex.load(folder)
    train, _ = fold_cases(phantom_dataset, 0)
    record = read_json(folder / "provenance" / "sbldm_f0_0000.json")
    assert record["edit"]["host"] in train
    assert record["edit"]["dataset"] == "Dataset900_Phantom"
    assert set(index.cases) == {"sbldm_f0_0000", "sbldm_f0_0001"}
    for case_id in index.cases:
        assert "identical, voxel for voxel" in regenerate("900", case_id, "cpu")
    before = read_json(folder / "provenance" / "sbldm_f0_0001.json")
    expand(generator, "--pool", "-kind", "replace", "add", "remove", "-deformation", "3")
    assert read_json(folder / "provenance" / "sbldm_f0_0001.json") == before  # nothing was made again
    expand(generator, "--pool", "-kind", "remove")
    assert read_json(folder / "provenance" / "sbldm_f0_0001.json")["edit"]["kind"] == "remove"


def test_an_edit_is_not_made_again_without_its_host_or_with_a_changed_one(generator, phantom, phantom_dataset):
    expand(generator, "--pool", "-hosts", "phantom_001", "-kind", "replace")
    files = phantom_dataset.case_files["phantom_001"]["images"]
    shutil.copy(phantom_dataset.case_files["phantom_002"]["images"][0], files[0])
    with pytest.raises(UserError, match="made by editing phantom_001 of Dataset900_Phantom, whose voxels have changed since"):
        regenerate("900", "sbldm_f0_0000", "cpu")
    import os

    os.remove(files[0])
    with pytest.raises(UserError, match="made by editing phantom_001 of Dataset900_Phantom, which is no longer there"):
        regenerate("900", "sbldm_f0_0000", "cpu")


def test_a_foreign_generators_edits_inherit_their_hosts_under_the_fold_rule(generator, phantom_dataset):
    foreign = generator.folder.parent / "foreign"
    shutil.copytree(generator.folder, foreign)
    strangers = [{"case_id": f"elsewhere_{i}", "image_hashes": [f"{i:064x}"], "label_hash": ""} for i in range(8)]
    write_json(foreign / "training_cases.json", strangers)
    (job,) = plan_jobs(phantom_dataset, [0], ExpansionRequest(num_cases=2), foreign, editing=EditSettings(()))
    train, val = fold_cases(phantom_dataset, 0)
    assert {c.case_id for c in job.model.seen} == {*train, *(s["case_id"] for s in strangers)}
    (other,) = plan_jobs(phantom_dataset, [1], ExpansionRequest(num_cases=2), foreign, editing=EditSettings(()))
    assert job.source != other.source  # each fold's hosts are registered on their own
    fingerprints = fingerprints_of(phantom_dataset, [*train, *val])
    guard_split([*train, "s"], val, {"s": job.model.seen}, fingerprints, 0)
    with pytest.raises(UserError, match="leak"):
        guard_split([*train, "s"], val, {"s": other.model.seen}, fingerprints, 0)


@pytest.mark.parametrize("option", [["-targets", "t.json"], ["-nnunet", "folder"], ["--no_gate"]])
def test_what_is_for_whole_cases_is_refused_where_edits_are_evaluated(generator, capsys, option):
    with pytest.raises(SystemExit) as e:
        evaluate_entry(["-m", str(generator.folder), "-device", "cpu", "-mode", "edit", *option])
    assert e.value.code == 2
    assert f"{option[0]} is for whole cases; leave it out with -mode edit." in capsys.readouterr().err


def test_sbldm_evaluate_measures_edits(generator, tmp_path):
    out = tmp_path / "evaluation"
    evaluate_entry(["-m", str(generator.folder), "-o", str(out), "-n", "3", "-steps", "2", "-device", "cpu", "-mode", "edit"])
    result = read_json(out / "edit_evaluation.json")
    assert result["all"]["num"] == 3
    assert result["all"]["unchanged_outside"] == 1.0
    assert {"channel_0/seam", "channel_0/lesion_halo"} <= set(result["real_tissue"])
    assert abs(result["all"]["host_lesion_halo"]) < 0.3  # the phantom's lesions end where their masks do
    assert 0 < result["all"]["host_lesion_ssim"] < 1
    assert result["all"]["host_lesion_gradient"] > 0
    assert result["all"]["host_lesion_components"] == 1  # a phantom has one tumour
    assert "data:image/png;base64," in (out / "edit_evaluation.html").read_text()


def test_a_lesion_that_was_removed_has_no_structure():
    assert set(lesion_structure(np.zeros((1, 4, 5, 5)), np.zeros((4, 5, 5), bool)).values()) == {None}


def test_the_blinded_montage_has_a_key_and_refuses_what_it_cannot_show(generator, phantom_dataset, tmp_path, monkeypatch):
    from nnunet_sbldm.editing import maker as module
    from nnunet_sbldm.evaluation.blinded_montage import write_blinded_montage

    settings = EditSettings((), ("remove",))
    cases = edited_cases(generator, phantom_dataset, settings)
    assert set(cases.real.patches) <= set(cases.settings.hosts)
    with pytest.raises(UserError, match="ask for fewer with -n"):
        write_blinded_montage(cases, phantom_dataset, 9, SAMPLER, tmp_path)
    monkeypatch.setattr(module.EditedCases, "judge", lambda *_: Verdict({}, ()))
    picture = write_blinded_montage(cases, phantom_dataset, 3, SAMPLER, tmp_path)
    key = read_json(tmp_path / "key.json")
    assert picture.is_file()
    assert sorted(v["kind"] for v in key.values()) == ["real"] * 3 + ["remove"] * 3
    assert [int(n) for n in key] == list(range(1, 7))


@pytest.mark.slow
def test_several_labels_keep_their_nesting(tmp_path, monkeypatch):
    """Regions: a core inside a tumour, in two channels; the decoded label head decides both at once."""
    from phantom_fixtures import SHORT, SMALL_PHANTOM, make_planned_phantom

    from nnunet_sbldm.generator.checkpoint import load_model
    from nnunet_sbldm.training.request import TrainingRequest
    from nnunet_sbldm.training.train import train_generator

    folders = make_planned_phantom(tmp_path, replace(SMALL_PHANTOM, num_labels=2, regions=True), num_cases=6)
    for name, value in folders.environment().items():
        monkeypatch.setenv(name, value)
    dataset = open_dataset("900")
    folder = train_generator(TrainingRequest(dataset, 0, SHORT, fold_cases(dataset, 0)[0], 1), "cpu")
    two = load_model(folder, torch.device("cpu"))
    assert [t.name for t in two.plan.targets] == ["tumour", "core"]
    host = fold_cases(dataset, 0)[0][0]
    for kind in ("replace", "add", "remove"):
        drawn = make(two, dataset, kind, host=host)
        case = drawn.case(two)
        assert unchanged_outside(drawn, two)
        assert set(np.unique(case.label)) <= {0, 1, 2}
        tumour, core = (np.isin(drawn.label, t.label_values) for t in two.plan.targets)
        assert (core <= tumour).all()
        changed = (case.image != drawn.task.prepared.host.case.image).reshape(2, -1)
        assert changed.any(axis=1).all()  # both channels
