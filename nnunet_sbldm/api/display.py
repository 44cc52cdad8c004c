"""Figures on the screen: as PNG, in HTML, in a notebook, in a window."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def html_picture(figure: Figure) -> str:
    """The figure as an HTML element that needs no file."""
    data = base64.b64encode(png_of(figure)).decode()
    return f'<img style="max-width: 100%" src="data:image/png;base64,{data}">'


def show(figure: Figure) -> None:
    """Show a figure below the cell of a notebook; elsewhere in a window of matplotlib, which waits until it is closed."""
    if _in_notebook():
        from IPython.display import Image, display

        display(Image(data=png_of(figure)))
        return
    from matplotlib import pyplot

    width, height = figure.get_size_inches()
    axes = pyplot.figure(figsize=(width, height), dpi=figure.dpi).add_axes((0, 0, 1, 1))
    axes.imshow(pyplot.imread(io.BytesIO(png_of(figure))))
    axes.set_axis_off()
    pyplot.show()


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
