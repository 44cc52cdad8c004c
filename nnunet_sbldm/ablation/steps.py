"""Two steps of a study that no other command does: configurations of all arms at once, and joining two expansions.

``python -m nnunet_sbldm.ablation.steps configure -d ID -base JSON -arms JSON``
``python -m nnunet_sbldm.ablation.steps join -d ID ID -o DatasetXXX_Name``
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_sbldm.ablation.settings import BASE_CONFIGURATION
from nnunet_sbldm.common.files import copy_file, link_or_copy, read_json, write_json
from nnunet_sbldm.data.cases import PREPROCESSED_ENDINGS
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION, DEFAULT_PLANS, dataset_name, nnunet_folder
from nnunet_sbldm.data.plans import half_network, small_network
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.mixing.configure import add_configuration
from nnunet_sbldm.mixing.settings import MixingSettings
from nnunet_sbldm.types import UserError

PREFIXES = ("whole", "edit")
"""Of the ids in a joined dataset, whose sources use the same ones."""


def configure_arms(dataset: str, base: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Add a configuration per arm to the plans of a dataset.

    Args:
        dataset: number or name of a planned dataset.
        base: what all arms change in ``3d_fullres``: ``network``, ``patch_size``, ``batch_size``.
        arms: name -> mixing settings.
    """
    plans_file = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset) / f"{DEFAULT_PLANS}.json"
    plans = read_json(plans_file)
    if DEFAULT_CONFIGURATION not in plans["configurations"]:
        raise UserError(f"{plans_file} has no {DEFAULT_CONFIGURATION}, which studies train: nnU-Net plans it for volumes alone.")
    wanted = _base_configuration(plans["configurations"][DEFAULT_CONFIGURATION], base)
    existing = plans["configurations"].setdefault(BASE_CONFIGURATION, wanted)
    if existing != wanted:
        raise UserError(f"{plans_file} has another configuration {BASE_CONFIGURATION} than this study's: choose a new folder.")
    write_json(plans_file, plans)
    for name, settings in arms.items():
        add_configuration(dataset, DEFAULT_PLANS, BASE_CONFIGURATION, MixingSettings(**settings), name)


def _base_configuration(planned: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    changes = {k: v for k, v in base.items() if k != "network"}
    if "network" in base:
        architecture = copy.deepcopy(planned["architecture"])
        architecture["arch_kwargs"] = _NETWORKS[base["network"]](architecture["arch_kwargs"])
        changes["architecture"] = architecture
    _refuse_odd_patch(base.get("patch_size"), changes.get("architecture", planned["architecture"])["arch_kwargs"]["strides"])
    return {"inherits_from": DEFAULT_CONFIGURATION, **changes}


_NETWORKS = {"half": half_network, "small": small_network}
"""Networks of ``StudyTraining`` other than the planned one, from the planned one's keywords."""


def _refuse_odd_patch(patch_size: Sequence[int] | None, strides: Sequence[Sequence[int]]) -> None:
    """A patch that the network cannot halve as often as planned would fail hours later, in the first training step."""
    steps = [math.prod(stage) for stage in zip(*strides, strict=True)]
    if patch_size is not None and any(size % step for size, step in zip(patch_size, steps, strict=True)):
        raise UserError(f"The network down-samples by {' x '.join(map(str, steps))}: give a patch_size of multiples of that; got "
                        f"{' x '.join(map(str, patch_size))}.")


def join_expansions(datasets: Sequence[str], target: str) -> Path:
    """Make one preprocessed dataset of two expansions of the same real dataset, with the synthetic cases of both.

    Files are hard-linked where possible. There is no raw dataset: nnU-Net trains and predicts without one.

    Args:
        datasets: numbers or names of the expansions, of the modes in ``PREFIXES``.
        target: name of the new dataset.

    Returns:
        Its folder below ``nnUNet_preprocessed``; ``dataset.json`` is written last.
    """
    home = nnunet_folder("nnUNet_preprocessed")
    sources, folder = [home / dataset_name(d) for d in datasets], home / target
    plans = read_json(sources[0] / f"{DEFAULT_PLANS}.json")
    identifier = plans["configurations"][DEFAULT_CONFIGURATION]["data_identifier"]
    index, synthetic = _join_synthetic(sources, folder, identifier)
    content = {k: v for k, v in read_json(sources[0] / "dataset.json").items() if k != "dataset"}
    real = sorted(read_json(sources[0] / "dataset.json")["dataset"].keys() - set(content["sbldm"]["synthetic_cases"]))
    for case_id in real:
        for ending in PREPROCESSED_ENDINGS:
            link_or_copy(sources[0] / identifier / f"{case_id}{ending}", folder / identifier / f"{case_id}{ending}")
        truth = f"gt_segmentations/{case_id}{content['file_ending']}"
        copy_file(sources[0] / truth, folder / truth)
    copy_file(sources[0] / "dataset_fingerprint.json", folder / "dataset_fingerprint.json")
    write_json(folder / f"{DEFAULT_PLANS}.json", {**plans, "dataset_name": target})
    index.save(expansion_folder(folder))
    content["sbldm"] = {**content["sbldm"], "synthetic_cases": synthetic}
    write_json(folder / "dataset.json", {**content, "numTraining": len(real) + len(synthetic)})
    return folder


def _join_synthetic(sources: Sequence[Path], folder: Path, identifier: str) -> tuple[SyntheticIndex, list[str]]:
    joined, names = SyntheticIndex(""), []
    for prefix, source in zip(PREFIXES, sources, strict=True):
        index = SyntheticIndex.load(expansion_folder(source))
        if index is None or not index.cases or joined.plans_hash not in ("", index.plans_hash):
            raise UserError(f"{source.name} is no expansion with synthetic cases of the same plans; expand it again.")
        joined.plans_hash = index.plans_hash
        for case_id, generator in index.cases.items():
            name = f"{prefix}_{case_id}"
            for ending in PREPROCESSED_ENDINGS:
                link_or_copy(source / identifier / f"{case_id}{ending}", folder / identifier / f"{name}{ending}")
            seen = (*joined.generators.get(generator, ()), *index.generators[generator])
            joined.add([name], generator, dict.fromkeys(seen))
            names.append(name)
    return joined, names


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of both steps."""
    from nnunet_sbldm.common.commands import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    configure = steps.add_parser("configure")
    configure.add_argument("-d", required=True)
    configure.add_argument("-base", type=json.loads, required=True)
    configure.add_argument("-arms", type=json.loads, required=True)
    join = steps.add_parser("join")
    join.add_argument("-d", nargs=2, required=True)
    join.add_argument("-o", required=True)
    args = parser.parse_args(argv)
    if args.step == "configure":
        run(lambda: configure_arms(args.d, args.base, args.arms))
    else:
        run(lambda: print(f"Joined: {join_expansions(args.d, args.o)}"))


if __name__ == "__main__":
    main()
