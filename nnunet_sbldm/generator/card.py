"""The model card: what a generator knows and may be used for, as ``card.json`` and ``README.md`` beside its weights.

Written by the commands from what is known; no id of a case is in it. It is not part of the generator's hash.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_sbldm.common.files import from_json, read_json, write_atomically, write_json
from nnunet_sbldm.common.pages import render
from nnunet_sbldm.generator.old_cards import with_ids
from nnunet_sbldm.generator.zoo import WEIGHTS, is_shared
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.generator.plan import GeneratorPlan

CARD, README = "card.json", "README.md"
FORMAT_VERSION = 1
NOT_STATED = "not stated"
SHOWN = {
    "reconstruction": ("dice",),
    "condition": ("volume_r", "volume_error", "centroid_error"),
    "masks": ("volume_ml", "sphericity", "specks"),
    "coherence": ("neighbour_ssim", "gradient_ratio"),
    "features": ("frechet", "kid", "coverage"),
    "diversity": ("ms_ssim",),
    "memorisation": ("distance_ratio", "smallest_distance", "flagged"),
}
"""Results of an evaluation that a card shows, by section: their measures, see :func:`measure_of`."""
INTENDED_USE = (
    "Synthetic pairs of image and mask that join real training cases of a segmentation network such as nnU-Net.",
    "Research: comparing training with and without synthetic cases on real cases that the model has not seen.",
    "A start for fine-tuning on a few cases of one's own (sbldm_train -init).",
)
LIMITS = (
    "Not for diagnosis, nor for any decision about a patient; what it makes shows nobody.",
    "Synthetic cases are for training alone: never validate or test on them.",
    "It knows only the field of view, spacing, channels, contrast, labels and sizes of its training cases, and repeats their "
    "biases, those of their annotation included.",
    "Fine detail and the roughness of outlines are drawn at random, not resolved; look at a montage before use.",
    "Whether its cases help is for real held-out cases to say (sbldm_ablation); they may also harm.",
    "The list of training cases serves to refuse leaks. Salted hashes keep it from being read; they do not keep somebody who has "
    "a case, or guesses its id, from testing whether it was used.",
)


@dataclass(frozen=True)
class ModelCard:
    """What is said of a generator; lengths are in the order x, y, z of the file.

    Attributes:
        title: one line.
        data: what it was trained on.
        licence: of the weights, as the data's licence asks for.
        reference: where the data are from.
        preset: name of the preset.
        num_steps: training steps of autoencoder and denoiser.
        num_parameters: likewise.
        library_version: version of this package that trained it.
        initial: name of the model that it was fine-tuned from; empty if none.
        initial_licence: licence of that model; empty if none was stated.
        channels: image channels.
        labels: foreground labels or regions.
        grid: voxels.
        spacing_mm: voxel size.
        field_of_view_mm: grid times spacing.
        num_training_cases: real cases that touched any part of it.
        is_salted: whether these are listed as salted hashes.
        conditions: per label or region, the range of its sizes in the training cases.
        evaluation: numbers of ``sbldm_evaluate``; empty before it has run.
        is_exported: whether this is a shared copy, which may have been rounded since.
        intended_use: one sentence each.
        limits: likewise.
    """

    title: str
    data: str
    licence: str
    reference: str
    preset: str
    num_steps: tuple[int, ...]
    num_parameters: tuple[int, ...]
    library_version: str
    initial: str
    initial_licence: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    grid: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    field_of_view_mm: tuple[float, ...]
    num_training_cases: int
    is_salted: bool
    conditions: tuple[dict[str, Any], ...]
    evaluation: dict[str, Any] = field(default_factory=dict)
    is_exported: bool = False
    intended_use: tuple[str, ...] = INTENDED_USE
    limits: tuple[str, ...] = LIMITS

    @property
    def whole_licence(self) -> str:
        """The licence, and that of the initial model, whose weights are part of this one; empty if none is stated."""
        own = "" if self.licence == NOT_STATED else self.licence
        return "; ".join(dict.fromkeys(v for v in (own, self.initial_licence) if v))


# --- making --------------------------------------------------------------------------------------------------------


def make_card(folder: Path, plan: GeneratorPlan, dataset_json: Mapping[str, Any], seen: Sequence[Mapping[str, Any]]) -> ModelCard:
    """The card of a generator that has not been evaluated.

    Args:
        folder: where its weights are.
        plan: its plan.
        dataset_json: of the dataset that it was trained on; licence, description and reference are taken from it.
        seen: its training cases, as ``training_cases.json`` has them.
    """
    back = sorted(range(3), key=plan.grid.transpose_forward.__getitem__)  # plan order -> z, y, x
    grid, spacing = [plan.grid.shape[a] for a in reversed(back)], [plan.grid.spacing_mm[a] for a in reversed(back)]
    name = str(dataset_json.get("name") or plan.dataset_name)
    about = [name, str(dataset_json.get("description") or ""), str(dataset_json.get("release") or "")]
    return ModelCard(
        title=f"SBLDM of {name}",
        data=_one_line("; ".join(a for a in about if a)),
        licence=_one_line(dataset_json.get("licence") or dataset_json.get("license") or NOT_STATED),
        reference=_one_line(dataset_json.get("reference") or ""),
        preset=plan.preset.name,
        num_steps=(plan.preset.autoencoder_stage.num_steps, plan.preset.denoiser_stage.num_steps),
        num_parameters=tuple(num_parameters(folder / w) for w in WEIGHTS),
        library_version=plan.library_version,
        initial=plan.initial.name,
        initial_licence=plan.initial.licence,
        channels=plan.channel_names,
        labels=tuple(t.name for t in plan.targets),
        grid=tuple(grid),
        spacing_mm=tuple(round(s, 3) for s in spacing),
        field_of_view_mm=tuple(round(n * s, 1) for n, s in zip(grid, spacing, strict=True)),
        num_training_cases=len(seen),
        is_salted=any(c.get("salt") for c in seen),
        conditions=tuple(_sizes(plan, t.name) for t in plan.targets),
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _sizes(plan: GeneratorPlan, label: str) -> dict[str, Any]:
    """Share of the training cases that have a label, and the ranges of its sizes."""
    names = plan.condition_scaling.names

    def column(feature: str) -> list[float]:
        values = (row[names.index(f"{label}/{feature}")] for row in plan.condition_table)
        return [v for v in values if v is not None and math.isfinite(v)]

    def spread(values: Sequence[float]) -> list[float]:
        return [round(min(values), 3), round(max(values), 3)] if values else []

    return {
        "label": label,
        "present_share": sum(column("presence")) / max(len(plan.condition_table), 1),
        "volume_ml": spread(column("volume_ml")),
        "extent_mm": spread([max(e) for e in zip(*(column(f"extent_{a}_mm") for a in "dhw"), strict=True)]),
        "num_components": spread(column("num_components")),
    }


def num_parameters(weights: Path) -> int:
    """Numbers in a safetensors file, of which only the header is read."""
    from safetensors import safe_open

    with safe_open(weights, "np") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def with_evaluation(card: ModelCard, result: Mapping[str, Any]) -> ModelCard:
    """The card with what an ``evaluation.json`` says; ids of cases stay out."""
    kept = ("id", "name", "value", "floor", "target", "reached", "num_cases")
    metrics = [
        {"section": section, **{k: r[k] for k in kept}}
        for section, measures in SHOWN.items()
        for r in result["sections"].get(section, ())
        if measure_of(r) in measures
    ]
    numbers = result["num_cases"]
    evaluation = {
        "generator_hash": result["generator"]["hash"],
        **{f"num_{k}": numbers[k] for k in ("synthetic", "held_out", "training")},
        "use_gate": result["gate"]["used"],
        "accepted_share": result["gate"]["first_draws_accepted_share"],
        "num_steps": result["sampler"]["num_steps"],
        "guidance_scale": result["sampler"]["guidance_scale"],
        "metrics": metrics,
    }
    return replace(card, evaluation=evaluation)


def measure_of(result: Mapping[str, Any]) -> str:
    """What a result of an evaluation measures, such as ``volume_r``: its id without the label, region or kind it is of."""
    return str(result["id"]).rsplit("/", 1)[-1]


# --- reading and writing -------------------------------------------------------------------------------------------


def read_card(folder: Path) -> ModelCard:
    """The card of a finished generator; made from what else is known where there is none yet.

    Raises:
        UserError: a card that this version cannot read, or none and too little to make one from.
    """
    if not (folder / CARD).is_file():
        from nnunet_sbldm.generator.plan import GeneratorPlan

        missing = [n for n in ("generator.json", "dataset.json", "training_cases.json") if not (folder / n).is_file()]
        if missing:
            raise UserError(f"{folder} is no whole SBLDM: {', '.join(missing)} missing; train or import it again.")
        plan = GeneratorPlan.from_json(read_json(folder / "generator.json"))
        return make_card(folder, plan, read_json(folder / "dataset.json"), read_json(folder / "training_cases.json"))
    import jinja2

    try:
        value = read_json(folder / CARD)
        if value["format"] != FORMAT_VERSION:
            raise UserError(f"{folder / CARD} has format {value['format']}; this version reads {FORMAT_VERSION}.")
        card = from_json(ModelCard, value)
        card = replace(card, evaluation=with_ids(card.evaluation))
        rendered(card)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jinja2.TemplateError) as e:
        raise UserError(f"{folder / CARD} is no model card that this version can read ({e}).") from e
    return card


def write_card(folder: Path, card: ModelCard) -> None:
    """Write ``card.json`` and ``README.md``."""
    write_json(folder / CARD, {"format": FORMAT_VERSION, **asdict(card)})
    write_atomically(folder / README, lambda tmp: tmp.write_text(rendered(card), encoding="utf-8"))


def refresh_card(folder: Path, result: Mapping[str, Any]) -> bool:
    """Put an evaluation into the card of a model; a shared model, or one in a read-only folder, keeps the card it has.

    Returns:
        Whether the card was written.
    """
    if is_shared(folder):
        return False
    try:
        write_card(folder, with_evaluation(read_card(folder), result))
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return False
    return True


def rendered(card: ModelCard) -> str:
    """The card as Markdown."""
    return render("model_card.md.j2", {"card": card, "non_commercial": is_non_commercial(card)})


def is_non_commercial(card: ModelCard) -> bool:
    """Whether the licence has Creative Commons' clause NC, or says so in words."""
    return re.search(r"\bNC\b|non-?commercial", card.whole_licence, re.IGNORECASE) is not None


def licence_note(folder: Path) -> str:
    """The licence of a model in a few words, for the commands that use it; empty where none is stated."""
    card = read_card(folder)
    if not card.whole_licence:
        return ""
    return f"{card.title}: licence {card.whole_licence}{', non-commercial use only' if is_non_commercial(card) else ''}"
