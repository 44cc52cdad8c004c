"""A trained model as a folder: what its hash stands for."""

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.generator.checkpoint import load_model


def test_generators_that_are_equal_have_equal_hashes_and_others_do_not(generator):
    plan = read_json(generator.folder / "generator.json")
    write_json(generator.folder / "generator.json", {**plan, "latent_mean": [0.0] * len(plan["latent_mean"])})
    assert load_model(generator.folder).hash != generator.hash
