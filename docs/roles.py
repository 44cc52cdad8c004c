"""Extension of griffe for the site: Sphinx roles in docstrings, such as ``:class:`Case```, become plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Takes the role away and leaves the name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r":(?:class|meth|func|attr|mod|exc):`~?\.?([^`]+)`", r"`\1`", obj.docstring.value)
