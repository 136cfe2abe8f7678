"""A claim's figures in words, the same in the terminal and in the documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..evaluation.wording import clock
from ..experiments import Figure
from .claim import Claim, as_figures
from .settle import main_figure

HEADINGS = ("id", "claim", "verdict", "main figure", "interval", "cost", "date", "machine")
OPEN = "not run yet"

WIDTH = 41
"""Characters of a figure's bar."""


def number(value: float, unit: str) -> str:
    """A figure's value; of ``points`` times 100.

    >>> number(0.031, "points"), number(1.5, "times"), number(0.25, "")
    ('3.10', '1.5', '0.25')
    """
    return f"{100 * value:.2f}" if unit == "points" else f"{value:.3g}"


def value_of(figure: Figure) -> str:
    """The value with its unit."""
    return f"{number(figure.value, figure.unit)} {figure.unit}".rstrip()


def interval_of(figure: Figure) -> str:
    """The interval, or that there is none."""
    if math.isnan(figure.low) or math.isnan(figure.high):
        return "none"
    if figure.low == figure.high:
        return "exact"
    return f"{number(figure.low, figure.unit)} to {number(figure.high, figure.unit)}"


def expectations(claim: Claim, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was expected, and whether it is so."""
    figures = as_figures(result["figures"])
    answers = {True: "met", False: "contradicted", None: "within its interval: undecided"}
    lines = []
    for e in claim.expect:
        side, threshold = ("above", e.above) if e.below is None else ("below", e.below)
        found = figures.get(e.figure)
        said = answers[e.met(found)] if found else "no such figure"
        lines.append((f"{e.figure} {side} {number(threshold or 0.0, found.unit if found else '')}", said))
    return lines


def cost_of(result: Mapping[str, Any]) -> str:
    """Number of trainings and how long they took."""
    cost = result["cost"]
    return f"{cost['trainings']} trainings, {clock(cost['seconds'])}" if cost["trainings"] else "no training"


def machine_of(result: Mapping[str, Any]) -> str:
    """Processor and threads, or the platform where they are not told."""
    about = result["environment"]
    threads = f"{about['threads']} thread{'s' if about['threads'] != 1 else ''}" if about.get("threads") else ""
    return ", ".join(str(v) for v in (about.get("processor") or about.get("platform"), threads) if v)


def row(claim: Claim, result: Mapping[str, Any] | None) -> list[str]:
    """A line of the table of claims, under `HEADINGS`; what is not known is left empty."""
    if result is None:
        verdict = "not testable here" if claim.not_testable else OPEN
        return [claim.id, claim.name, verdict, "", "", "", "", ""]
    main = main_figure(claim, result)
    said = [f"{main[0]} {value_of(main[1])}", interval_of(main[1])] if main else ["", ""]
    return [claim.id, claim.name, result["verdict"], *said, cost_of(result), result["date"], machine_of(result)]


def bar(figure: Figure, threshold: float) -> str:
    """Interval ``━``, value ``●`` and the threshold ``┃`` on one line of characters; empty without an interval."""
    ends = [figure.low, figure.high, figure.value, threshold]
    if not all(map(math.isfinite, ends)) or max(ends) == min(ends):
        return ""
    low, span = min(ends), max(ends) - min(ends)
    low_at, high_at, value_at, threshold_at = (round((v - low) / span * (WIDTH - 1)) for v in ends)
    line = ["━" if low_at <= i <= high_at else " " for i in range(WIDTH)]
    line[threshold_at], line[value_at] = "┃", "●"
    return "".join(line).rstrip()
