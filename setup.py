"""Adds the start-up hook to the wheel; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HOOK_NAME = "nnunet_sbldm_hook.pth"
HOOK = 'import sys; exec("try:\\n import nnunet_sbldm._startup as s\\n s.install()\\nexcept Exception:\\n pass")\n'


class BuildWithHook(build_py):
    """Puts the hook beside the packages and declares it, so that uninstalling removes it; editable installs do without."""

    def run(self) -> None:
        """Build the packages, then the hook."""
        super().run()
        if not self.editable_mode:
            Path(self._hook).write_text(HOOK, encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files this command makes."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else [self._hook])]

    @property
    def _hook(self) -> str:
        return str(Path(self.build_lib) / HOOK_NAME)


setup(cmdclass={"build_py": BuildWithHook})
