"""How far a study is."""

from dataclasses import replace

import pytest

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.planning import plan_study_jobs
from nnunet_sbldm.ablation.progress import time_per_arm
from nnunet_sbldm.ablation.runner import study_folder
from nnunet_sbldm.ablation.runs import DatasetIds
from nnunet_sbldm.ablation.settings import RunSettings


def test_a_generator_on_a_gpu_of_its_own_counts(finished):
    study, _, folder = finished
    arms = (Arm("real_only", "real_only"), Arm("on_the_fly", "on_the_fly_25", 0.25))
    for generator_device, hours in ((None, 4 * 60 / 3600), ("cuda:1", 8 * 60 / 3600)):
        trained = replace(study, arms=arms, run=RunSettings("cuda", generator_device=generator_device))
        jobs = plan_study_jobs(trained, DatasetIds({}))
        for j in jobs:
            study_folder(folder).write(j, "done", {"seconds": 60.0 if j.stage == "train" else 0.0})
        row = next(r for r in time_per_arm(trained, jobs, folder) if r["arm"] == "on_the_fly_25")
        assert row["gpu_hours"] == pytest.approx(hours, abs=0.001)
