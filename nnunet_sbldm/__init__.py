"""Slice-based latent diffusion (SBLDM) as a synthetic-data plugin for stock nnU-Net v2.

Public are ``SBLDM`` (load, train, sample, edit, evaluate), ``expand``, ``run_study``, ``SBLDMMixin`` (for trainers), ``Case``,
``Geometry`` and ``UserError``; nothing else is promised. They are imported when they are first used: every Python process of an
environment with the plugin imports this module.
"""

TYPE_CHECKING = False  # typing itself costs more than this module
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
_PUBLIC = {
    "SBLDM": "api.model",
    "SBLDMMixin": "mixing.mixin",
    "Case": "types",
    "Geometry": "types",
    "UserError": "types",
    "expand": "api.expansion",
    "run_study": "api.study",
}
__all__ = ["SBLDM", "Case", "Geometry", "SBLDMMixin", "UserError", "__version__", "expand", "run_study"]


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
