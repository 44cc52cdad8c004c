"""Share of synthetic cases that each training of a study drew, from the audits of the trainer, and the share that was asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_sbldm.ablation.runs import IDS_FILE, ArmRun, DatasetIds, StudyRun, find_model_folder
from nnunet_sbldm.ablation.scores import ROW, RUN
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.mixing.audit import read_audit_file

COLUMNS = [*RUN, "draws", "asked", "drawn", "empty_epochs", "reason"]
SHARE_TOLERANCE, FEW_DRAWS = 0.02, 4
"""A share may miss what was asked by the first, and by the second over the number of draws; the trainer keeps it closer."""


def shares_of(study: Study, runs: Sequence[ArmRun], folder: Path) -> pd.DataFrame:
    """Shares of the runs that left an audit.

    Returns:
        A row per run: ``RUN``; ``draws``, cases drawn, real and synthetic; ``asked`` and ``drawn``, shares over all epochs;
        ``empty_epochs`` at the start without any synthetic case though some were asked; ``reason`` why the generator that runs
        beside the training made no cases, if so.
    """
    ids = DatasetIds(read_json(folder / IDS_FILE))
    audits = [(run, _audit(find_model_folder(StudyRun(study, ids, run), folder))) for run in runs]
    rows = [_run_share(run, records) for run, records in audits if records]
    return pd.DataFrame(rows, columns=COLUMNS)


def _audit(model: Path | None) -> list[dict[str, Any]]:
    return [r for r in read_audit_file(model) if r["draws"]] if model is not None else []


def _run_share(run: ArmRun, records: Sequence[dict[str, Any]]) -> list[Any]:
    draws = sum(r["draws"] for r in records)
    asked = sum(r["draws"] * r["asked"] for r in records) / draws
    drawn = sum(r["synthetic_draws"] for r in records) / draws
    wanted = [r for r in records if r["asked"]]
    first = next((i for i, r in enumerate(wanted) if r["synthetic_draws"]), len(wanted))
    reasons = [r["source"]["reason"] for r in records if r.get("source", {}).get("reason")]
    subset = run.subset
    return [run.arm.name, subset.num_cases, subset.draw, subset.seed, draws, asked, drawn, first, reasons[-1] if reasons else ""]


def mean_shares(shares: pd.DataFrame) -> dict[tuple[str, int], dict[str, float | int]]:
    """(arm, number of cases) -> asked and drawn share over all its runs, and the lowest and highest of a run."""
    weighted = shares.assign(asked=shares["draws"] * shares["asked"], drawn=shares["draws"] * shares["drawn"])
    total, runs = weighted.groupby(ROW)[["draws", "asked", "drawn"]].sum(), shares.groupby(ROW)["drawn"]
    means = pd.DataFrame({"asked": total["asked"] / total["draws"], "drawn": total["drawn"] / total["draws"],
                          "lowest": runs.min(), "highest": runs.max(), "num_runs": runs.size()})
    return {(arm, n): row for (arm, n), row in means.to_dict("index").items()}


def other_share(shares: pd.DataFrame) -> pd.DataFrame:
    """Runs that drew another share than asked, by how far, the worst first."""
    distance = (shares["drawn"] - shares["asked"]).abs()
    wrong = distance[distance > SHARE_TOLERANCE + FEW_DRAWS / shares["draws"]]
    return shares.loc[wrong.sort_values(ascending=False, kind="stable").index]


def share_warnings(shares: pd.DataFrame, runs: Sequence[ArmRun]) -> list[str]:
    """One sentence per arm and number of cases whose trainings drew another share than asked, or whose draws are unknown."""
    warnings = []
    for arm, n in dict.fromkeys((r.arm.name, r.subset.num_cases) for r in runs):
        own = [r for r in runs if (r.arm.name, r.subset.num_cases) == (arm, n)]
        known = shares[(shares["arm"] == arm) & (shares["num_cases"] == n)]
        if own[0].arm.ratio and len(known) < len(own):
            warnings.append(f"{arm} at {n}: {len(own) - len(known)} of {len(own)} trainings left no audit, so that it is not "
                            "known what they drew.")
        wrong = other_share(known)
        if len(wrong):
            warnings.append(_difference(f"{arm} at {n}", wrong, len(known)))
    return warnings


def _difference(row: str, wrong: pd.DataFrame, num_known: int) -> str:
    worst = wrong.iloc[0]
    text = (f"{row}: {len(wrong)} of {num_known} trainings drew another share of synthetic cases than asked, "
            f"at worst {percent(worst['drawn'])} instead of {percent(worst['asked'])} "
            f"(fold {worst['draw']}, seed {worst['seed']})")
    if (wrong["drawn"] == 0).all():
        text += "; without any, such a training is one on real cases alone, and this row says nothing of the arm"
    if worst["empty_epochs"]:
        text += f"; none was there in the first {worst['empty_epochs']} epoch(s): an arm on_the_fly can wait for them (wait_s)"
    return text + (f"; the generator said: {worst['reason']}." if worst["reason"] else ".")


def percent(share: float) -> str:
    """As in tables."""
    return f"{100 * share:.1f} %"
