"""Claims in the terminal: the table of all, and one claim with all that was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .claim import Claim, as_figures
from .wording import HEADINGS, OPEN, bar, cost_of, expectations, interval_of, machine_of, number, row, value_of

STYLES = {"reproduced": "green", "not reproduced": "red", "within noise": "yellow"}


def claims_table(claims: Mapping[str, Claim], results: Mapping[str, Mapping[str, Any] | None]) -> Any:
    """Every claim with verdict, main figure, cost, date and machine, as a table of rich.

    Args:
        claims: by stem.
        results: stem -> stored result, or None where there is none.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADINGS, box=box.SIMPLE)
    for stem, claim in claims.items():
        line = row(claim, results.get(stem))
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
    return table


def render_claim(claim: Claim, result: Mapping[str, Any] | None, plot: Path | None = None) -> Any:
    """One claim: what the paper says, what was done, every figure, what was expected, and the verdict.

    Args:
        claim: the claim.
        result: its stored result, or None where there is none.
        plot: write the plot to this file (``.svg`` or ``.png``).

    Raises:
        InputError: the plot has another ending, cannot be written, or there is no result to draw.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    about = Table.grid(padding=(0, 2))
    about.add_column(style="dim", no_wrap=True)
    about.add_column()
    for name, text in _about(claim, result):
        about.add_row(name, Text(text))
    parts: list[Any] = [Text(f"{claim.id} {claim.name}", style="bold"), about]
    if result is not None and result["figures"]:
        parts.append(_figures(claim, result))
    if plot is not None:
        _write(claim, result, plot)
        parts.append(Text(f"plot in {plot}"))
    return Group(*parts)


def _about(claim: Claim, result: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    done = f"{claim.experiment.name}, {claim.seeds} seeds" if claim.experiment else ""
    lines = [("paper", claim.paper), ("claim", claim.claim), ("setting", claim.setting), ("distance", claim.distance),
             ("done", done), ("tried", claim.tried or ""), ("not testable", claim.not_testable or "")]  # fmt: skip
    if result is None:
        lines.append(
            ("verdict", "not testable here" if claim.not_testable else f"{OPEN}: tunesmith claims run {claim.id}")
        )
    else:
        where = f"{result['date']}, {machine_of(result)}, commit {', '.join(result['commits']) or 'unknown'}"
        expected = [("expected", f"{text}: {said}") for text, said in expectations(claim, result)]
        notes = [("note", note) for note in result["notes"]]
        lines += [*expected, *notes, ("cost", cost_of(result)), ("measured", where), ("verdict", result["verdict"])]
    return [(name, text) for name, text in lines if text]


def _figures(claim: Claim, result: Mapping[str, Any]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    thresholds = {e.figure: e.above if e.above is not None else e.below for e in claim.expect}
    table = Table("figure", "value", "interval", "every one", "interval ━, value ●, threshold ┃", box=box.SIMPLE)
    for name, figure in as_figures(result["figures"]).items():
        each = " ".join(number(v, figure.unit) for v in figure.values)
        threshold = thresholds.get(name)
        drawn = bar(figure, threshold) if threshold is not None else ""
        table.add_row(*map(Text, (name, value_of(figure), interval_of(figure), each, drawn)))
    return table


def _write(claim: Claim, result: Mapping[str, Any] | None, path: Path) -> None:
    from ..errors import InputError
    from . import plots

    if result is None:
        raise InputError("there is no result to draw", where=claim.stem, fix=f"run `tunesmith claims run {claim.id}`")
    plots.write(claim, result, path)
