"""From settings to samples, one by one: whole cases and edits, with or without the quality gate."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.api.hosts import training_dataset
from nnunet_sbldm.api.sample import Sample, Scene
from nnunet_sbldm.api.settings import SampleSettings
from nnunet_sbldm.common.pictures import Panel
from nnunet_sbldm.editing.edit import EditedDraw
from nnunet_sbldm.editing.maker import EditedCases
from nnunet_sbldm.editing.samples import edit_panels
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, Tally
from nnunet_sbldm.expansion.production import WholeCases, commonest_reasons, is_unfit, judged_draws
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import Draw
from nnunet_sbldm.quality.gate import Verdict
from nnunet_sbldm.types import OUTSIDE, Case, SBLDMWarning, UnfitGeneratorError


@dataclass
class Drawer:
    """Draws samples of one model by one set of settings.

    Attributes:
        model: the model, on the device to use.
        settings: how to draw; what to draw is said with every call.
        hosts: what is edited; None makes whole cases.
        source: folder or file of the model, for the records.
        compares: look for the nearest training case, where these are on this machine.
        tally: what was drawn so far, where the gate decides.
        given_up: records of the cases that the gate gave up, for whoever keeps them.
    """

    model: SBLDMModel
    settings: SampleSettings
    hosts: EditedCases | None = None
    source: Path | None = None
    compares: bool = True
    tally: Tally = field(default_factory=Tally)
    given_up: list[SyntheticRecord] = field(default_factory=list)

    def draw(self, numbers: Iterable[int]) -> Iterator[Sample]:
        """Samples of the cases with these numbers, in order; what the gate gives up is left out.

        Raises:
            NoRoomError: without the gate, no host has room for what is asked.
            UnfitGeneratorError: the gate gives up more than half of ten cases or more.
        """
        requests = (self.settings.request(self.model.plan, n) for n in numbers)
        while batch := list(islice(requests, self.settings.sampler.batch_size)):
            yield from self._gated(batch) if self.settings.use_gate else self._first_draws(batch)

    @cached_property
    def real_cases(self) -> NearestRealCase:
        """The training cases to compare with, where they are on this machine; else none."""
        return NearestRealCase(self.model, training_dataset(self.model) if self.compares else None)

    def _first_draws(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """The first draw of every request with the gate's verdict, which decides nothing."""
        maker: Any = self.hosts or WholeCases(self.model, self.real_cases)
        for drawn in maker.draw(requests, self.settings.sampler):
            record = drawn.record(self.model, self.settings.sampler)
            record = replace(record, nearest_real_case=maker.nearest(drawn))
            verdict = maker.judge(drawn, record)
            record.gate.update(verdict.to_json())
            if self.hosts:
                record.sampler.update(asked=dict(drawn.request.asked), editing=self.hosts.settings.signature())
            yield self._sample(drawn, record, verdict)

    def _gated(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """The first accepted draw of every request, in their order."""
        settings, editing = self.settings, self.hosts.settings if self.hosts else None
        job = ExpansionJob(self.model.plan.fold, self.model, tuple(requests), editing)
        real = self.hosts or self.real_cases
        production = ProductionSettings(settings.sampler, max_attempts=settings.max_attempts)
        accepted = {}
        for drawn, record in judged_draws(job, requests, real, production, self.tally):
            if drawn is not None and not record.gate["reasons"]:
                verdict = Verdict(record.gate["scores"], ())
                accepted[record.case_id] = self._sample(drawn, record, verdict)
            elif drawn is None or drawn.request.attempt + 1 == settings.max_attempts:
                self.given_up.append(record)
        yield from (accepted[r.case_id] for r in requests if r.case_id in accepted)
        self._warn_or_refuse(len(requests) - len(accepted))

    def _warn_or_refuse(self, given_up: int) -> None:
        why = f"most often because of {commonest_reasons(self.tally)}"
        if is_unfit(self.tally):
            raise UnfitGeneratorError(
                f"The quality gate accepts {self.tally.accepted} of {self.tally.accepted + self.tally.rejected} cases of the "
                f"SBLDM in {self.model.folder}, {why}; look at what it makes without the gate."
            )
        if given_up:
            warnings.warn(f"The quality gate gave up {given_up} case(s), {why}.", SBLDMWarning, stacklevel=2)

    def _sample(self, drawn: Draw | EditedDraw, record: SyntheticRecord, verdict: Verdict) -> Sample:
        plan, case = self.model.plan, drawn.case(self.model)
        record = replace(record, generator_path=str(self.source or self.model.folder))
        if isinstance(drawn, EditedDraw):
            scene = scene_of(plan, edit_panels(drawn, self.model))
            return Sample(case, record, verdict, drawn.task.prepared.host.case, _region(drawn), scene)
        return Sample(case, record, verdict, scene=scene_of(plan, [panel_of(case, plan.grid.transpose_forward)]))


def scene_of(plan: GeneratorPlan, panels: Sequence[Panel]) -> Scene:
    """Panels, with the names of the labels that a model makes."""
    names = {v: t.name for t in plan.targets if len(t.label_values) == 1 for v in t.label_values}
    return Scene(tuple(panels), names, plan.grid.transpose_forward)


def panel_of(case: Case, axes: tuple[int, int, int]) -> Panel:
    """First channel of a case, plan order; ``axes`` are nnU-Net's ``transpose_forward``."""
    label = np.where((case.image != 0).any(axis=0), case.label, OUTSIDE).astype(np.int16)
    image, turned = case.image[0].transpose(axes), case.geometry.array_axes(axes)
    spacing_mm = [case.geometry.spacing_mm[axis] for axis in axes]
    return Panel(image, label.transpose(axes), spacing_mm, case.case_id, axes=turned)


def _region(drawn: EditedDraw) -> np.ndarray:
    """Bool [Z, Y, X], voxels of the written case that may differ from the host's."""
    host = drawn.task.prepared.host
    region = np.zeros(host.case.label.transpose(host.axes).shape, bool)
    region[host.box] = drawn.native_weight > 0
    return region.transpose(np.argsort(host.axes))
