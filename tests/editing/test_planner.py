"""What is edited where: room in a host, lesions that the grid cuts, what must stay."""

from dataclasses import replace

import numpy as np
import pytest
from editing_cases import make

from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.editing import planner as edit_tasks
from nnunet_sbldm.editing.choices import EditChoice, EditSettings, edit_choices
from nnunet_sbldm.editing.hosts import HostTransform
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.editing.regions import Region, ellipsoids
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.types import OUTSIDE, UserError


def test_a_host_of_which_all_must_stay_is_passed_over(generator, phantom_dataset, monkeypatch):
    request, real_region = Request("e0", 0, {}), edit_tasks.region_around
    regions = iter([Region(np.zeros(generator.plan.grid.shape, np.float32))])
    monkeypatch.setattr(edit_tasks, "region_around", lambda *a: next(regions, None) or real_region(*a))
    choices = [EditChoice("remove", host, HostTransform()) for host in ("phantom_001", "phantom_002")]
    assert EditPlanner(generator, phantom_dataset).first_fitting(request, choices).choice.host == "phantom_002"


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


def test_absence_asked_for_removes(generator, phantom_dataset):
    settings = EditSettings(("phantom_001",), ("add",))
    asked = {"tumour/presence": 0.0}
    assert edit_choices(settings, Request("a", 0, asked), settings.hosts)[0].kind == "remove"
    with pytest.raises(UserError, match="None of the 1 possible host.s. has a lesion to remove"):
        edit_choices(settings, Request("a", 0, asked), ())


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
