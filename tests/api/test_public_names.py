"""The face of the package: which names are public, and that importing it costs next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_sbldm

FACE = Path(nnunet_sbldm.__file__).parent
PROMISED = {"SBLDM", "SBLDMMixin", "Case", "Geometry", "UserError", "expand", "run_study", "__version__"}
MOST_SECONDS = 0.1


def test_exactly_the_promised_names_are_public():
    assert set(nnunet_sbldm.__all__) == PROMISED
    assert set(dir(nnunet_sbldm)) >= PROMISED
    for name in PROMISED:
        assert getattr(nnunet_sbldm, name) is not None


def test_the_stub_for_type_checkers_names_the_same():
    tree = ast.parse((FACE / "__init__.pyi").read_text())
    named = {a.asname for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    named |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)}
    assert named == PROMISED
    assert (FACE / "py.typed").is_file()


def test_a_name_is_found_where_the_stub_says():
    for node in ast.parse((FACE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            (alias,) = node.names
            assert nnunet_sbldm._PUBLIC[alias.name] == node.module.removeprefix("nnunet_sbldm.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Generator'"):
        _ = nnunet_sbldm.Generator


def test_importing_the_package_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.process_time(); import nnunet_sbldm; took = time.process_time() - start\n"
        "heavy = {'torch', 'numpy', 'nnunetv2', 'pandas', 'typing'} & (set(sys.modules) - before)\n"
        f"assert not heavy, heavy\nassert took < {MOST_SECONDS}, took"
    )
    code = "import sys; before = set(sys.modules)\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
