"""What `tunesmith tune` does beyond the library: the plan of a dry run, and the result on the screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..recipe import Recipe
from ..storage import write_json


def tune_here(
    recipe: Recipe,
    out: Path,
    name: str | None,
    *,
    force: bool,
    resume: bool,
    style: str,
    as_json: bool,
    decide: bool,
    processes: int = 1,
    on: str = "here",
) -> Any:
    """Carry the recipe out, and give the report for the screen or as JSON.

    With ``decide``, prompt or head is chosen first by what is measured on the few rows; ``choice.json`` keeps it. With
    several ``processes``, they share every step's rows, ``on`` this machine or a Ray cluster; one that was started beside
    others shows nothing.
    """
    from ..run.api import start
    from ..run.events import listener

    _check_together(name, processes, decide)
    choice = None
    if decide:
        from ..run.few_shot import choose

        choice = choose(recipe, listen=listener(style))
        recipe = choice.recipe
    run = _several(recipe, out, name, processes, on, force=force, resume=resume, style=style)
    run = run or start(recipe, out, name, listen=listener(style), force=force, resume=resume)
    if choice:
        write_json(run.folder / "choice.json", choice.to_dict())
    if as_json:
        return {"folder": str(run.folder), **run.results, **({"choice": choice.to_dict()} if choice else {})}
    from rich.console import Group
    from rich.text import Text

    hint = f"kept in {run.folder}: report.html, card.md, {run.artefact.name}/"
    return Group(run.report(), *(Text(line) for line in (choice.lines if choice else ())), Text(hint))


def _check_together(name: str | None, processes: int, decide: bool) -> None:
    """What several processes have to agree on before they begin."""
    beside = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if beside and name is None:
        raise InputError("several processes need one folder", where="--name", expected="the name of the run")
    if beside and processes > 1:
        raise InputError("this is one of several processes already", where="--processes", fix="leave it out")
    if beside and decide:
        raise InputError("is measured in one process", where="--shots", fix="use --processes in place of a launcher")


def _several(
    recipe: Recipe, out: Path, name: str | None, processes: int, on: str, *, force: bool, resume: bool, style: str
) -> Any:
    """The run that several processes carried out; None where this one does it all, or is the first of several."""
    from ..engine.processes import is_first

    if not is_first():
        from ..run.carry_out import carry_out

        carry_out(recipe, out / str(name), listen=lambda event: None, force=force, resume=resume)
        raise SystemExit(0)
    if processes == 1 and on == "here":
        return None
    from ..run.launch import launch
    from ..run.opened import Run

    return Run(launch(recipe, out, name, processes, force=force, resume=resume, style=style, on=on))


def plan(recipe: Recipe, as_json: bool) -> Any:
    """The resolved recipe, the rows with three of them token by token, and what would be trained; nothing is written."""
    import sys

    from ..run.build import make_host
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
        "recipe": prepared.recipe.to_dict(), "rows": prepared.facts, "rate": prepared.recipe.rate,
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
