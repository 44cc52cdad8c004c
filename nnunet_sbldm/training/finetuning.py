"""Fine-tuning: a generator that starts from the weights of another one, and goes on with a few cases of one's own.

The cases decide grid, spacing, intensities, conditions and gate, as ever. The initial model decides the architecture, so that
its weights fit; what the size of a grid would decide about the networks is taken from it too. Channels and labels are matched
by name, and weights that belong to one of them move with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from nnunet_sbldm.common.files import write_atomically
from nnunet_sbldm.data.conditions import FEATURES, ConditionScaling, Target
from nnunet_sbldm.data.folds import MAX_CASES_NAMED, CaseFingerprint, find_leaks
from nnunet_sbldm.data.labels import LabelEncoding
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.plan import GeneratorPlan, InitialModelRecord, layout_of
from nnunet_sbldm.generator.presets import Preset, lengthened
from nnunet_sbldm.types import UserError

DEFAULT_LENGTH = 0.25
"""Steps of fine-tuning, as share of those of the initial model."""
MAX_SCALED = 5.0
"""Conditions farther out, in standard deviations of the initial model's, are scaled by the own cases instead."""


@dataclass(frozen=True)
class Correspondence:
    """For each of the own channels, classes, targets and condition features the index of the initial model's."""

    channels: tuple[int, ...]
    classes: tuple[int, ...]
    targets: tuple[int, ...]
    features: tuple[int, ...]


@dataclass(frozen=True)
class InitialModel:
    """What fine-tuning starts from.

    Attributes:
        model: the initial model, on the CPU.
        name: its name.
        renamed: own name of a channel or label -> that of the initial model, where they differ.
        licence: its licence; empty if none is stated.
    """

    model: SBLDMModel
    name: str
    renamed: Mapping[str, str]
    licence: str = ""

    def preset(self, length: float = DEFAULT_LENGTH) -> Preset:
        """The initial model's preset with ``length`` times its steps, under a name of its own."""
        preset = self.model.plan.preset
        name = f"{preset.name.split('_')[0]}_from_{self.name}{'' if length == DEFAULT_LENGTH else f'_x{length:g}'}"
        return replace(lengthened(preset, length), name=name)

    def seen_with(self, own: Sequence[CaseFingerprint]) -> list[CaseFingerprint]:
        """All real cases that the result has seen: those of the initial model, and the own ones."""
        return list(dict.fromkeys((*self.model.seen, *own)))

    def refuse_leaks(self, validation: Sequence[CaseFingerprint], fold: int | str) -> None:
        """Raise a :class:`UserError` if the initial model has seen one of the cases."""
        leaks = find_leaks(self.model.seen, validation)
        if leaks:
            named = ", ".join(str(leak) for leak in leaks[:MAX_CASES_NAMED])
            raise UserError(
                f"The initial SBLDM {self.name} was trained on {len(leaks)} of the validation cases of fold {fold}: {named}; "
                "what starts from it would leak them into training, so start from another one, or from scratch without -init."
            )

    def match(
        self, dataset_name: str, channels: Sequence[str], encoding: LabelEncoding, targets: Sequence[Target]
    ) -> Correspondence:
        """Match channels and labels of a dataset with those of the initial model.

        Raises:
            UserError: they do not match one to one; both sides are listed.
        """
        plan = self.model.plan
        own = {"channels": list(channels), "labels": [t.name for t in targets]}
        theirs = {"channels": list(plan.channel_names), "labels": [t.name for t in plan.targets]}
        unlike = f"The initial SBLDM {self.name} makes {_listed(theirs)}, but {dataset_name} has {_listed(own)}"
        for mine, its in self.renamed.items():
            if not any(mine in own[k] and its in theirs[k] for k in own):
                raise UserError(f"{unlike}: -map {mine}={its} names no channel of both, and no label of both.")
        found = {k: _indices([self.renamed.get(n, n) for n in own[k]], theirs[k]) for k in own}
        classes = _classes(encoding, targets, plan, found["labels"])
        if any(sorted(found[k]) != list(range(len(theirs[k]))) for k in own) or classes is None:
            raise UserError(f"{unlike}: they must match one to one; say which is which with -map YOURS=ITS, or leave -init out.")
        features = _features(targets, plan, found["labels"])
        return Correspondence(tuple(found["channels"]), classes, tuple(found["labels"]), features)

    def match_plan(self, plan: GeneratorPlan) -> Correspondence:
        """As :meth:`match`, with what a plan says of its dataset."""
        return self.match(plan.dataset_name, plan.channel_names, plan.encoding, plan.targets)

    def adopted(self, plan: GeneratorPlan) -> GeneratorPlan:
        """A plan made from the own cases, changed so that the weights of the initial model fit and mean the same."""
        initial = self.model.plan
        return replace(
            plan,
            grid=plan.grid.with_downsampling(initial.grid.downsampling),
            layout=layout_of(initial),
            condition_scaling=_scaling(plan, initial.condition_scaling, self.match_plan(plan).features),
            initial=InitialModelRecord(self.name, self.model.hash, self.licence),
        )

    def save_weights(self, plan: GeneratorPlan, folder: Path) -> None:
        """Write the weights that training starts from, as :func:`initial_weights` names them."""
        matched = self.match_plan(plan)
        networks = {
            "autoencoder": autoencoder_weights(self.model.autoencoder.state_dict(), matched),
            "denoiser": denoiser_weights(self.model.denoiser.state_dict(), matched),
        }
        for stage, weights in networks.items():
            tensors = {k: v.contiguous() for k, v in weights.items()}
            write_atomically(initial_weights(folder, stage), partial(save_file, tensors))


def initial_weights(folder: Path, stage: str) -> Path:
    """Where in the working folder of a training the weights are that a stage starts from, if it does not start from scratch."""
    return folder / f"initial_{stage}.safetensors"


def _listed(names: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(f"the {kind} {', '.join(n)}" for kind, n in names.items())


# --- matching ------------------------------------------------------------------------------------------------------


def _indices(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where each name is, in the same letters or else in any; equal names in their order; -1 if nowhere."""
    found: list[int] = []
    for name in wanted:
        same = [i for i, n in enumerate(names) if n == name and i not in found]
        alike = [i for i, n in enumerate(names) if n.lower() == name.lower() and i not in found]
        found.append(next(iter([*same, *alike]), -1))
    return found


def _classes(
    encoding: LabelEncoding, targets: Sequence[Target], plan: GeneratorPlan, matched: Sequence[int]
) -> tuple[int, ...] | None:
    """Class index of the initial model for every own one: the outside, then values that belong to the same targets."""
    own = [frozenset(matched[i] for i, t in enumerate(targets) if v in t.label_values) for v in encoding.values[1:]]
    free = [frozenset(i for i, t in enumerate(plan.targets) if v in t.label_values) for v in plan.encoding.values[1:]]
    if sorted(map(sorted, own)) != sorted(map(sorted, free)):
        return None
    found = [0]
    for signature in own:
        index = next(i for i, s in enumerate(free) if s == signature and i + 1 not in found)
        found.append(index + 1)
    return tuple(found)


def _features(targets: Sequence[Target], plan: GeneratorPlan, matched: Sequence[int]) -> tuple[int, ...]:
    """Index of the initial model's feature for every own one; the features of the anatomy come last in both."""
    if -1 in matched:
        return ()
    blocks = [range(m * len(FEATURES), (m + 1) * len(FEATURES)) for m in matched]
    anatomy = range(len(plan.targets) * len(FEATURES), len(plan.condition_scaling.names))
    return tuple(i for block in (*blocks, anatomy) for i in block)


def _scaling(plan: GeneratorPlan, initial: ConditionScaling, features: Sequence[int]) -> ConditionScaling:
    """The initial model's scaling, so that tau's inputs mean the same; the own one where the own cases are far outside it.

    A feature that never varied in the initial model has as good as no standard deviation there, and tau knows nothing of it.
    """
    own = plan.condition_scaling
    theirs = ConditionScaling(own.names, tuple(initial.mean[i] for i in features), tuple(initial.std[i] for i in features))
    farthest = np.nan_to_num(np.abs(theirs.scaled(plan.condition_model.table))).max(axis=0)
    is_near = farthest <= MAX_SCALED
    mean, std = (np.where(is_near, kept, own) for kept, own in ((theirs.mean, own.mean), (theirs.std, own.std)))
    return ConditionScaling(own.names, tuple(mean.tolist()), tuple(std.tolist()))


# --- weights -------------------------------------------------------------------------------------------------------


def autoencoder_weights(weights: Mapping[str, Tensor], matched: Correspondence) -> dict[str, Tensor]:
    """Weights of the first stage for the own order of channels and classes."""
    channels, classes = list(matched.channels), list(matched.classes)
    entering = [*channels, *(len(channels) + c for c in classes)]
    return {
        **weights,
        "conv_in.weight": weights["conv_in.weight"][:, entering],
        **{f"image_head.{k}": weights[f"image_head.{k}"][channels] for k in ("weight", "bias")},
        **{f"label_head.{k}": weights[f"label_head.{k}"][classes] for k in ("weight", "bias")},
    }


def denoiser_weights(weights: Mapping[str, Tensor], matched: Correspondence) -> dict[str, Tensor]:
    """Weights of the second stage for the own order of targets; the drawings of the targets enter last."""
    features, first, tau = list(matched.features), weights["conv_in.within.weight"], weights["tau.mlp.0.weight"]
    num_others = first.shape[1] - len(matched.targets)
    entering = [*range(num_others), *(num_others + t for t in matched.targets)]
    return {
        **weights,
        "conv_in.within.weight": first[:, entering],
        "tau.missing": weights["tau.missing"][features],
        "tau.mlp.0.weight": tau[:, [*features, *(len(features) + f for f in features)]],
    }
