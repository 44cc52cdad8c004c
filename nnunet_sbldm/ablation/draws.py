"""What the trainings of a study really drew, from the audits of the trainer: the share of synthetic cases, asked and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_sbldm.ablation.jobs import ArmRun, DatasetIds, model_folder
from nnunet_sbldm.ablation.setup import IDS_FILE
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.mixing.audit import read_audit_file

SHARE_TOLERANCE, FEW_DRAWS = 0.02, 4
"""A share may miss what was asked by the first, and by the second over the number of draws; the trainer keeps it closer."""


@dataclass(frozen=True)
class RunDraws:
    """What one training drew.

    Attributes:
        arm: its arm.
        num_cases: its real training cases.
        fold: its draw of training cases.
        seed: its repetition.
        draws: cases drawn, real and synthetic.
        asked: share of synthetic cases that was asked, over all epochs.
        drawn: share that was drawn.
        empty_epochs: epochs at the start without any synthetic case though some were asked.
        reason: why the generator that runs beside the training made no cases, if so.
    """

    arm: str
    num_cases: int
    fold: int
    seed: int
    draws: int
    asked: float
    drawn: float
    empty_epochs: int
    reason: str

    @property
    def differs(self) -> bool:
        """Whether the share drawn is another one than asked."""
        return abs(self.drawn - self.asked) > SHARE_TOLERANCE + FEW_DRAWS / self.draws


def draws_of(study: Study, runs: Sequence[ArmRun], folder: Path) -> list[RunDraws]:
    """Draws of the runs that left an audit."""
    ids, found = DatasetIds(read_json(folder / IDS_FILE)), []
    for run in runs:
        model = model_folder(study, ids, run, folder)
        records = [r for r in read_audit_file(model) if r["draws"]] if model is not None else []
        if records:
            found.append(_summed(run, records))
    return found


def _summed(run: ArmRun, records: Sequence[dict[str, Any]]) -> RunDraws:
    draws = sum(r["draws"] for r in records)
    asked = sum(r["draws"] * r["asked"] for r in records) / draws
    wanted = [r for r in records if r["asked"]]
    first = next((i for i, r in enumerate(wanted) if r["synthetic_draws"]), len(wanted))
    reasons = [r["source"]["reason"] for r in records if r.get("source", {}).get("reason")]
    return RunDraws(run.arm.name, run.subset.num_cases, run.subset.fold, run.subset.seed, draws, asked,
                    sum(r["synthetic_draws"] for r in records) / draws, first, reasons[-1] if reasons else "")


def shares(draws: Sequence[RunDraws], arm: str, num_cases: int) -> dict[str, float | int] | None:
    """Asked and drawn share of an arm at one number of cases, over all its runs, and the lowest and highest of a run."""
    own = [d for d in draws if (d.arm, d.num_cases) == (arm, num_cases)]
    if not own:
        return None
    total = sum(d.draws for d in own)
    return {
        "asked": sum(d.draws * d.asked for d in own) / total, "drawn": sum(d.draws * d.drawn for d in own) / total,
        "lowest": min(d.drawn for d in own), "highest": max(d.drawn for d in own), "num_runs": len(own),
    }


def warnings_of(draws: Sequence[RunDraws], runs: Sequence[ArmRun]) -> list[str]:
    """One sentence per arm and number of cases whose trainings drew another share than asked, or whose draws are unknown."""
    warnings = []
    for arm, n in dict.fromkeys((r.arm.name, r.subset.num_cases) for r in runs):
        own = [r for r in runs if (r.arm.name, r.subset.num_cases) == (arm, n)]
        known = [d for d in draws if (d.arm, d.num_cases) == (arm, n)]
        if own[0].arm.ratio and len(known) < len(own):
            warnings.append(f"{arm} at {n}: {len(own) - len(known)} of {len(own)} trainings left no audit, so that it is not "
                            "known what they drew.")
        wrong = [d for d in known if d.differs]
        if wrong:
            warnings.append(_difference(arm, n, wrong, len(known)))
    return warnings


def _difference(arm: str, num_cases: int, wrong: Sequence[RunDraws], num_known: int) -> str:
    worst = max(wrong, key=lambda d: abs(d.drawn - d.asked))
    text = (f"{arm} at {num_cases}: {len(wrong)} of {num_known} trainings drew another share of synthetic cases than asked, "
            f"at worst {percent(worst.drawn)} instead of {percent(worst.asked)} (fold {worst.fold}, seed {worst.seed})")
    if all(d.drawn == 0 for d in wrong):
        text += "; without any, such a training is one on real cases alone, and this row says nothing of the arm"
    if worst.empty_epochs:
        text += f"; none was there in the first {worst.empty_epochs} epoch(s): an arm on_the_fly can wait for them (wait_s)"
    return text + (f"; the generator said: {worst.reason}." if worst.reason else ".")


def percent(share: float) -> str:
    """As in tables."""
    return f"{100 * share:.1f} %"
