"""A plan with two labels, of which one is part of the other."""

from dataclasses import replace

from nnunet_sbldm.data.conditions import FEATURES, Target, feature_names

WHOLE, CORE = Target("whole", (1, 2, 3)), Target("core", (3,))


def plan_of(plan, presence):
    """The plan with two targets, present in the given training cases ([cases, 2])."""
    names = tuple(feature_names([WHOLE, CORE]))
    anatomy = [100.0] * (len(names) - 2 * len(FEATURES))
    table = [[v for p in row for v in [float(p)] + [1.0 if p else None] * (len(FEATURES) - 1)] + anatomy for row in presence]
    scaling = replace(plan.condition_scaling, names=names, mean=(0.0,) * len(names), std=(1.0,) * len(names))
    return replace(plan, targets=(WHOLE, CORE), condition_scaling=scaling, condition_table=tuple(map(tuple, table)))
