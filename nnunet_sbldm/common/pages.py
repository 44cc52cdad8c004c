"""Pages and cards: one jinja2 environment over the templates of this package.

``templates/page.html.j2`` is the frame that every HTML report fills in, ``templates/style.css.j2`` its look. A template's name
says what it becomes: values are escaped in ``NAME.html.j2`` and left as they are in ``NAME.md.j2``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def render(template: str, values: Mapping[str, object]) -> str:
    """Fill in a template.

    Args:
        template: its file in ``templates``, such as ``page.html.j2``.
        values: what it names; a name that is missing raises ``jinja2.UndefinedError``.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_sbldm", "common/templates"),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": table_cell, "number": readable, "range": number_range}
    return environment


def embedded(picture: Path | None) -> str:
    """A PNG as a data URI, or an empty string if there is none."""
    if picture is None or not picture.is_file():
        return ""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


# --- filters -------------------------------------------------------------------------------------------------------


def table_cell(value: object) -> str:
    """Text in one line that cannot end a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def readable(value: float | None) -> str:
    """Three digits; empty for None."""
    return "" if value is None else f"{value:.3g}"


def number_range(values: Sequence[float]) -> str:
    """The ends of a range, or the one number that both are."""
    return " to ".join(dict.fromkeys(f"{v:.3g}" for v in values))
