"""The start-up hook: makes ``nnUNetv2_train -tr nnUNetTrainerSBLDM`` work with no setting.

Python runs :func:`install` at start (``nnunet_sbldm_hook.pth`` beside the installed packages). It only notes that it
wants to know when nnU-Net's trainer module is imported. When that happens, the module gets a lazy ``__getattr__`` through which
nnU-Net's own search for a trainer finds ours. No file of nnU-Net is touched. ``SBLDM_NO_STARTUP_HOOK=1`` switches it off.

Every Python process of the environment pays for this module, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself costs more than this module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

TRAINER_MODULE = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
PREFIX = "nnUNetTrainerSBLDM"
OPT_OUT = "SBLDM_NO_STARTUP_HOOK"


class TrainerModuleFinder:
    """Import finder that lets the others find nnU-Net's trainer module and adds to it once it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the trainer module alone (signature of ``importlib.abc.MetaPathFinder``)."""
        if name != TRAINER_MODULE:
            return None
        others = (f for f in sys.meta_path if f is not self)
        spec = next((s for f in others if (s := f.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            _call_after(spec.loader)
        return spec


def _call_after(loader: Loader) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        offer_trainers(module)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def offer_trainers(module: ModuleType) -> None:
    """Give a module a lazy ``__getattr__`` that resolves the names of our trainers."""
    previous = module.__dict__.get("__getattr__")

    def lookup(name: str) -> object:
        if name.startswith(PREFIX):
            found = find_trainer(name)
            if found is not None:
                return found
        if previous is not None:
            return previous(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = lookup  # type: ignore[method-assign]


def find_trainer(name: str) -> type | None:
    """The trainer class of that name in ``nnunet_sbldm.trainers``, or None."""
    import importlib
    import pkgutil

    trainers = importlib.import_module("nnunet_sbldm.trainers")
    for info in pkgutil.iter_modules(trainers.__path__):
        module = importlib.import_module(f"{trainers.__name__}.{info.name}")
        if name in vars(module):
            return getattr(module, name)
    return None


def install() -> None:
    """Wait for nnU-Net's trainer module; a second call, or the opt-out, changes nothing."""
    if os.environ.get(OPT_OUT, "") not in ("", "0") or any(isinstance(f, TrainerModuleFinder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, TrainerModuleFinder())
