"""The package: its folders, its commands and its licences."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODELS = ROOT / "nnunet_sbldm" / "models"


def test_the_package_list_names_every_folder_that_holds_code():
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    elsewhere = PYPROJECT["tool"]["setuptools"]["package-dir"]
    folders = {elsewhere.get(name, name.replace(".", "/")) for name in listed}
    with_code = {
        str(p.parent.relative_to(ROOT))
        for f in ("nnunet_sbldm", "trainers", "dataset_conversion")
        for p in (ROOT / f).rglob("*.py")
    }
    assert with_code == folders
    assert all((ROOT / f / "__init__.py").is_file() for f in folders)


@pytest.mark.parametrize("name", sorted(PYPROJECT["project"]["scripts"]))
def test_help_answers_without_loading_anything_heavy(name):
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == name]
    code = (
        f"import sys; from {command.module} import {command.attr} as main\n"
        "try: main(['-h'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'nnunetv2', 'diffusers', 'matplotlib', 'scipy', 'pandas', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import nnunet_sbldm, sys; assert not {'torch', 'numpy', 'nnunetv2'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_licence_of_the_code_and_of_a_bundled_model_is_declared_with_its_text():
    licences = PYPROJECT["project"]["license"].split(" AND ")
    of_models = {json.loads(card.read_text())["licence"] for card in MODELS.glob("*/card.json")}
    assert set(licences) == {"Apache-2.0"} | {"CC-" + licence.removeprefix("CC ").replace(" ", "-") for licence in of_models}
    texts = {p for pattern in PYPROJECT["project"]["license-files"] for p in ROOT.glob(pattern)}
    assert {ROOT / "LICENSE"} | {ROOT / "LICENSES" / f"{name}.txt" for name in licences[1:]} <= texts


@pytest.mark.parametrize("model", sorted(p.name for p in MODELS.iterdir()))
def test_the_licences_name_every_bundled_model(model):
    assert f"`nnunet_sbldm/models/{model}`" in (ROOT / "LICENSES" / "README.md").read_text()


def test_project_urls_are_addresses_that_the_repository_names():
    named = (ROOT / "README.md").read_text() + (ROOT / "CITATION.cff").read_text()
    assert [url for url in PYPROJECT["project"]["urls"].values() if url not in named] == []
