"""The library's functions: fine-tune, open a run, predict, generate, evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..errors import InputError
from ..recipe import Recipe
from ..storage import atomic_file
from .events import Listener, listener
from .opened import Run

_BUDGET = ("epochs", "steps", "minutes", "patience")


def tune(
    rows: Any,
    *,
    base: str | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    force: bool = False,
    resume: bool = False,
    progress: str | Listener = "auto",
    **options: Any,
) -> Run:
    """Fine-tune a base on rows, report it against its base, and keep the run in a folder.

    Args:
        rows: whatever `tunesmith.data.rows.read` reads; or a recipe, or a recipe file (``.yaml``).
        base: alias, folder or hub id; None picks a packaged one.
        out: folder of the runs.
        name: name of the run; None makes one from the rows that is still free.
        force: replace a run of this name.
        resume: go on with a run of this name that was cut off.
        progress: ``auto``, ``bar``, ``lines``, ``json`` or ``quiet``; or a function that hears every event.
        **options: any option of a recipe (``adapter=ts.LoRA(rank=8)``, ``mask="head"``, ``seed=1``,
            ``budget={"minutes": 5}``), and ``epochs``, ``steps``, ``minutes``, ``patience`` of its budget by themselves.

    Returns:
        The finished run.

    Raises:
        InputError: anything that the caller can mend.
        RunError: training failed, or the saved model is not the trained one.
    """
    options = {k: v for k, v in {"base": base, **options}.items() if v is not None}
    budget = {k: options.pop(k) for k in _BUDGET if k in options}
    if isinstance(rows, Recipe):
        made = rows.updated(options)
    elif isinstance(rows, str | Path) and str(rows).endswith((".yaml", ".yml")):
        made = recipes.read(rows, {**options, **{f"budget.{k}": v for k, v in budget.items()}})
    else:
        given = {"budget": {**options.pop("budget", {}), **budget}, **options}
        made = recipes.make({"rows": rows if isinstance(rows, dict) else {"train": rows}, **given})
    return start(made, Path(out), name, force=force, resume=resume, listen=listener(progress))


def start(
    recipe: Recipe, out: Path, name: str | None, *, listen: Listener, force: bool = False, resume: bool = False
) -> Run:
    """Carry out a checked recipe into ``out/name``; see `tune`."""
    from .carry_out import carry_out

    folder = out / name if name else free_folder(out, recipe)
    carry_out(recipe, folder, listen=listen, force=force, resume=resume)
    return Run(folder)


def free_folder(out: Path, recipe: Recipe) -> Path:
    """A folder that is not there yet, named after rows and technique: ``runs/reviews-lora``, ``runs/reviews-lora-2``."""
    rows = recipe.rows.train
    stem = str(rows).removeprefix("packaged:").split("/")[-1].split(".")[0] if isinstance(rows, str | Path) else "rows"
    parts = [*recipe.adapter, *([recipe.mask] if recipe.mask else [])]
    name = "-".join([stem or "rows", *(p.name for p in parts)])
    number = 1
    while (folder := out / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def open_run(folder: str | Path, *, exchange: Mapping[str, str] = {}) -> Run:
    """A finished run, to be used.

    Args:
        folder: of the run.
        exchange: folder of an earlier run that it stands on -> folder of another that takes its place; see `Run`.

    Raises:
        InputError: the folder holds no finished run, or it does not stand on what is to be exchanged.
    """
    return Run(folder, exchange=exchange)


def predict(folder: str | Path, rows: Any) -> list[Any]:
    """What a run says of each row; see `Run.predict`."""
    return Run(folder).predict(rows)


def generate(folder: str | Path, prompts: Sequence[Any], **options: Any) -> list[str]:
    """What a run writes after each prompt; see `Run.generate`."""
    return Run(folder).generate(prompts, **options)


def evaluate(folder: str | Path, rows: Any) -> dict[str, Any]:
    """Scores of a run on other rows; see `Run.evaluate`."""
    return Run(folder).evaluate(rows)


def predict_file(
    folder: str | Path, rows: str, out: Path | None, *, force: bool = False, exchange: Mapping[str, str] = {}
) -> None:
    """Predict for each row of a file; write its columns with the predictions beside them.

    Args:
        folder: the run.
        rows: file of rows.
        out: csv, jsonl or parquet file; None prints JSON lines.
        force: replace ``out`` if it exists.
        exchange: see `Run`.

    Raises:
        InputError: ``out`` exists or has an unknown suffix, or the rows lack a column.
    """
    if out is not None and out.suffix not in (".csv", ".jsonl", ".parquet"):
        raise InputError(f"suffix {out.suffix!r}", where=out, expected=".csv, .jsonl or .parquet")
    if out is not None and out.exists() and not force:
        raise InputError("is there already", where=out, fix="name another file, or --force to replace it")
    from ..data.rows import read

    run = Run(folder, exchange=exchange)
    table = read(rows)
    said = run.predict(table)
    records = [{**table[i], **_columns(value)} for i, value in enumerate(said)]
    if out is None:
        for record in records:
            print(json.dumps(record, ensure_ascii=False, default=str))
        return
    _write(records, out)


def _columns(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {f"predicted_{k}": v for k, v in value.items()}
    return {"predicted": value}


def _write(records: list[dict[str, Any]], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if out.suffix == ".jsonl":
        with atomic_file(out) as file:
            file.writelines(json.dumps(r, ensure_ascii=False, default=str) + "\n" for r in records)
        return
    flat = out.suffix == ".csv"
    rows = [{k: json.dumps(v) if flat and isinstance(v, list | dict) else v for k, v in r.items()} for r in records]
    table = pa.Table.from_pylist(rows)
    with atomic_file(out, "wb") as file:
        pa.csv.write_csv(table, file) if flat else pa.parquet.write_table(table, file)
