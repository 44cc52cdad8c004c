"""The package: its folders, its commands, and the order in which its modules build on each other."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIPELINE = """
types config files threads known_models folds provenance pool grid conditions gate _startup formats groups nnunet schedule
mixing configure mixed_dataset draw_audit copy_paste sources portable blocks autoencoder losses denoiser diffusion inpainting
random_fields texture label_maps checkpoint model_card_template model_card model_sharing slices latents decoding similarity
augmentation transfer preparation pictures plots novelty optimisation training_samples coherence_fitting outline_fitting training
spec requests size_correction synthesis reconstruction features distances memorisation measures adherence hosts regions blending
seams lesions edit_gate edit_tasks editing edited_cases quality_targets quality report_style evaluation_template nnunet_encoder
destinations production evaluated_cases scoring installation trace regeneration ring case_maker generator_process
generator_supervisor generator_choice on_the_fly injection mixin phantom_anatomy phantom edit_samples edit_evaluation
blinded_montage cli_options model_commands edit_options edit_commands dataset_conversion train_command expand_command
trainers report_template steps report evaluation_report evaluation demo study study_fields study_file study_data study_cases
study_jobs study_runner study_setup study_slurm study_surface study_statistics study_results study_draws study_pictures
study_methods study_tables study_template study_steps study_report study_commands cli
""".split()


def test_the_package_list_names_every_folder_that_holds_code():
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    folders = {PYPROJECT["tool"]["setuptools"]["package-dir"][name] for name in listed}
    with_code = {
        str(p.parent.relative_to(ROOT))
        for f in ("nnunet_sbldm", "trainers", "dataset_conversion")
        for p in (ROOT / f).rglob("*.py")
    }
    assert with_code == folders
    assert all((ROOT / f / "__init__.py").is_file() for f in folders)


def imports_of(path):
    """Modules of ours that a module imports when it runs."""
    tree = ast.parse(path.read_text())
    type_checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    skipped = {id(n) for block in type_checking for n in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnunet_sbldm.") and id(node) not in skipped:
            yield node.module.split(".")[1]


def stage_of(path):
    return path.stem if path.parent.name == "nnunet_sbldm" else path.parent.name


@pytest.mark.parametrize(
    "path",
    sorted(p for f in ("nnunet_sbldm", "trainers", "dataset_conversion") for p in (ROOT / f).glob("[!_]*.py")),
    ids=lambda p: p.stem,
)
def test_a_module_imports_only_what_comes_before_it(path):
    own = PIPELINE.index(stage_of(path))
    assert [m for m in imports_of(path) if PIPELINE.index(m) > own] == []


@pytest.mark.parametrize("name", sorted(PYPROJECT["project"]["scripts"]))
def test_help_answers_without_loading_anything_heavy(name):
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == name]
    code = (
        f"import sys; from {command.module} import {command.attr} as main\n"
        "try: main(['-h'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'nnunetv2', 'diffusers', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import nnunet_sbldm, sys; assert not {'torch', 'numpy', 'nnunetv2'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
