"""The commands and their options; each hands over to the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..errors import InputError, TunesmithError

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune a pretrained language model on your rows, and measure what it did.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, events as JSON on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result.")]


_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]
"""The base of all usage errors. Newer versions of typer bring their own click, so it is taken from typer."""


def run(arguments: list[str]) -> int:
    """Carry out a command line; returns the exit code. Every error of the user's is one line on stderr."""
    try:
        result = app(arguments, prog_name="tunesmith", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except TunesmithError as error:
        return _fail(str(error), error.exit_code)
    except _CLICK_ERROR as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "tunesmith"
        return _fail(f"{error.format_message()} See '{command} --help'.", 2)


def _fail(message: str, code: int) -> int:
    print(f"tunesmith: {' '.join(message.split())}", file=sys.stderr)
    return code


def _print(value: Any, as_json: bool) -> None:
    """A result on stdout: JSON for machines, else a rich table or text."""
    if as_json:
        print(json.dumps(value, indent=2, default=str, ensure_ascii=False))
    else:
        from rich.console import Console

        Console().print(value)


def _changes(settings: list[str], columns: list[str], named: dict[str, Any]) -> dict[str, Any]:
    """Dotted changes from ``--set``, ``--column`` and the options that have a name of their own."""
    changes = {key: value for key, value in named.items() if value is not None}
    for pair in columns:
        role, found, column = pair.partition("=")
        if not found:
            raise InputError(f"{pair!r} names no column", where="--column", expected="ROLE=COLUMN, e.g. text=review")
        changes[f"rows.columns.{role}"] = column
    for pair in settings:
        key, found, value = pair.partition("=")
        if not found or not key:
            raise InputError(f"{pair!r} sets nothing", where="--set", expected="OPTION=VALUE, e.g. budget.steps=100")
        changes[key] = yaml.safe_load(value)
    return changes


@app.command()
def tune(
    source: Annotated[str, typer.Argument(metavar="ROWS|RECIPE", help="Rows, packaged:NAME, or a recipe (.yaml).")],
    base: Annotated[str | None, typer.Option(help="Alias (see `models`), folder, or hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="classify, pair, regress, tag, generate, chat, lm.")] = None,
    adapter: Annotated[str | None, typer.Option(help="What is added, e.g. lora (see `parts`).")] = None,
    mask: Annotated[str | None, typer.Option(help="Which own weights move, e.g. everything, head.")] = None,
    column: Annotated[list[str], typer.Option(help="ROLE=COLUMN, e.g. text=review.")] = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set", help="OPTION=VALUE, any option of a recipe.")] = [],  # noqa: B006
    epochs: Annotated[float | None, typer.Option(help="Passes over the training rows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of training.")] = None,
    length: Annotated[int | None, typer.Option(help="Most tokens of a row.")] = None,
    over_length: Annotated[str | None, typer.Option(help="truncate, drop or stop.")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.")] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Measure what tuning broke, too.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; made from the rows if not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run of this name.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut off.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show recipe, rows and plan; train nothing.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a base on rows; keep the run in a folder, and report it against its base."""
    from .tuning import plan, tune_here

    changes = _changes(set_, column, {
        "base": base, "task": task, "adapter": adapter, "mask": mask, "budget.epochs": epochs, "budget.steps": steps,
        "budget.minutes": minutes, "length.max": length, "length.over": over_length, "seed": seed,
        "audit": True if audit else None,
    })  # fmt: skip
    recipe = _recipe(source, changes)
    if dry_run:
        _print(plan(recipe, json_), json_)
        return
    style = "json" if json_ else "quiet" if quiet else "auto"
    _print(tune_here(recipe, out, name, force=force, resume=resume, style=style, as_json=json_), json_)


def _recipe(source: str, changes: dict[str, Any]) -> Any:
    from .. import recipe

    if source.endswith((".yaml", ".yml")):
        return recipe.read(source, changes)
    return recipe.make(recipe.override({"rows": {"train": source}}, changes))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    rows: Annotated[str, typer.Argument(help="Rows to predict.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write: csv, jsonl or parquet.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Predict for each row; write a table, or JSON lines on stdout."""
    from ..run.api import predict_file

    predict_file(run, rows, out, force=force)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    prompt: Annotated[str, typer.Argument(help="Prompt; for a chat run, what the user says.")],
    tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    base: Annotated[bool, typer.Option("--base", help="Let the base model write instead.")] = False,
) -> None:
    """Let a tuned language model continue a prompt."""
    from ..run.api import open_run

    opened = open_run(run)
    print(opened.generate([prompt], tokens=tokens, temperature=temperature, seed=seed, base=base)[0])


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    rows: Annotated[str, typer.Argument(help="Rows with their answers.")],
    json_: Json = False,
) -> None:
    """Score a run on other rows, against its base, with intervals."""
    from ..run.api import open_run
    from .show import scores_table

    result = open_run(run).evaluate(rows)
    _print(result if json_ else scores_table(result), json_)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    names: Annotated[
        str | None,
        typer.Option("--with", help="Audits, e.g. forgetting,calibration (see `parts audit`); none takes all."),
    ] = None,
    set_: Annotated[list[str], typer.Option("--set", help="AUDIT.SETTING=VALUE.")] = [],  # noqa: B006
    json_: Json = False,
) -> None:
    """Measure what tuning broke: forgetting, calibration, robustness and more; writes audit.json."""
    from ..run.api import open_run
    from .show import audit_table

    found = open_run(run).audit(names, changes=_changes(set_, [], {}))
    _print(found if json_ else audit_table(found), json_)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")], json_: Json = False) -> None:
    """Show the report of a run again."""
    from .show import report_of

    _print(report_of(run, json_), json_)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    form: Annotated[
        str, typer.Option("--as", help="merged (a plain model), adapter (PEFT's format), or auto.")
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")] = False,
) -> None:
    """Write a run's model for other tools, and check it in a fresh process."""
    from ..run.api import open_run

    print(open_run(run).save_pretrained(out, form=form, force=force))


@app.command()
def data(
    source: Annotated[str | None, typer.Argument(metavar="ROWS", help="Rows; none lists the packaged sets.")] = None,
    task: Annotated[str | None, typer.Option(help="Read the rows as this task.")] = None,
    column: Annotated[list[str], typer.Option(help="ROLE=COLUMN, e.g. text=review.")] = [],  # noqa: B006
    base: Annotated[str | None, typer.Option(help="Show the rows token by token, as this base reads them.")] = None,
    json_: Json = False,
) -> None:
    """Show what tunesmith finds in rows: format, columns, task, and three rows as the model sees them."""
    from .show import packaged_rows, rows_found

    if source is None:
        _print(packaged_rows(json_), json_)
        return
    columns = {k.removeprefix("rows.columns."): v for k, v in _changes([], column, {}).items()}
    _print(rows_found(source, task, columns, base, json_), json_)


@app.command()
def models(json_: Json = False) -> None:
    """List the packaged base models."""
    from .show import packaged_bases

    _print(packaged_bases(json_), json_)


@app.command()
def parts(
    kind: Annotated[
        str | None, typer.Argument(help="adapter, mask, loss, gradient, optimizer, schedule or audit.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the parts: every technique, with its settings and its source."""
    from .show import parts_table

    _print(parts_table(kind, json_), json_)


@app.command()
def show(part: Annotated[str, typer.Argument(help="Name of a part.")], json_: Json = False) -> None:
    """Show one part: what it does, its settings and its source."""
    from .show import part_page

    _print(part_page(part, json_), json_)


@app.command()
def doctor(json_: Json = False) -> None:
    """Check this machine: versions, device, precision, caches, extras."""
    from .show import doctor_table

    _print(doctor_table(json_), json_)
