"""Settings of an evaluation, of whole cases and of edits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS, QualityGoals
from nnunet_sbldm.ldm.config import SamplerConfig


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        num_cases: synthetic cases to ask for; their seeds are ``seed``, ``seed + 1``, ...
        sampler: steps, guidance and batch size.
        seed: also decides every random choice of the metrics.
        diversity: width of the condition model's kernels.
        use_gate: evaluate what an expansion would write, drawn again where the quality gate rejects; otherwise raw draws.
        goals: what is to be reached.
        nnunet: folder of a trained nnU-Net whose encoder gives features, if there is one.
    """

    num_cases: int = 64
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    seed: int = 0
    diversity: float = 1.0
    use_gate: bool = True
    goals: QualityGoals = DEFAULT_GOALS
    nnunet: Path | None = None
