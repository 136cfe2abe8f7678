"""What `tunesmith tune` does beyond the library: the plan of a dry run, and the result on the screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..recipe import Recipe


def tune_here(
    recipe: Recipe,
    out: Path,
    name: str | None,
    *,
    force: bool,
    resume: bool,
    style: str,
    as_json: bool,
    processes: int = 1,
) -> Any:
    """Carry the recipe out, and give the report for the screen or as JSON."""
    from ..engine.processes import is_first
    from ..run.api import start
    from ..run.events import listener
    from ..run.opened import Run

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and name is None:
        raise InputError("several processes need one folder", where="--name", expected="the name of the run")
    if not is_first():
        from ..run.carry_out import carry_out

        carry_out(recipe, out / str(name), listen=listener("quiet"), force=force, resume=resume)
        raise SystemExit(0)
    if processes > 1:
        from ..run.launch import launch

        return _shown(Run(launch(recipe, out, name, processes, force=force, resume=resume, style=style)), as_json)
    run = start(recipe, out, name, listen=listener(style), force=force, resume=resume)
    return _shown(run, as_json)


def _shown(run: Any, as_json: bool) -> Any:
    if as_json:
        return {"folder": str(run.folder), **run.results}
    from rich.console import Group
    from rich.text import Text

    hint = f"kept in {run.folder}: report.html, card.md, {run.artefact.name}/"
    return Group(run.report(), Text(hint))


def plan(recipe: Recipe, as_json: bool) -> Any:
    """The resolved recipe, the rows with three of them token by token, and what would be trained; nothing is written."""
    import sys

    from ..run.build import make_host, rate_of
    from ..run.prepare import prepare

    notes: list[str] = []
    prepared = prepare(recipe, notes.append)
    task = prepared.task
    labels = task.labels if task.name != "regress" else None
    host = make_host(prepared.recipe, prepared.base, prepared.head, labels, multi=bool(getattr(task, "multi", False)))
    trainable = {name: list(p.shape) for name, p in host.trainable().items()}
    count = host.count()
    total = sum(p.numel() for p in host.model.parameters())
    steps = -(-prepared.facts["splits"]["train"]["rows"] // recipe.batch.rows)
    facts = {
        "recipe": prepared.recipe.to_dict(), "rows": prepared.facts, "rate": rate_of(prepared.recipe),
        "trainable": count, "parameters": total, "steps_per_epoch": steps, "tensors": trainable,
    }  # fmt: skip
    if as_json:
        return facts
    from rich.console import Group
    from rich.syntax import Syntax
    from rich.text import Text

    from .show import rendered

    for note in notes:
        print(note, file=sys.stderr)
    lines = f"{count:,} of {total:,} weights train, at rate {facts['rate']:g}; {steps:,} steps an epoch"
    first = prepared.parted.tables["train"].take(prepared.parted.indices["train"][:3])
    return Group(
        Syntax(prepared.recipe.to_yaml(), "yaml", background_color="default"),
        *rendered(task, prepared.reader, first),
        Text(lines),
    )
