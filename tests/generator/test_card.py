"""The model card: everything that is known, nothing about a person, and no part of the generator."""

from dataclasses import replace

import pytest

from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.evaluation.evaluate import evaluate
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.card import (
    NOT_STATED,
    SHOWN,
    is_non_commercial,
    licence_note,
    make_card,
    measure_of,
    read_card,
    rendered,
    write_card,
)
from nnunet_sbldm.generator.checkpoint import hash_of
from nnunet_sbldm.generator.old_cards import with_ids
from nnunet_sbldm.generator.zoo import BUNDLED
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import UserError


def test_training_ends_with_a_card_that_says_what_the_model_knows(generator, phantom_dataset):
    card, plan = read_card(generator.folder), generator.plan
    assert (card.channels, card.labels, card.num_training_cases) == (("FLAIR", "T1"), ("tumour",), 8)
    assert card.licence == NOT_STATED
    d, h, w = plan.grid.shape
    assert plan.grid.transpose_forward == (0, 1, 2)
    assert card.grid == (w, h, d)
    assert card.field_of_view_mm == pytest.approx([w * 4, h * 4, d * 6])
    (tumour,) = card.conditions
    volumes = [row[plan.condition_scaling.names.index("tumour/volume_ml")] for row in plan.condition_table]
    assert tumour["volume_ml"] == pytest.approx([min(volumes), max(volumes)], abs=1e-3)
    assert tumour["present_share"] == 1
    networks = (generator.autoencoder, generator.denoiser)
    assert card.num_parameters == tuple(sum(p.numel() for p in n.parameters()) for n in networks)
    text = (generator.folder / "README.md").read_text()
    assert text == rendered(card)
    assert "Not for diagnosis" in text
    assert [c for c in phantom_dataset.real_case_ids if c in text + str(read_json(generator.folder / "card.json"))] == []


def test_lengths_are_in_the_order_of_the_file(generator):
    grid = replace(generator.plan.grid, shape=(10, 20, 32), spacing_mm=(5.0, 2.0, 1.0), transpose_forward=(2, 0, 1))
    card = make_card(generator.folder, replace(generator.plan, grid=grid), {}, [])
    assert (card.grid, card.spacing_mm) == ((10, 32, 20), (5.0, 1.0, 2.0))  # x is plan axis 0, y axis 2, z axis 1


def test_licence_and_origin_come_from_the_dataset(generator):
    about = {"name": "Heads", "description": "made-up\nheads", "license": "CC BY-NC 4.0", "reference": "a paper", "release": "1"}
    card = make_card(generator.folder, generator.plan, about, [{"case_id": "secret", "salt": "s"}])
    assert (card.title, card.data) == ("SBLDM of Heads", "Heads; made-up heads; 1")
    assert (card.licence, card.reference, card.is_salted) == ("CC BY-NC 4.0", "a paper", True)
    text = rendered(card)
    assert "Non-commercial use only" in text
    assert "as salted hashes" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC BY-NC-SA 4.0", True), ("CC BY-SA 4.0", False), ("Non-commercial", True), ("BNC licence", False), (NOT_STATED, False)],
)
def test_non_commercial_licences_are_recognised(generator, licence, expected):
    card = replace(read_card(generator.folder), licence=licence)
    assert is_non_commercial(card) is expected
    write_card(generator.folder, card)
    note = licence_note(generator.folder)
    assert ("non-commercial use only" in note) is expected
    assert bool(note) == (licence != NOT_STATED)


def test_an_evaluation_completes_the_card_and_the_generator_stays_the_same(generator, phantom_dataset, tmp_path):
    before = hash_of(generator.folder)
    assert "Nothing yet" in (generator.folder / "README.md").read_text()
    settings = EvaluationSettings(3, SamplerConfig(num_steps=2), use_gate=False)
    result = evaluate(generator, phantom_dataset, settings, tmp_path / "out")
    card, text = read_card(generator.folder), (generator.folder / "README.md").read_text()
    shown = {(m["section"], m["id"]): m for m in card.evaluation["metrics"]}
    (frechet,) = [r for r in result["sections"]["features"] if r["id"] == "frechet"]
    assert shown["features", "frechet"]["value"] == frechet["value"]
    assert shown["features", "frechet"]["floor"] == frechet["floor"]
    assert {s for s, _ in shown} == set(result["sections"]) - {"agreement", "latents"}
    assert sum(s == "memorisation" for s, _ in shown) == 9
    assert "3 synthetic cases against 2 real cases" in text
    assert [c for c in phantom_dataset.real_case_ids if c in text + str(read_json(generator.folder / "card.json"))] == []
    assert hash_of(generator.folder) == before


def test_models_of_before_there_were_cards_have_one_made(generator):
    card = read_card(generator.folder)
    for name in ("card.json", "README.md"):
        (generator.folder / name).unlink()
    assert read_card(generator.folder) == card
    sample_entry(["-m", str(generator.folder), "-o", str(generator.folder / "x"), "-n", "1", "-steps", "1", "-device", "cpu",
                  "--no_gate"])


def test_a_model_that_lacks_a_file_is_named_with_it(generator):
    for name in ("card.json", "training_cases.json"):
        (generator.folder / name).unlink()
    with pytest.raises(UserError, match="is no whole SBLDM: training_cases.json missing"):
        read_card(generator.folder)


def test_a_card_that_cannot_be_read_is_named(generator):
    file = generator.folder / "card.json"
    card = read_json(file)
    for value in ([], {}, {**card, "format": 2}, {**card, "conditions": [1]}, {"format": 1, "title": "x"}):
        write_json(file, value)
        with pytest.raises(UserError, match=r"card.json (has format|is no model card)"):
            read_card(generator.folder)


def test_results_of_a_card_that_has_names_alone_gain_the_ids_that_an_evaluation_gives_now(generator):
    names = {
        "Dice tumour": "tumour/dice",
        "tumour: r of log volume": "tumour/volume_r",
        "a: b: median volume error (share)": "a: b/volume_error",
        "tumour: median centroid error (share of field of view)": "tumour/centroid_error",
        "tumour/volume_ml": "tumour/volume_ml",
        "specks": "specks",
        "Frechet distance": "frechet",
        "kernel distance (KID)": "kid",
        "MS-SSIM between cases": "ms_ssim",
        "image: ratio of nearest distances": "image/distance_ratio",
        "pair: flagged cases": "pair/flagged",
    }
    found = with_ids({"num_held_out": 3, "metrics": [{"name": n, "value": 1.0} for n in names]})
    assert found["metrics"] == [{"id": i, "name": n, "value": 1.0} for n, i in names.items()]
    assert with_ids(found) == found
    assert with_ids({}) == {}


@pytest.mark.parametrize("folder", sorted(p for p in BUNDLED.iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_bundled_cards_show_the_numbers_that_they_were_evaluated_with(folder):
    card, written = read_card(folder), read_json(folder / "card.json")
    values = [(m["name"], m["value"]) for m in card.evaluation["metrics"]]
    assert values == [(m["name"], m["value"]) for m in written["evaluation"]["metrics"]]
    assert {measure_of(m) for m in card.evaluation["metrics"]} == {m for measures in SHOWN.values() for m in measures}
    assert rendered(card) == (folder / "README.md").read_text()
