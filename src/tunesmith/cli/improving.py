"""What `tunesmith improve` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def improve_here(
    source: str, rows: str | None, options: dict[str, Any], *, out: Path, name: str | None, force: bool, resume: bool,
    style: str, as_json: bool,
) -> Any:  # fmt: skip
    """Carry an improvement out, and give its rounds for the screen or as JSON."""
    from ..improving.api import improve

    done = improve(source, rows, out=out, name=name, force=force, resume=resume, progress=style, **options)
    if as_json:
        return {"folder": str(done.folder), **done.results}
    from rich.console import Group
    from rich.text import Text

    lines = [Text(done.results["stopped"])]
    lines.append(Text(f"kept in {done.folder}; the best round by the validation rows is {done.results['best']}"))
    return Group(rounds_table(done.results), *lines)


def rounds_table(results: dict[str, Any]) -> Any:
    """A line a round: what was made, and the score of what came of it."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="score of the answer to each held-out prompt, 95 % intervals", box=box.SIMPLE, title_justify="left"
    )
    for heading in ("round", "samples", "mean score", "rows made", "validation", "test", "test against before"):
        table.add_column(heading)
    made = {one["round"]: one for one in results["rounds"]}
    for score in results["scores"]:
        one = made.get(score["round"])
        facts = (str(one["samples"]), f"{one['mean_score']:.3f}", str(one["rows"])) if one else ("", "", "")
        test = score.get("test", {})
        table.add_row(
            str(score["round"]),
            *facts,
            _figure(score.get("validation")),
            _figure(test),
            _figure(test.get("difference")),
        )
    return table


def _figure(measured: dict[str, Any] | None) -> str:
    if not measured:
        return "-"
    return f"{measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})"
