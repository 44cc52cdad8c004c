"""A trained model as it was loaded: what it is, what may be asked of it, and how it is judged."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from nnunet_sbldm.api.conditions import Conditions
from nnunet_sbldm.api.evaluation import EditEvaluation, Evaluation
from nnunet_sbldm.api.hosts import dataset_of
from nnunet_sbldm.api.settings import suited_sampler
from nnunet_sbldm.common.devices import chosen_device
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.generator.card import ModelCard, is_non_commercial, read_card
from nnunet_sbldm.generator.checkpoint import SBLDMModel, load_model
from nnunet_sbldm.generator.sharing import unpack_model
from nnunet_sbldm.generator.zoo import find_model, is_shared, name_of
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.evaluation.settings import EvaluationSettings


class LoadedModel:
    """A trained model, without what draws from it; users have its subclass ``SBLDM``.

    Attributes:
        trained: the networks, the plan, and the list of training cases.
        name: its name, or that of its folder.
        source: its folder, or the file that it was loaded from.
    """

    def __init__(self, model: SBLDMModel, name: str) -> None:
        self.trained, self.name, self.source = model, name, model.folder
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def load(cls, model: str | Path, device: str | None = None) -> Self:
        """Load a trained model.

        Args:
            model: name of a bundled or imported model (``sbldm_models`` lists them), folder of a trained one, or a ``.zip``
                that ``sbldm_export`` wrote, which is checked before it is loaded.
            device: ``cpu``, ``cuda`` or ``mps``; None takes a GPU if there is one.

        Raises:
            UserError: no such model, a damaged one, or no such device.
        """
        chosen = torch.device(chosen_device(device))
        if Path(model).suffix == ".zip" and Path(model).is_file():
            return cls._load_zip(Path(model), chosen)
        folder = find_model(model)
        return cls(load_model(folder, chosen), name_of(folder))

    @classmethod
    def _load_zip(cls, file: Path, device: torch.device) -> Self:
        """A shared model, unpacked into a folder that lives as long as the model."""
        unpacked = tempfile.TemporaryDirectory(prefix="sbldm_")
        folder = Path(unpacked.name) / file.stem
        unpack_model(file, folder)
        model = cls(load_model(folder, device), file.stem)
        model._unpacked, model.source = unpacked, file.resolve()
        return model

    # --- what it is ---

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.trained.folder

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.trained.device

    @property
    def card(self) -> ModelCard:
        """What it knows, what it may be used for, and how well it does."""
        return read_card(self.folder)

    @property
    def conditions(self) -> Conditions:
        """What may be asked of it, with unit and range of the training cases; printed as a table."""
        return Conditions.of(self.trained.plan)

    def __repr__(self) -> str:
        plan, card = self.trained.plan, self.card
        channels, labels = ", ".join(plan.channel_names), ", ".join(t.name for t in plan.targets)
        licence = f"licence {card.whole_licence or 'not stated'}{', non-commercial use only' * is_non_commercial(card)}"
        size = " x ".join(f"{n:g}" for n in card.field_of_view_mm)
        return f"<SBLDM {self.name}: {channels} with {labels}, {size} mm, {licence}>"

    def sampler(self, sampler: SamplerConfig, batch_size: int | None = None) -> SamplerConfig:
        """The sampler with the arithmetic and batch size that suit the model's device."""
        return suited_sampler(sampler, self.device.type, batch_size)

    # --- judging ---

    def evaluate(
        self,
        dataset: int | str | None = None,
        *,
        n: int | None = None,
        plans: str | None = None,
        folder: str | Path | None = None,
        settings: EvaluationSettings | None = None,
    ) -> Evaluation:
        """Compare synthetic cases with real ones that the model never saw; what ``sbldm_evaluate`` does.

        Args:
            dataset: id or name; None is the dataset that the model was trained on.
            n: number of synthetic cases; None takes that of ``settings``, 64.
            plans: plans identifier; None is the model's.
            folder: where the report is written; None is ``evaluation`` in the model's folder.
            settings: sampler, seed, gate, goals and all else.

        Returns:
            The numbers, with :attr:`Evaluation.table`.

        Raises:
            UserError: another dataset or preprocessing, a fold without held-out cases, or one of them was seen in training.
            UnfitGeneratorError: the quality gate accepts fewer than two cases.

        Examples:
            >>> SBLDM.load("Dataset505_LGGFlair/SBLDM__nnUNetPlans__small/fold_0").evaluate(n=64).table
        """
        from nnunet_sbldm.evaluation.evaluate import evaluate
        from nnunet_sbldm.evaluation.settings import EvaluationSettings

        output = self._output(folder, "evaluation")
        settings = settings or EvaluationSettings(sampler=self.sampler(SamplerConfig()))
        settings = settings if n is None else replace(settings, num_cases=n)
        return Evaluation(evaluate(self.trained, dataset_of(self.trained, dataset, plans), settings, output), output)

    def evaluate_edits(
        self,
        dataset: int | str | None = None,
        *,
        n: int | None = None,
        plans: str | None = None,
        editing: EditSettings | None = None,
        folder: str | Path | None = None,
        settings: EvaluationSettings | None = None,
    ) -> EditEvaluation:
        """Compare edits with real cases: size and place, borders, texture; what ``sbldm_evaluate -mode edit`` does.

        Args:
            dataset: id or name of the dataset of the hosts; None is the one that the model was trained on.
            n: number of edits; None takes that of ``settings``, 64.
            plans: plans identifier; None is the model's.
            editing: kinds and hosts; None takes all training cases of the fold.
            folder: where the report is written; None is ``edit_evaluation`` in the model's folder.
            settings: sampler, seed and diversity; nothing else of them is looked at.
        """
        from nnunet_sbldm.evaluation.edits import evaluate_edits
        from nnunet_sbldm.evaluation.settings import EvaluationSettings

        output = self._output(folder, "edit_evaluation")
        settings = settings or EvaluationSettings(sampler=self.sampler(EDIT_SAMPLER, EDIT_SAMPLER.batch_size))
        settings = settings if n is None else replace(settings, num_cases=n)
        opened = dataset_of(self.trained, dataset, plans)
        result = evaluate_edits(self.trained, opened, editing or EditSettings(()), settings, output)
        return EditEvaluation(result, output)

    def _output(self, folder: str | Path | None, name: str) -> Path:
        """The folder that is given, or one in that of the model; a shared model stays as it came."""
        if folder is None and is_shared(self.folder):
            raise UserError(f"The SBLDM in {self.folder} is a shared one and stays as it came; say with -o where to write.")
        return self.folder / name if folder is None else Path(folder)
