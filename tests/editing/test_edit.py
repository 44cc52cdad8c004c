"""Editing: what is not in the region stays bit for bit, hosts obey the fold rule, and an edit can be made again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from editing_cases import SAMPLER, make

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.conditions import as_dict
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.data.phantom import PhantomConfig, make_phantom_case
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing import edit as editing
from nnunet_sbldm.editing.choices import EditChoice, EditSettings, edit_choices
from nnunet_sbldm.editing.edit import edit
from nnunet_sbldm.editing.hosts import HostTransform, host_of
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.evaluation.edit_measures import unchanged_outside
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.types import OUTSIDE


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
