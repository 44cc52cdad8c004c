"""Regions of edits: where they may lie, how they fade, what they spare."""

import json
from dataclasses import replace

import numpy as np
import pytest
from editing_cases import SAMPLER, ball

from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.conditions import as_dict
from nnunet_sbldm.editing.choices import EditChoice, EditSettings
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.editing.regions import ellipsoids, region_around, tissue_like
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.types import OUTSIDE, UserError

SPACING_MM = (2.0, 2.0, 2.0)


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
