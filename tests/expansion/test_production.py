"""The loop that makes cases: judged, drawn again, given up, recorded."""

import json
from dataclasses import replace

import numpy as np
import pytest
from expansion_commands import (
    QUICK,
    expand,
    judge_by_seed,
    records,
)

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion import production
from nnunet_sbldm.expansion.prepare import edit_job
from nnunet_sbldm.expansion.production import produce
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import EDIT_SAMPLER
from nnunet_sbldm.quality.gate import Reason, Verdict
from nnunet_sbldm.types import UnfitGeneratorError


def test_rejected_draws_are_drawn_again_with_another_seed_until_one_is_accepted(job, phantom_dataset, destination, monkeypatch):
    seen = []
    monkeypatch.setattr(production, "judge", judge_by_seed(lambda d: seen.append(d) or len(seen) > 3))
    tally = produce(job, phantom_dataset, QUICK, destination)
    assert (tally.accepted, tally.rejected, tally.attempts) == (6, 0, 9)
    assert sorted(r["attempt"] for r in records(destination).values()) == [0, 0, 0, 1, 1, 1]
    assert all(r["gate"]["scores"] for r in records(destination).values())


def test_given_up_requests_are_remembered_and_left_out(job, phantom_dataset, destination, monkeypatch):
    first = {}

    def judge(reference, asked, obtained, appearance, distance, real):
        bad = first.setdefault("asked", asked) == asked and first.setdefault("n", 0) == 0
        return Verdict({}, (Reason("mask", "the mask is bad"),) if bad else ())

    monkeypatch.setattr(production, "judge", judge)
    settings = replace(QUICK, max_attempts=1)
    tally = produce(job, phantom_dataset, settings, destination)
    assert (tally.accepted, tally.rejected) == (5, 1)
    assert list(records(destination, "rejected")) == ["sbldm_f0_0000"]
    assert "sbldm_f0_0000" not in records(destination)
    assert produce(job, phantom_dataset, settings, destination).attempts == 0  # nothing is open any more


def test_a_lesion_for_which_no_host_has_room_is_given_up_and_the_others_are_made(generator, phantom_dataset, destination):
    requests = [Request(f"sbldm_f0_{i:04d}", i, {"tumour/volume_ml": 9000.0} if i == 1 else {}) for i in range(3)]
    job = edit_job(phantom_dataset, 0, generator, tuple(requests), EditSettings((), ("add",)))
    settings = replace(QUICK, sampler=replace(EDIT_SAMPLER, num_steps=2, max_corrections=0), use_gate=False)
    tally = produce(job, phantom_dataset, settings, destination)
    assert (tally.accepted, tally.rejected, tally.reasons) == (2, 1, {"no_room": 1})
    (given_up,) = records(destination, "rejected").values()
    assert "has no place for tumour/volume_ml = 9e+03" in given_up["gate"]["reasons"][0]
    again = produce(job, phantom_dataset, settings, destination)
    assert (again.attempts, again.accepted, again.reasons) == (0, 2, {"no_room": 1})
    with pytest.raises(UnfitGeneratorError, match="1 of 1 cases were given up, most because no host has room .* Ask for smaller"):
        produce(replace(job, requests=job.requests[1:2]), phantom_dataset, settings, destination)


def test_the_real_gate_runs_on_real_draws(job, phantom_dataset, destination):
    """A generator of sixty steps makes poor cases: the gate says so, with reasons that name the rule."""
    with pytest.raises(UnfitGeneratorError, match="gave up"):
        produce(job, phantom_dataset, replace(QUICK, max_attempts=1), destination)
    assert all(r["gate"]["reasons"] for r in records(destination, "rejected").values())


def test_a_spec_makes_what_it_lists(phantom, generator, phantom_dataset, tmp_path):
    spec = tmp_path / "spec.json"
    write_json(spec, [{"count": 2, "volume_ml": 12}, {"count": 1, "volume_ml": [20, 25], "centroid": [0.5, 0.4, 0.6]}])
    expand("--pool", "-spec", spec)
    folder = phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0" / "provenance"
    asked = [read_json(f)["condition_asked"] for f in sorted(folder.iterdir())]
    assert [round(a["tumour/volume_ml"], 6) for a in asked[:2]] == [12, 12]
    assert 20 <= asked[2]["tumour/volume_ml"] <= 25
    assert [asked[2][f"tumour/centroid_{a}"] for a in "dhw"] == pytest.approx([0.6, 0.4, 0.5])


def test_records_are_complete(phantom, phantom_dataset, generator):
    expand("--pool", "-n", "1")
    folder = phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0" / "provenance"
    record = json.loads((folder / "sbldm_f0_0000.json").read_text())
    assert set(record) >= {
        "case_id",
        "generator_hash",
        "seed",
        "attempt",
        "fold",
        "condition_asked",
        "condition_obtained",
        "sampler",
        "nearest_real_case",
        "gate",
        "versions",
    }
    assert record["versions"]["device"] == "cpu"
    assert np.isfinite(record["nearest_real_case"]["latent_distance"])
