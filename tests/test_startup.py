import importlib.metadata
import json
import os
import subprocess
import sys
from types import ModuleType

import pytest

from nnunet_sbldm import _startup, trainers

HOOK_NAME = "nnunet_sbldm_hook.pth"
LOOKUP = "nnunetv2.utilities.find_objects:recursive_find_trainer_class_by_name"
distribution = importlib.metadata.distribution("nnunet-sbldm")
IS_EDITABLE = json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable", False)
needs_hook = pytest.mark.skipif(IS_EDITABLE, reason="an editable install has no start-up hook")


def python(code, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "SBLDM_"))}
    return subprocess.run([sys.executable, "-P", "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120)


def find_class(**environment):
    module, function = LOOKUP.split(":")
    return python(f"from {module} import {function} as find; print(find('nnUNetTrainerSBLDM').__name__)", **environment)


@pytest.fixture
def hook_line():
    return next(f for f in distribution.files if f.name == HOOK_NAME).read_text()


@needs_hook
def test_the_wheel_declares_the_hook_so_that_uninstalling_removes_it():
    assert [str(f) for f in distribution.files if f.suffix == ".pth"] == [HOOK_NAME]


@needs_hook
def test_at_start_python_loads_nothing_but_the_hook():
    loaded = python("import sys; heavy = {'numpy', 'torch', 'nnunetv2', 'typing'}\n"
                    "print(sorted(m for m in sys.modules if 'sbldm' in m or m in heavy))")
    assert loaded.stdout.strip() == "['nnunet_sbldm', 'nnunet_sbldm._startup']"


@needs_hook
def test_a_broken_package_does_not_break_the_start_of_python(hook_line):
    done = python(f"import sys; sys.modules['nnunet_sbldm'] = None\n{hook_line}\nprint('alive')")
    assert (done.stdout.strip(), done.stderr) == ("alive", "")


@needs_hook
def test_nnunet_finds_the_trainer_with_no_setting():
    assert find_class().stdout.strip() == "nnUNetTrainerSBLDM"


def test_with_the_hook_switched_off_nnunet_finds_it_through_its_own_variable():
    found = find_class(SBLDM_NO_STARTUP_HOOK="1", nnUNet_extTrainer=next(iter(trainers.__path__)))
    assert found.stdout.strip().endswith("nnUNetTrainerSBLDM")
    assert "Searching in external trainer paths" in found.stdout


def test_switched_off_it_installs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setenv("SBLDM_NO_STARTUP_HOOK", "1")
    _startup.install()
    assert sys.meta_path == []


def test_it_installs_once(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delenv("SBLDM_NO_STARTUP_HOOK", raising=False)
    _startup.install()
    _startup.install()
    assert len(sys.meta_path) == 1


def test_it_answers_for_nnunets_trainer_module_alone():
    finder = _startup.TrainerModuleFinder()
    assert finder.find_spec("nnunetv2.training") is None
    assert finder.find_spec("torch") is None


def test_other_names_of_the_module_are_missing_as_before():
    module = ModuleType("stand_alone")
    _startup.offer_trainers(module)
    assert module.nnUNetTrainerSBLDM.__name__ == "nnUNetTrainerSBLDM"
    with pytest.raises(AttributeError, match="module 'stand_alone' has no attribute 'nnUNetTrainerSBLDM_nowhere'"):
        _ = module.nnUNetTrainerSBLDM_nowhere
    with pytest.raises(AttributeError, match="module 'stand_alone' has no attribute 'nnUNetTrainer'"):
        _ = module.nnUNetTrainer


def test_a_getattr_that_the_module_has_of_its_own_stays_in_use():
    module = ModuleType("stand_alone")
    module.__getattr__ = str.upper
    _startup.offer_trainers(module)
    assert module.something == "SOMETHING"
