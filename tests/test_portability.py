"""Modules that only POSIX has are missing on Windows, where sampling, editing and expanding have to work nevertheless."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
POSIX_ALONE = ("fcntl", "resource", "pwd", "grp", "termios")

IMPORT_ALL = """
import builtins, importlib, sys
missing, modules = sys.argv[1].split(), sys.argv[2].split()
find = builtins.__import__

def find_all_but_missing(name, globals=None, *more, **named):
    if name.split(".")[0] in missing and (globals or {}).get("__name__", "").startswith("nnunet_sbldm"):
        raise ImportError(f"there is no {name}")  # for us: libraries ask for the system first
    return find(name, globals, *more, **named)

builtins.__import__ = find_all_but_missing
failed = []
for name in modules:
    try:
        importlib.import_module(name)
    except ImportError as e:
        failed.append(f"{name}: {e}")
sys.exit("\\n".join(failed) or 0)
"""


def modules():
    """Every module of the package, by the name that it is imported by."""
    for folder, prefix in (("nnunet_sbldm", ""), ("dataset_conversion", "nnunet_sbldm."), ("trainers", "nnunet_sbldm.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield (prefix + ".".join(path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def import_all(names, missing=POSIX_ALONE):
    """What the modules named miss where there are no such modules."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, " ".join(missing), " ".join(names)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_every_module_loads_without_the_modules_of_posix():
    done = import_all(modules())
    assert done.returncode == 0, done.stderr


def test_a_module_that_needs_one_is_found():
    assert import_all(["nnunet_sbldm.types"], ("dataclasses",)).stderr.strip() == "nnunet_sbldm.types: there is no dataclasses"
