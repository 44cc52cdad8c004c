"""Jobs of one run alone: nnU-Net's training, the prediction of the test cases, and their evaluation."""

from __future__ import annotations

from nnunet_sbldm.ablation.data_jobs import generator_job
from nnunet_sbldm.ablation.jobs import FOLD, StudyJob, job_id
from nnunet_sbldm.ablation.runs import StudyRun
from nnunet_sbldm.ablation.split import TEST_IMAGES, TEST_LABELS


def network_jobs(run: StudyRun) -> list[StudyJob]:
    """Training, prediction, evaluation and, if they are asked for, surface distances of a run."""
    surface = [_surface(run)] if run.study.evaluation.surface_distances else []
    return [_train(run), _predict(run), _evaluate(run), *surface]


def _train(run: StudyRun) -> StudyJob:
    needs = [job_id(run.dataset, "configure"), *([generator_job(run)] if run.kind.is_on_the_fly else [])]
    workers = {"nnUNet_n_proc_DA": str(run.study.run.background_workers)}  # not while planning, which 0 breaks
    return StudyJob(job_id(run.run.key, "train"), "train", (
        "nnUNetv2_train", str(run.ids[run.dataset]), run.arm.name, FOLD, "-tr", run.kind.trainer,
        "-device", run.study.run.device, "--c"), tuple(needs), run.subset, run.arm.name, uses_device=True, environment=workers)


def _predict(run: StudyRun) -> StudyJob:
    mirror = () if run.study.training.test_time_augmentation else ("--disable_tta",)
    return StudyJob(job_id(run.run.key, "predict"), "predict", (
        "nnUNetv2_predict", "-d", str(run.ids[run.dataset]), "-c", run.arm.name, "-f", FOLD, "-tr", run.kind.trainer,
        "-i", TEST_IMAGES, "-o", run.run.predictions, "-npp", "1", "-nps", "1", "-device", run.study.run.device, *mirror),
        (job_id(run.run.key, "train"),), run.subset, run.arm.name, uses_device=True,
        counterparts=(TEST_LABELS, run.run.predictions))


def _evaluate(run: StudyRun) -> StudyJob:
    folder = run.run.predictions
    prune = () if run.study.run.keep_checkpoints else (f"{run.model_folder}/checkpoint_*.pth",)
    return StudyJob(job_id(run.run.key, "evaluate"), "evaluate", (
        "nnUNetv2_evaluate_folder", TEST_LABELS, folder, "-djfile", f"{folder}/dataset.json",
        "-pfile", f"{folder}/plans.json", "-np", str(run.study.run.processes)),
        (job_id(run.run.key, "predict"),), run.subset, run.arm.name, deletes=prune)


def _surface(run: StudyRun) -> StudyJob:
    return StudyJob(job_id(run.run.key, "surface"), "surface", (
        "python", "-m", "nnunet_sbldm.ablation.surface_distances", TEST_LABELS, run.run.predictions, "-tolerance_mm",
        f"{run.study.evaluation.tolerance_mm:g}"), (job_id(run.run.key, "predict"),), run.subset, run.arm.name)
