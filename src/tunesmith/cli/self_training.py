"""What `tunesmith self-train` and `tunesmith collect` do beyond the library, and show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import InputError


def self_train_here(
    source: str,
    options: dict[str, Any],
    *,
    out: Path,
    name: str | None,
    force: bool,
    resume: bool,
    style: str,
    as_json: bool,
) -> Any:
    """Carry a self-training out, and give its models for the screen or as JSON."""
    from ..improving import labelling
    from ..improving.self_training import self_train

    plan = labelling.read(source, options)
    named = name or Path(source).stem
    done = self_train(plan, out=out, name=named, force=force, resume=resume, progress=style)
    if as_json:
        return {"folder": str(done.folder), **done.results}
    from rich.console import Group
    from rich.text import Text

    return Group(_table(done.results), Text(f"kept in {done.folder}; the last model is {done.run.folder}"))


def _table(results: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    title = "accuracy on the held-out rows, 95 % intervals"
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for heading in ("model", "accuracy", "less the first"):
        table.add_column(heading)
    for model in results["models"]:
        table.add_row(model["name"], _figure(model["accuracy"]), _figure(model.get("difference")))
    for made in results["rounds"]:
        right = f", {made['right']:.3f} right, {made['right_of_kept']:.3f} of the kept" if "right" in made else ""
        table.caption = (
            f"{table.caption or ''}round {made['round']}: {made['labelled']} of {made['asked']} labelled{right}\n"
        )
    return table


def _figure(measured: dict[str, Any] | None) -> str:
    if not measured:
        return "-"
    return f"{measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})"


def collect_here(out: Path, sources: list[str], *, form: str, rows: int, words: int, seed: int, force: bool) -> str:
    """Write a collection's rows as JSON lines; what was written, in a line.

    Raises:
        InputError: the file is there already, the form is unknown, or a source does not fit.
    """
    from ..data.collection import collect, sources_of
    from ..errors import unknown
    from ..storage import atomic_file

    if form not in ("options", "yes_no"):
        raise unknown("form", form, ["options", "yes_no"], where="--form")
    if out.suffix != ".jsonl":
        raise InputError(f"suffix {out.suffix!r}", where=out, expected=".jsonl")
    if out.exists() and not force:
        raise InputError("is there already", where=out, fix="name another file, or --force to replace it")
    made = collect(sources_of(_named(sources)), form, rows, seed, words)  # type: ignore[arg-type]
    with atomic_file(out) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    counts = ", ".join(f"{name} {n:,}" for name, n in Counter(row["source"] for row in made).items())
    return f"{out}: {len(made):,} rows ({counts})"


def _named(sources: list[str]) -> Any:
    """Sources as they were given, or what one YAML file says of them."""
    from ..recipe import values_in

    if len(sources) != 1 or not sources[0].endswith((".yaml", ".yml")):
        return sources
    return values_in(sources[0], what="sources", expected="name: {rows: ...}")
