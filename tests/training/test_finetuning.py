"""Fine-tuning: what belongs to a channel or a label moves with it, what was seen stays known, and the fold rule holds."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import refused
from phantom_fixtures import NANO

from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.conditions import ConditionScaling, Target, feature_names
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.grid import Grid
from nnunet_sbldm.data.labels import LabelEncoding
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion import expand_dataset as expand_command
from nnunet_sbldm.generator.card import read_card, write_card
from nnunet_sbldm.generator.checkpoint import build_autoencoder, build_denoiser, generator_folder, load_model
from nnunet_sbldm.generator.plan import GeneratorPlan, InitialModelRecord, layout_of
from nnunet_sbldm.ldm.layout import DenoiserLayout
from nnunet_sbldm.training import loop as optimisation
from nnunet_sbldm.training.finetuning import MAX_SCALED, InitialModel, autoencoder_weights, denoiser_weights
from nnunet_sbldm.types import OUTSIDE, UserError

TWO = (Target("core", (1,)), Target("oedema", (2,)))


def plan_with(plan, channels, targets, values, grid=None):
    """A plan of other channels and labels, of the same architecture."""
    names = feature_names(targets)
    table = np.abs(np.random.default_rng(0).normal(5, 1, (6, len(names))))
    table[:, [n.endswith("presence") for n in names]] = 1.0
    return replace(
        plan,
        channel_names=channels,
        targets=targets,
        encoding=LabelEncoding((OUTSIDE, *values)),
        grid=grid or plan.grid,
        condition_scaling=ConditionScaling.fit(names, table),
        condition_table=tuple(map(tuple, table.tolist())),
    )


def initial_of(generator, plan, renamed=None):
    """A start from an untrained generator of a plan, with random weights everywhere."""
    torch.manual_seed(0)
    networks = [build(plan).eval() for build in (build_autoencoder, build_denoiser)]
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return InitialModel(replace(generator, plan=plan, autoencoder=networks[0], denoiser=networks[1]), "theirs", renamed or {})


@pytest.fixture
def theirs(generator):
    return plan_with(generator.plan, ("T1", "FLAIR"), TWO, (0, 1, 2))


def test_the_networks_are_the_same_functions_of_reordered_channels_and_labels(generator, theirs):
    """Own channels and labels in the other order and under other names: exchange inputs, and outputs are exchanged."""
    targets = (Target("swelling", (1,)), Target("CORE", (2,)))
    initial = initial_of(generator, theirs, {"swelling": "oedema", "T1w": "T1"})
    mine = plan_with(theirs, ("flair", "T1w"), targets, (0, 1, 2))
    matched = initial.match_plan(mine)
    same = np.array(theirs.condition_table)[:, list(matched.features)]
    mine = initial.adopted(replace(mine, condition_table=tuple(map(tuple, same.tolist()))))
    assert (matched.channels, matched.classes, matched.targets) == ((1, 0), (0, 1, 3, 2), (1, 0))
    autoencoder, denoiser = build_autoencoder(mine).eval(), build_denoiser(mine).eval()
    autoencoder.load_state_dict(autoencoder_weights(initial.model.autoencoder.state_dict(), matched))
    denoiser.load_state_dict(denoiser_weights(initial.model.denoiser.state_dict(), matched))
    rng = torch.Generator().manual_seed(1)
    image, classes = torch.randn(2, 2, 16, 12, generator=rng), torch.softmax(torch.randn(2, 4, 16, 12, generator=rng), 1)
    position = torch.tensor([0.2, 0.9])
    own_image, own_classes = image[:, list(matched.channels)], classes[:, list(matched.classes)]
    a, b = initial.model.autoencoder.encode(image, classes, position), autoencoder.encode(own_image, own_classes, position)
    torch.testing.assert_close(a.mean, b.mean)
    (x, logits), (own_x, own_logits) = (n.decode(a.mean, position) for n in (initial.model.autoencoder, autoencoder))
    torch.testing.assert_close(x[:, list(matched.channels)], own_x)
    torch.testing.assert_close(logits[:, list(matched.classes)], own_logits)
    z = torch.randn(2, len(a.mean[0]), *mine.grid.latent_shape, generator=rng)
    physical = generator_conditions(theirs)
    own = theirs.condition_scaling.scaled(physical)[:, list(matched.features)]
    c, t = torch.from_numpy(theirs.condition_scaling.scaled(physical)).float(), torch.tensor([10, 700])
    own_c = torch.from_numpy(own).float()
    torch.testing.assert_close(initial.model.denoiser(z, t, c), denoiser(z, t, own_c), atol=1e-5, rtol=1e-4)


def generator_conditions(plan):
    physical = np.array(plan.condition_table)[:2]
    physical[0, 3] = np.nan
    return physical


def test_regions_are_matched_by_what_they_hold(generator):
    whole, core = Target("whole", (1, 2)), Target("core", (2,))
    initial = initial_of(generator, plan_with(generator.plan, ("FLAIR", "T1"), (whole, core), (0, 1, 2)))
    mine = (Target("core", (1,)), Target("whole", (1, 3)))
    matched = initial.match("mine", ("FLAIR", "T1"), LabelEncoding((OUTSIDE, 0, 1, 3)), mine)
    assert (matched.targets, matched.classes) == ((1, 0), (0, 1, 3, 2))
    with pytest.raises(UserError, match="must match one to one"):
        initial.match("mine", ("FLAIR", "T1"), LabelEncoding((OUTSIDE, 0, 1, 3)), (Target("core", (1,)), Target("whole", (3,))))


def test_channels_of_one_name_are_matched_in_their_order(generator):
    initial = initial_of(generator, plan_with(generator.plan, ("CT", "CT"), (Target("tumour", (1,)),), (0, 1)))
    matched = initial.match("mine", ("CT", "CT"), LabelEncoding((OUTSIDE, 0, 1)), (Target("tumour", (1,)),))
    assert matched.channels == (0, 1)


@pytest.mark.parametrize(
    ("channels", "targets", "renamed"),
    [
        (("T1",), TWO, {}),
        (("T1", "FLAIR", "T2"), TWO, {}),
        (("T1", "T2"), TWO, {}),
        (("T1", "FLAIR"), TWO[:1], {}),
        (("T1", "FLAIR"), (*TWO, Target("other", (3,))), {}),
        (("T1", "FLAIR"), (TWO[0], Target("swelling", (2,))), {}),
        (("T1", "T2"), TWO, {"T2": "T1"}),
        (("T1", "T2"), TWO, {"T2": "PD"}),
        (("T1", "FLAIR"), TWO, {"PD": "T1"}),
    ],
)
def test_what_does_not_match_one_to_one_is_refused_with_both_sides(generator, theirs, channels, targets, renamed):
    initial, values = initial_of(generator, theirs, renamed), tuple(v for t in targets for v in t.label_values)
    with pytest.raises(UserError) as e:
        initial.match("Dataset900_Mine", channels, LabelEncoding((OUTSIDE, 0, *values)), targets)
    said = str(e.value)
    assert "makes the channels T1, FLAIR and the labels core, oedema, but Dataset900_Mine has the channels" in said
    assert f"{', '.join(channels)} and the labels {', '.join(t.name for t in targets)}" in said
    assert "-map" in said


@pytest.mark.parametrize(
    ("theirs_shape", "own_shape"),
    [((10, 32, 28), (12, 160, 140)), ((10, 136, 128), (9, 30, 33)), ((40, 128, 128), (7, 24, 20)), ((6, 24, 20), (40, 128, 128))],
    ids=["larger in plane", "smaller in plane", "fewer tokens", "more tokens"],
)
def test_weights_fit_a_grid_of_another_size(generator, theirs_shape, own_shape):
    """Down-sampling, tokens, strides and attention are taken from the initial model, whatever the own grid would ask for."""
    spacing, axes = (1.0, 1.0, 1.0), (0, 1, 2)
    plan = plan_with(generator.plan, ("A", "B"), TWO, (0, 1, 2), Grid(theirs_shape, spacing, axes, False))
    initial = initial_of(generator, plan)
    mine = initial.adopted(plan_with(plan, ("A", "B"), TWO, (0, 1, 2), Grid(own_shape, (2.0, 1.0, 1.0), axes, False)))
    assert mine.grid.downsampling == plan.grid.downsampling
    assert all(a >= b and a - b < 8 for a, b in zip(mine.grid.shape, own_shape, strict=True))
    assert [n % mine.grid.downsampling for n in mine.grid.shape[1:]] == [0, 0]
    assert layout_of(mine) == layout_of(plan)
    matched = initial.match_plan(mine)
    build_autoencoder(mine).load_state_dict(autoencoder_weights(initial.model.autoencoder.state_dict(), matched))
    denoiser = build_denoiser(mine).eval()
    denoiser.load_state_dict(denoiser_weights(initial.model.denoiser.state_dict(), matched))
    z = torch.zeros(1, initial.model.autoencoder.latent_channels, *mine.grid.latent_shape)
    c = torch.zeros(1, len(mine.condition_scaling.names))
    assert denoiser(z, torch.tensor([5]), c).shape == z.shape
    again = GeneratorPlan.from_json(mine.to_json())
    assert (again.layout, again.grid, again.initial) == (mine.layout, mine.grid, mine.initial)


def test_a_layout_is_what_the_grid_asks_for_unless_it_is_adopted(generator):
    plan = generator.plan
    assert plan.layout is None
    wanted = DenoiserLayout.of(plan.grid.latent_shape, plan.grid.latent_voxel_mm, len(plan.preset.denoiser.widths))
    assert layout_of(plan) == wanted
    old = plan.to_json()  # of before there was fine-tuning
    del old["layout"], old["initial"], old["grid"]["downsampling"]
    assert GeneratorPlan.from_json(old) == plan


def test_conditions_keep_the_initial_scale_unless_they_are_far_outside_it(generator, theirs):
    initial = initial_of(generator, theirs)
    names = list(theirs.condition_scaling.names)
    far, absent = names.index("core/centroid_d"), names.index("oedema/presence")
    table = np.array(theirs.condition_table)
    table[:, [not n.endswith("presence") for n in names]] *= 1.05
    table[:, far] += 50
    table[0, absent] = 0
    own = ConditionScaling.fit(names, table)
    mine = replace(theirs, condition_table=tuple(map(tuple, table.tolist())), condition_scaling=own)
    kept = initial.adopted(mine)
    for i in range(len(names)):
        source = own if i in (far, absent) else theirs.condition_scaling
        assert (kept.condition_scaling.mean[i], kept.condition_scaling.std[i]) == (source.mean[i], source.std[i])
    assert np.abs(kept.condition_scaling.scaled(table)).max() <= MAX_SCALED
    asked = kept.condition_model.sample(np.random.default_rng(0))  # drawn from the own cases, in their own scale
    np.testing.assert_array_equal(asked, mine.condition_model.sample(np.random.default_rng(0)))


# --- the whole way -------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(generator, phantom):
    """The generator as another hospital's: its cases are not the user's."""
    folder = phantom.results / "SBLDM_models" / "hospital_b"
    shutil.copytree(generator.folder, folder)
    write_card(folder, replace(read_card(folder), licence="CC BY-NC-SA 4.0"))
    cases = [{"case_id": f"b_{i}", "image_hashes": [f"hash {i}"], "label_hash": ""} for i in range(8)]
    write_json(folder / "training_cases.json", cases)
    return folder


def train(*options):
    train_entry(["-d", "900", "-device", "cpu", *map(str, options)])


@pytest.fixture
def few_cases(phantom_dataset, tmp_path):
    """A file with three training cases of fold 1."""
    file = tmp_path / "cases.txt"
    file.write_text("\n".join(fold_cases(phantom_dataset, 1)[0][:3]))
    return file


def test_a_model_is_fine_tuned_on_a_few_cases_and_resumes(foreign, phantom_dataset, few_cases, monkeypatch, capsys):
    chosen = few_cases.read_text().split()
    options = ("-f", 1, "-init", "hospital_b", "-length", 0.4, "-cases", few_cases)
    save_state, killed = optimisation._save_state, []

    def save_and_die(*state):
        save_state(*state)
        if not killed:
            killed.append(state)
            raise KeyboardInterrupt

    monkeypatch.setattr(optimisation, "_save_state", save_and_die)
    with pytest.raises(SystemExit):
        train(*options)
    train(*options)
    folder = generator_folder(phantom_dataset, "nano_from_hospital_b_x0.4", 1)
    tuned, initial = load_model(folder), load_model(foreign)
    assert tuned.plan.initial == InitialModelRecord("hospital_b", initial.hash, "CC BY-NC-SA 4.0")
    assert "of the initial model hospital_b: CC BY-NC-SA 4.0. **Non-commercial use only**" in (folder / "README.md").read_text()
    assert tuned.plan.preset.autoencoder_stage.num_steps == round(0.4 * NANO.autoencoder_stage.num_steps)
    assert list(tuned.seen) == [*initial.seen, *fingerprints_of(phantom_dataset, chosen).values()]
    assert len(tuned.plan.condition_table) == 3
    assert "fine-tuned from hospital_b, whose cases are among them" in (folder / "README.md").read_text()
    expand = ["-d", "900", "--pool", "-f", "1", "-m", "nano_from_hospital_b_x0.4", "-n", "1", "--no_gate", "-steps", "2"]
    expand_command.expand_entry(expand)
    assert "in fold 1" in capsys.readouterr().out


def test_training_starts_from_the_weights_of_the_initial_model(foreign, phantom_dataset, few_cases):
    train("-f", 1, "-init", foreign, "-length", 1e-9, "-cases", few_cases)  # one step, with the small rate of the start
    tuned = load_model(generator_folder(phantom_dataset, "nano_from_hospital_b_x1e-09", 1))
    initial = load_model(foreign)
    for mine, theirs in ((tuned.autoencoder, initial.autoencoder), (tuned.denoiser, initial.denoiser)):
        difference = max((v - theirs.state_dict()[k]).abs().max() for k, v in mine.state_dict().items())
        assert 0 < difference < 1e-2


def test_a_model_that_has_seen_a_validation_case_is_no_start(generator, phantom, capsys):
    message = refused(capsys, train_entry, "-d", "900", "-f", "1", "-init", generator.folder, "-device", "cpu")
    said = r"initial SBLDM Dataset900_Phantom_f0 was trained on 2 of the validation cases of fold 1: \w+ \(same"
    assert re.search(said, message)
    assert not list(phantom.results.glob("*/*_from_*"))


def test_options_that_do_not_go_together(foreign, capsys):
    base = (train_entry, "-d", "900", "-f", "1", "-device", "cpu")
    assert "-preset and -init exclude each other" in refused(capsys, *base, "-init", "hospital_b", "-preset", "nano")
    assert "-map goes with -init" in refused(capsys, *base, "-map", "a=b")
    assert "yours first; got 'T2'" in refused(capsys, *base, "-init", "hospital_b", "-map", "T2")
    assert "-map T2=FLAIR names no channel of both" in refused(capsys, *base, "-init", "hospital_b", "-map", "T2=FLAIR")


def test_another_start_is_not_taken_for_the_same_model(foreign, few_cases, capsys):
    options = ("-f", 1, "-init", "hospital_b", "-length", 1e-9, "-cases", few_cases)
    train(*options)
    train(*options)
    assert "was already trained" in capsys.readouterr().out
    cases = read_json(foreign / "training_cases.json")
    write_json(foreign / "training_cases.json", cases[::-1])  # another hash
    message = refused(capsys, train_entry, "-d", "900", "-device", "cpu", *options)
    assert "holds an SBLDM that started from another model" in message
