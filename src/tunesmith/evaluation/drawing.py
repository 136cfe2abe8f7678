"""Drawing by matplotlib as SVG without a date or a random id, so that drawings can be compared."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INK, TUNED, BEFORE, FLOOR = "#5b6470", "#3b82f6", "#d97706", "#9ca3af"
"""INK becomes the colour of the page's text, whatever that is; the others are seen on white and on black."""


@contextmanager
def style() -> Iterator[None]:
    """Fonts, colours and fixed ids of every plot drawn inside the block."""
    import matplotlib

    settings: Any = {
        "svg.hashsalt": "tunesmith", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False,
        "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "font.family": "DejaVu Sans",
    }  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the glyphs that matplotlib's font lacks
        yield


def figure(width: float = 5.2, height: float = 3.2) -> tuple[Any, Any]:
    """A drawing of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.add_subplot()


def logarithmic(axes: Any) -> None:
    """A logarithmic x axis with ticks as people read them (``10 k``); mathematics would not be drawn."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def svg(made: Any, prefix: str, caption: str) -> str:
    """The drawing as an element of a page: ids that are its own, no metadata or comments, the page's colour of text."""
    stream = io.StringIO()
    made.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True)
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    label = caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
