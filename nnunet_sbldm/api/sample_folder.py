"""A folder of samples: filled one by one, gone on with by the same request, never mixed with those of another.

``ID_0000.nii.gz``, ``ID.nii.gz`` and, written last, ``ID.json`` are a sample; ``rejected/ID.json`` is the record of a case that
the quality gate gave up; ``samples.json`` says what was asked; ``montage.png`` shows the first few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO

from nnunet_sbldm.api.drawing import Drawer, panel_of, scene_of
from nnunet_sbldm.api.sample import Sample, Scene
from nnunet_sbldm.api.samples import MAX_CASES_SHOWN, MONTAGE, montage_of
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.pictures import save_figure
from nnunet_sbldm.data.formats import geometry_of
from nnunet_sbldm.expansion.ledger import NO_ROOM, REJECTED, ROUNDING
from nnunet_sbldm.quality.gate import rules_of
from nnunet_sbldm.types import Case, NoRoomError, UnfitGeneratorError, UserError

REQUEST = "samples.json"


@dataclass(frozen=True)
class SampleFolder:
    """A folder, and the drawer whose samples it holds.

    Attributes:
        folder: where the samples are.
        drawer: draws them.
    """

    folder: Path
    drawer: Drawer

    def fill(self) -> Iterator[Sample]:
        """Write every sample that is not there yet; each is handed on once it is written.

        Raises:
            UserError: the folder holds samples that were asked for otherwise, or that do not say what was asked.
            NoRoomError: no host has room for any edit that is asked for.
            UnfitGeneratorError: the quality gate gave up more than half of ten cases or more, or all.
        """
        self._claim()
        scenes: dict[str, Scene] = {}
        try:
            for sample in self.drawer.draw(n for n, c in enumerate(self.asked_ids) if not self._is_decided(c)):
                sample.save(self.folder)
                if len(scenes) < MAX_CASES_SHOWN:
                    scenes[sample.case_id] = sample.scene
                yield sample
        finally:
            for record in self.drawer.given_up:
                record.save(self.folder / REJECTED)
        shown = self.case_ids[:MAX_CASES_SHOWN]
        if not shown:
            raise self._why_none()
        save_figure(montage_of([scenes.get(c) or self._scene(c) for c in shown]), self.montage)

    @property
    def montage(self) -> Path:
        """The picture of the first few samples."""
        return self.folder / MONTAGE

    @cached_property
    def asked_ids(self) -> list[str]:
        """Ids of all cases that are asked for, in order."""
        settings, plan = self.drawer.settings, self.drawer.model.plan
        return [settings.request(plan, n).case_id for n in range(settings.num_cases)]

    @property
    def case_ids(self) -> list[str]:
        """Ids of the samples that are there, in order."""
        return [c for c in self.asked_ids if (self.folder / f"{c}.json").is_file()]

    @property
    def num_decided(self) -> int:
        """How many of the cases are there, or were given up."""
        return sum(map(self._is_decided, self.asked_ids))

    def _claim(self) -> None:
        """Note what is asked; another request must not be mixed with it."""
        wanted = self._request()
        if (self.folder / REQUEST).is_file():
            if read_json(self.folder / REQUEST) != wanted:
                raise UserError(f"{self.folder} holds samples that were asked for otherwise: choose another folder.")
        elif any(self.folder.glob("sbldm_*.json")):
            raise UserError(f"{self.folder} holds samples that do not say what was asked: choose another folder.")
        else:
            write_json(self.folder / REQUEST, wanted)

    def _request(self) -> dict[str, Any]:
        """What decides the samples, but for their number and for rounding."""
        settings, hosts = self.drawer.settings, self.drawer.hosts
        entry = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(settings.entry).items() if k != "count"}
        return {
            "generator": self.drawer.model.hash,
            "asked": entry,
            "seed": settings.seed,
            "diversity": settings.diversity,
            "sampler": {k: v for k, v in asdict(settings.sampler).items() if k not in ROUNDING},
            "gate": settings.use_gate,
            "max_attempts": settings.max_attempts,
            "editing": hosts.settings.signature() if hosts else None,
        }

    def _why_none(self) -> Exception:
        """Why there is no sample at all."""
        verdicts = [read_json(self.folder / REJECTED / f"{c}.json")["gate"] for c in self.asked_ids]
        if all(rules_of(verdict) == [NO_ROOM] for verdict in verdicts):
            return NoRoomError(verdicts[0]["reasons"][0])
        return UnfitGeneratorError(
            f"The quality gate gave up every one of {len(verdicts)} case(s) of the SBLDM in {self.drawer.model.folder}; why is "
            f"in {self.folder / REJECTED}. Choose another folder to take every first draw with --no_gate."
        )

    def _is_decided(self, case_id: str) -> bool:
        """Whether a case is written, or was given up; its record comes last."""
        return (self.folder / f"{case_id}.json").is_file() or (self.folder / REJECTED / f"{case_id}.json").is_file()

    def _scene(self, case_id: str) -> Scene:
        """The picture of a sample, from its files: an earlier command may have written them."""
        plan = self.drawer.model.plan
        images = [str(self.folder / f"{case_id}_{c:04d}.nii.gz") for c in range(len(plan.channel_names))]
        image, properties = NibabelIO().read_images(images)
        label, _ = NibabelIO().read_seg(str(self.folder / f"{case_id}.nii.gz"))
        case = Case(case_id, image.astype(np.float32), label[0].astype(np.int16), geometry_of(properties))
        axes = plan.grid.transpose_forward
        return scene_of(plan, (panel_of(case, axes),))
