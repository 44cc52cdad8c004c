"""A study on a cluster."""


from study_fixtures import ALL_ARMS

from nnunet_sbldm.ablation.planning import plan_study_jobs
from nnunet_sbldm.ablation.runs import DatasetIds
from nnunet_sbldm.ablation.slurm import write_slurm_scripts


def test_slurm_scripts_run_every_job_of_a_stage(study_of, tmp_path):
    study = study_of(arms=ALL_ARMS, run={"device": "cuda", "slurm_options": ["--time=4:00:00"], "parallel_jobs": 3})
    jobs = plan_study_jobs(study, DatasetIds({}))
    submit = write_slurm_scripts(jobs, study.run, {"nnUNet_raw": "/a b"}, tmp_path)
    script = (tmp_path / "slurm" / "train.sbatch").read_text()
    assert "#SBATCH --array=0-18%3\n" in script
    assert "#SBATCH --time=4:00:00\n" in script
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "--gres" not in (tmp_path / "slurm" / "plan.sbatch").read_text()
    assert "export nnUNet_raw='/a b'\n" in script
    listed = script.split("jobs=(\n")[1].split("\n)")[0].split()
    assert listed == [j.job_id for j in jobs if j.stage == "train"]
    assert script.endswith(f'nnunet_sbldm.ablation.runner {tmp_path} "${{jobs[$SLURM_ARRAY_TASK_ID]}}"\n')
    assert [line.split(".sbatch")[0].split()[-1] for line in submit.read_text().splitlines()[3:]] == [
        "plan", "generator", "expand", "join", "configure", "train", "predict", "evaluate"]
