"""The notebook of the quick start runs on the installed package alone: no dataset, no variable of nnU-Net, one bundled model."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
MAX_BYTES, TIMEOUT_S = 200_000, 600


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty folder to work in, without any variable of nnU-Net."""
    for name in [n for n in os.environ if n.startswith(("nnUNet_", "SBLDM_"))]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_runs(bare):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(bare)}}).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert {p.name for p in (bare / "samples").iterdir()} >= {"montage.png", "sbldm_00000.nii.gz", "sbldm_00000.json"}


def test_the_stored_notebook_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert not re.findall(r"(?<![\w/])/(?:home|root|tmp|Users|work)/", text)
