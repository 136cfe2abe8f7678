"""The plot of a claim: every figure that something is expected of, and the experiment's series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.drawing import BEFORE, FLOOR, INK, TUNED, logarithmic, style, svg
from ..experiments import Figure
from ..storage import atomic_file, hash_json
from .claim import Claim, Expectation, as_figures

COLORS = (TUNED, BEFORE, "#16a34a", "#db2777", "#8b5cf6", "#0d9488")

PANEL = (
    "<style>svg{background:#f6f7f9;color:#5b6470}"
    "@media (prefers-color-scheme:dark){svg{background:#1c222a;color:#9aa4b2}}</style>"
)
"""A file that a page shows as an image does not get the page's colours, and so brings its own."""


def drawn_from(claim: Claim, result: Mapping[str, Any]) -> str:
    """Fingerprint of all that a claim's plot shows."""
    shown = [result["figures"], result["series"], result["axes"], [str(e) for e in claim.expect]]
    return hash_json(shown)[:16]


def as_svg(claim: Claim, result: Mapping[str, Any]) -> str:
    """The plot as an SVG file's text; ``data-drawn-from`` is `drawn_from`. No two draws of the same result differ."""
    with style():
        drawn = svg(_draw(claim, result), "plot-", f"{claim.name}: {result['verdict']}")
    return as_file(drawn, drawn_from(claim, result))


def as_file(drawn: str, mark: str) -> str:
    """A drawing as a file that a page shows as an image; ``data-drawn-from`` keeps the mark of what it shows."""
    drawn = drawn.replace("<svg ", f'<svg data-drawn-from="{mark}" ', 1)
    end = drawn.index(">", drawn.index("<svg ")) + 1
    return f"{drawn[:end]}{PANEL}{drawn[end:].rstrip()}\n"


def write(claim: Claim, result: Mapping[str, Any], path: Path) -> None:
    """The plot as a file.

    Raises:
        InputError: its name ends in neither ``.svg`` nor ``.png``, or it cannot be written.
    """
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"ends in {path.suffix or 'nothing'}", where=path, expected="a plot's name: .svg or .png")
    if path.suffix == ".svg":
        with atomic_file(path) as file:
            file.write(as_svg(claim, result))
        return
    try:
        with style():
            _draw(claim, result).savefig(path, dpi=150, facecolor="white")
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=path) from None


def _draw(claim: Claim, result: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure as Drawing

    figures = as_figures(result["figures"])
    expected = [e for e in claim.expect if e.figure in figures]
    series = {name: points for name, points in result["series"].items() if points}
    heights = [0.85] * len(expected) + [2.9] * bool(series)
    made = Drawing(figsize=(6.2, 0.2 + sum(heights or [0.5])), layout="constrained")
    if not heights:
        made.text(0.5, 0.5, "no figures", ha="center", va="center")
        return made
    panels = made.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, e in zip(panels, expected, strict=False):
        _expectation(axes, e, figures[e.figure])
    if series:
        _series(panels[-1], series, result["axes"])
    return made


def _expectation(axes: Any, e: Expectation, figure: Figure) -> None:
    """One figure with its interval, each seed's dot, and the side that is expected."""
    scale = 100 if figure.unit == "points" else 1
    threshold = scale * (e.above if e.above is not None else e.below or 0.0)
    axes.plot([scale * v for v in figure.values], [0] * len(figure.values), "o", color=FLOOR, alpha=0.6, markersize=4)
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        axes.plot([scale * figure.low, scale * figure.high], [0, 0], color=TUNED, linewidth=2)
    axes.plot(scale * figure.value, 0, "o", color=TUNED, markersize=7)
    low, high = axes.get_xlim()
    low, high = min(low, threshold - 0.05 * (high - low)), max(high, threshold + 0.05 * (high - low))
    axes.axvspan(*((threshold, high) if e.above is not None else (low, threshold)), color="#16a34a", alpha=0.1, lw=0)
    axes.axvline(threshold, color=INK, linewidth=0.9, linestyle="--")
    axes.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
    axes.spines["left"].set_visible(False)
    unit = f" ({figure.unit})" if figure.unit else ""
    axes.set_title(f"{e.figure.replace('_', ' ')}{unit}; expected: the shaded side", fontsize=8, color=INK, loc="left")


def _series(axes: Any, series: Mapping[str, Sequence[Sequence[float]]], titles: Sequence[str]) -> None:
    for i, (name, points) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        x, y = [p[0] for p in points], [p[1] for p in points]
        axes.plot(x, y, ("o-", "s--", "D:")[i // len(COLORS) % 3], color=color, markersize=4, linewidth=1.4, label=name)
        sure = [p for p in points if len(p) >= 4]
        axes.vlines(
            [p[0] for p in sure], [p[2] for p in sure], [p[3] for p in sure], color=color, linewidth=1, alpha=0.6
        )
    every = [p[0] for points in series.values() for p in points]
    if min(every) > 0 and max(every) / min(every) > 30:
        logarithmic(axes)
    if titles:
        axes.set(xlabel=titles[0], ylabel=titles[1])
    axes.grid(color=FLOOR, alpha=0.25)
    if len(series) > 1 or next(iter(series)):
        axes.legend(ncols=1 if len(series) <= 6 else 2)
