"""Put the plan's accuracy into ``docs/planning.md``: the plot of predicted against measured peaks, and the table behind it.

    python bench/planning_page.py [--check]

It reads ``bench/planned/peaks.json`` only, which ``bench/plan.py`` writes. ``--check`` changes nothing and fails when page or
plot is not what the file says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from render import ROOT, between

from tunesmith.claims.evidence import cells
from tunesmith.claims.plots import as_file
from tunesmith.comparing.plots import COLORS
from tunesmith.evaluation.drawing import FLOOR, figure, style, svg
from tunesmith.storage import hash_json

PAGE, PLOT = ROOT / "docs" / "planning.md", ROOT / "docs" / "planning" / "peaks.svg"
POINTS = ROOT / "bench" / "planned" / "peaks.json"
WITHIN, MIB = 0.15, 2**20

Points = Mapping[str, Mapping[str, Any]]


def points() -> dict[str, dict[str, Any]]:
    """What was measured, by name of the recipe."""
    found: dict[str, dict[str, Any]] = json.loads(POINTS.read_text(encoding="utf-8")) if POINTS.exists() else {}
    return found


def off(point: Mapping[str, Any]) -> float:
    """By how much the prediction is too high, as a share of what was measured."""
    return float(point["predicted"] / point["measured"] - 1)


def block(found: Points) -> str:
    """What stands between the page's marks."""
    if not found:
        return "No result file is there yet: `python bench/plan.py` makes it."
    close = sum(abs(off(point)) <= WITHIN for point in found.values())
    commits = ", ".join(sorted({point["commit"] for point in found.values()}))
    headings = ("recipe", "micro-batch", "predicted", "measured", "difference")
    lines = [cells(*headings), "|---" * len(headings) + "|"]
    for name, point in found.items():
        sizes = (f"{point[k] / MIB:,.0f} MiB" for k in ("predicted", "measured"))
        lines.append(cells(name, f"{point['rows']} x {point['length']} tokens", *sizes, f"{off(point):+.0%}"))
    return (
        f"Of {len(found)} recipes, {close} have a predicted peak within {WITHIN:.0%} of the measured one. The names say base "
        "(minilm-l6 or smollm2-135m), technique, most tokens of a row and most tokens of a micro-batch. Measured is the highest "
        "resident memory of a fresh process while it loads the base and trains, less what it held before; the plan's framework is "
        f"left out likewise. Commits {commits}.\n\n![predicted against measured peaks](planning/{PLOT.name})\n\n"
        + "\n".join(lines)
    )


def plot(found: Points) -> str:
    """Predicted against measured, with the share around it that is called close, as an SVG file's text."""
    with style():
        drawn, axes = figure(4.6, 4.2)
        top = 1.1 * max(max(p["predicted"], p["measured"]) for p in found.values()) / MIB
        axes.fill_between([0, top], [0, (1 - WITHIN) * top], [0, (1 + WITHIN) * top], alpha=0.2, color=FLOOR, lw=0)
        axes.plot([0, top], [0, top], lw=0.8, color=FLOOR)
        for number, kind in enumerate(("encoder", "decoder")):
            mine = [p for name, p in found.items() if name.startswith(kind)]
            at = ([p[k] / MIB for p in mine] for k in ("measured", "predicted"))
            axes.plot(*at, "os"[number], color=COLORS[number], markersize=4, label=kind)
        axes.set(xlabel="measured peak (MiB)", ylabel="predicted peak (MiB)", xlim=(0, top), ylim=(0, top))
        axes.legend()
        text = svg(drawn, "peaks-", "predicted against measured peaks")
    return as_file(text, mark(found))


def mark(found: Points) -> str:
    """What the plot has to be drawn from."""
    return hash_json({name: [p["predicted"], p["measured"]] for name, p in found.items()})[:16]


def main() -> None:
    """Write page and plot, or check them."""
    found = points()
    text = between(PAGE.read_text(encoding="utf-8"), "peaks", block(found))
    drawn = not found or PLOT.exists() and f'data-drawn-from="{mark(found)}"' in PLOT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if not drawn or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{PAGE.name} or its plot is not as {POINTS.name} says; run: make figures")
        return
    if not drawn:
        PLOT.parent.mkdir(exist_ok=True)
        PLOT.write_text(plot(found), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
