"""The commands and their options; each hands over to the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .screen import fail, outcome, show_result

PLAIN: Any = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
"""How the program shows itself: one line an error, no colours in help."""

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune a pretrained language model on your rows, and measure what it did.",
    no_args_is_help=True,
    **PLAIN,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, events as JSON on stderr.")]
Base = Annotated[str | None, typer.Option(help="Alias (see `models`), folder, or hub id.")]
TaskName = Annotated[str | None, typer.Option(help="classify, pair, regress, tag, generate, chat, lm.")]
AdapterName = Annotated[str | None, typer.Option(help="What is added, e.g. lora (see `parts`).")]
MaskName = Annotated[str | None, typer.Option(help="Which own weights move, e.g. everything, head.")]
Columns = Annotated[list[str], typer.Option(help="ROLE=COLUMN, e.g. text=review.")]
Settings = Annotated[list[str], typer.Option("--set", help="OPTION=VALUE, any option of a recipe.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training rows.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.")]
Length = Annotated[int | None, typer.Option(help="Most tokens of a row.")]
Source = Annotated[str, typer.Argument(metavar="ROWS|RECIPE", help="Rows, packaged:NAME, or a recipe (.yaml).")]
On = Annotated[str, typer.Option(help="here, or ray (a cluster: set RAY_ADDRESS).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result.")]
Exchange = Annotated[
    list[str], typer.Option(help="OLD=NEW: an earlier run that this one stands on, and the one that takes its place.")
]


_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]
"""The base of all usage errors. Newer versions of typer bring their own click, so it is taken from typer."""


def run(arguments: list[str]) -> int:
    """Carry out a command line; returns the exit code. Every error of the user's is one line on stderr."""
    try:
        return outcome(lambda: _asked(arguments)(arguments, prog_name="tunesmith", standalone_mode=False))
    except typer.Abort:
        return fail("interrupted", 130)
    except _CLICK_ERROR as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "tunesmith"
        return fail(f"{error.format_message()} See '{command} --help'.", 2)


def _asked(arguments: list[str]) -> typer.Typer:
    """The application with the command that is asked for alone: to describe all of them takes longer than many need."""
    asked = [c for c in app.registered_commands if c.callback is not None and c.callback.__name__ in arguments[:1]]
    if not asked:
        return app
    small = typer.Typer(**PLAIN)
    small.callback()(lambda: None)
    small.registered_commands = asked
    return small


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    """What stands on the two sides of each ``OLD=NEW``."""
    found = {}
    for pair in given:
        old, both, new = pair.partition("=")
        if not (old and both and new):
            raise InputError(f"{pair!r} exchanges nothing", where=option, expected="OLD=NEW, two folders of runs")
        found[old] = new
    return found


def _changes(settings: list[str], columns: list[str], named: dict[str, Any]) -> dict[str, Any]:
    """Dotted changes from ``--set``, ``--column`` and the options that have a name of their own."""
    if settings:
        import yaml

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
    source: Source,
    base: Base = None,
    task: TaskName = None,
    adapter: AdapterName = None,
    mask: MaskName = None,
    column: Columns = [],  # noqa: B006
    set_: Settings = [],  # noqa: B006
    epochs: Epochs = None,
    steps: Steps = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of training.")] = None,
    length: Length = None,
    over_length: Annotated[str | None, typer.Option(help="truncate, drop or stop.")] = None,
    shots: Annotated[
        int | None, typer.Option(help="Take so many rows a label; prompt or head by what is measured on them.", min=2)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.")] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Measure what tuning broke, too.")] = False,
    memory: Annotated[str | None, typer.Option(help="Most memory, e.g. 2GB: the micro-batch is chosen to fit.")] = None,
    processes: Annotated[int, typer.Option(help="Processes that share every step's rows.", min=1)] = 1,
    on: On = "here",
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
        "audit": True if audit else None, "memory": memory, "rows.shots": shots,
    })  # fmt: skip
    if shots and not any(key.startswith(("budget.", "batch.")) for key in changes):
        changes |= {"budget.epochs": 20.0, "batch.rows": 8}  # three passes over a few rows are a handful of steps
    recipe = _recipe(source, changes)
    if dry_run:
        show_result(plan(recipe, json_), json_)
        return
    style = "json" if json_ else "quiet" if quiet else "auto"
    show_result(
        tune_here(
            recipe, out, name, force=force, resume=resume, style=style, as_json=json_, processes=processes,
            on=on, decide=shots is not None and not resume,
        ), json_,
    )  # fmt: skip


@app.command()
def plan(
    source: Source,
    for_: Annotated[str | None, typer.Option("--for", help="Another machine: 8GB, or 1x24GB for one GPU.")] = None,
    base: Base = None,
    task: TaskName = None,
    adapter: AdapterName = None,
    mask: MaskName = None,
    column: Columns = [],  # noqa: B006
    set_: Settings = [],  # noqa: B006
    epochs: Epochs = None,
    steps: Steps = None,
    length: Length = None,
    memory: Annotated[str | None, typer.Option(help="Most memory of the process, e.g. 2GB.")] = None,
    json_: Json = False,
) -> None:
    """Predict memory, time and disk of a recipe before any weight is loaded, and what would make it fit."""
    from ..run.planned import plan as planned

    recipe = _recipe(source, _changes(set_, column, {
        "base": base, "task": task, "adapter": adapter, "mask": mask, "budget.epochs": epochs, "budget.steps": steps,
        "length.max": length, "memory": memory,
    }))  # fmt: skip
    found = planned(recipe, for_, say=lambda text: print(text, file=sys.stderr))
    print(json.dumps(found.to_dict(), indent=2) if json_ else "\n".join(found.lines()))


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
    exchange: Exchange = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Predict for each row; write a table, or JSON lines on stdout."""
    from ..run.api import predict_file

    predict_file(run, rows, out, force=force, exchange=_pairs("--exchange", exchange))


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
def chat(
    run: Annotated[Path, typer.Argument(help="Folder of a run that writes.")],
    both: Annotated[bool, typer.Option("--both", help="Show the base's answers beside the tuned model's.")] = False,
    base: Annotated[bool, typer.Option("--base", help="Let the base answer.")] = False,
    system: Annotated[str, typer.Option(help="What stands before all turns.")] = "",
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability to draw from.", min=0, max=1)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Talk with a tuned language model; from a pipe, each line is a turn."""
    from .chatting import talk

    who = "both" if both else "base" if base else "tuned"
    talk(run, who=who, system=system, tokens=tokens, temperature=temperature, top_p=top_p, seed=seed)


@app.command()
def improve(
    source: Annotated[str, typer.Argument(help="A run, a base, or a recipe with the key improve (.yaml).")],
    rows: Annotated[str | None, typer.Argument(help="Prompts, with answers where the judge needs them.")] = None,
    judge: Annotated[str | None, typer.Option(help="Who says what an answer is worth (see `parts judge`).")] = None,
    maker: Annotated[str | None, typer.Option(help="What becomes of the verdicts (see `parts maker`).")] = None,
    like: Annotated[str | None, typer.Option(help="A published way, e.g. rest_em, s3ft, leti, facttune.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Most rounds; 0 only scores.", min=0)] = None,
    samples: Annotated[int | None, typer.Option(help="Answers to each prompt.", min=0)] = None,
    tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.", min=1)] = None,
    column: Annotated[list[str], typer.Option(help="ROLE=COLUMN, e.g. prompt=question.")] = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set", help="OPTION=VALUE, of the loop or of a recipe.")] = [],  # noqa: B006
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Let judge unit_tests run what the model wrote, confined.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the improvement's folder.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Its name; made from the source if not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace one of this name.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with one that was cut off.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a model write, judge what it writes, and tune it on what is good; round by round, scored on held-out rows."""
    from .improving import improve_here

    options = _changes(set_, column, {
        "judge": judge, "maker": maker, "like": like, "rounds": rounds, "samples": samples, "tokens": tokens, "seed": seed,
        "judge.unit_tests.allow": "confined" if run_code else None,
    })  # fmt: skip
    style = "json" if json_ else "quiet" if quiet else "auto"
    show_result(
        improve_here(
            source, rows, options, out=out, name=name, force=force, resume=resume, style=style, as_json=json_
        ), json_,
    )  # fmt: skip


@app.command("self-train")
def self_train(
    source: Annotated[str, typer.Argument(help="A recipe with the key label (.yaml).")],
    unlabelled: Annotated[
        str | None, typer.Option("--rows", help="Rows without labels, in place of the file's.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of labelling.", min=1)] = None,
    set_: Annotated[list[str], typer.Option("--set", help="OPTION=VALUE, e.g. label.keep=0.5.")] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of its folder.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Its name; that of the file if not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace one of this name.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with one that was cut off.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune on few labels, label other rows with the model, and tune on what it is sure of; round by round."""
    from .self_training import self_train_here

    options = _changes(set_, [], {"label.rows": unlabelled, "label.rounds": rounds, "seed": seed})
    style = "json" if json_ else "quiet" if quiet else "auto"
    show_result(
        self_train_here(source, options, out=out, name=name, force=force, resume=resume, style=style, as_json=json_),
        json_,
    )


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="File to write (.jsonl).")],
    sources: Annotated[
        list[str], typer.Argument(help="Labelled rows, or one YAML file: name -> rows, question, labels.")
    ],
    form: Annotated[
        str, typer.Option(help="options: a letter among options; yes_no: whether a label fits.")
    ] = "options",
    rows: Annotated[int, typer.Option(help="Most rows of a source.", min=1)] = 500,
    words: Annotated[int, typer.Option(help="Words of a text that are kept.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Make one row set of many: each row a question whose answer is one word, for a base that fills blanks."""
    from .self_training import collect_here

    print(collect_here(out, sources, form=form, rows=rows, words=words, seed=seed, force=force))


@app.command()
def prompts(
    source: Source,
    shots: Annotated[int, typer.Option(help="Rows of each label to tune on, and as many to choose on.", min=2)] = 16,
    base: Base = None,
    templates: Annotated[int, typer.Option(help="Templates that the base writes; 0 for none.", min=0)] = 4,
    words: Annotated[int, typer.Option(help="Assignments of label words; 0 for none.", min=0)] = 4,
    write: Annotated[Path | None, typer.Option("-o", "--out", help="Recipe file to write.")] = None,
    column: Columns = [],  # noqa: B006
    set_: Settings = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Every random choice comes from it.")] = None,
    json_: Json = False,
) -> None:
    """Search a template and label words for a cloze on few rows: each candidate is tuned, the best on held-out rows wins."""
    from .few import prompts_here

    named = {"base": base, "rows.shots": shots, "seed": seed, "budget.epochs": 20.0, "batch.rows": 8}
    if source.endswith((".yaml", ".yml")):
        named = {"base": base, "rows.shots": shots, "seed": seed}
    recipe = _recipe(source, {**{k: v for k, v in named.items() if v is not None}, **_changes(set_, column, {})})
    show_result(prompts_here(recipe, templates, words, write, as_json=json_), json_)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    rows: Annotated[str, typer.Argument(help="Rows with their answers.")],
    exchange: Exchange = [],  # noqa: B006
    json_: Json = False,
) -> None:
    """Score a run on other rows, against its base, with intervals."""
    from ..run.api import open_run
    from .show import scores_table

    result = open_run(run, exchange=_pairs("--exchange", exchange)).evaluate(rows)
    show_result(result if json_ else scores_table(result), json_)


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
    show_result(found if json_ else audit_table(found), json_)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")], json_: Json = False) -> None:
    """Show the report of a run again."""
    from .show import report_of

    show_result(report_of(run, json_), json_)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    form: Annotated[
        str, typer.Option("--as", help="merged (a plain model), adapter (PEFT's format), log, or auto.")
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
    column: Columns = [],  # noqa: B006
    base: Annotated[str | None, typer.Option(help="Show the rows token by token, as this base reads them.")] = None,
    json_: Json = False,
) -> None:
    """Show what tunesmith finds in rows: format, columns, task, and three rows as the model sees them."""
    from .show import packaged_rows, rows_found

    if source is None:
        show_result(packaged_rows(json_), json_)
        return
    columns = {k.removeprefix("rows.columns."): v for k, v in _changes([], column, {}).items()}
    show_result(rows_found(source, task, columns, base, json_), json_)


@app.command()
def models(json_: Json = False) -> None:
    """List the packaged base models."""
    from .show import packaged_bases

    show_result(packaged_bases(json_), json_)


@app.command()
def parts(
    kind: Annotated[
        str | None, typer.Argument(help="adapters, masks, losses, gradients, audits, judges, ... (singular or plural).")
    ] = None,
    json_: Json = False,
) -> None:
    """List the parts: every technique, with its settings and its source."""
    from .show import parts_table

    show_result(parts_table(kind, json_), json_)


@app.command()
def show(part: Annotated[str, typer.Argument(help="Name of a part.")], json_: Json = False) -> None:
    """Show one part: what it does, its settings and its source."""
    from .show import part_page

    show_result(part_page(part, json_), json_)


Store = Annotated[Path, typer.Option(help="Folder of results; what is there is not computed again.")]
Workers = Annotated[int, typer.Option(help="Trainings at a time; they share the cores.", min=1)]


@app.command()
def compare(
    sources: Annotated[list[str], typer.Argument(metavar="ROWS|RECIPE...", help="Rows with --with, or recipe files.")],
    with_: Annotated[str | None, typer.Option("--with", help="Techniques: lora,head,lora+norms (see `parts`).")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each recipe.", min=1)] = 5,
    base: Base = None,
    task: TaskName = None,
    column: Columns = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set", help="OPTION=VALUE, for every recipe.")] = [],  # noqa: B006
    epochs: Epochs = None,
    audit: Annotated[
        bool | None,
        typer.Option(
            help="Measure what tuning broke, too, with the first seed; unless told, without rows to be fetched first."
        ),
    ] = None,
    on: On = "here",
    workers: Workers = 1,
    correction: Annotated[str, typer.Option(help="For many comparisons: holm or bh.")] = "holm",
    out: Annotated[Path, typer.Option(help="Folder of the comparisons.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the comparison; made from the rows if not given.")] = None,
    store: Store = Path("runs/results"),
    force: Annotated[bool, typer.Option("--force", help="Replace a comparison of this name.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare techniques on the same rows over several seeds: every difference with its interval, every cost."""
    from ..comparing.pool import check_executor
    from . import evidence

    check_executor(on)
    if correction not in ("holm", "bh"):
        raise InputError(f"--correction is {correction}", expected="holm or bh")
    named: dict[str, Any] = {"base": base, "task": task, "budget.epochs": epochs, "audit": audit}
    if audit is False:
        named["audit"] = []
    found = evidence.recipes_of(sources, with_, _changes(set_, column, named))
    if audit is None:
        found = evidence.with_audits(found, evidence.say(quiet or json_))
    folder, values = evidence.compare_here(
        found, seeds, out, name, force, evidence.say(quiet or json_), on=on, workers=workers, correction=correction,
        store=store,
    )  # fmt: skip
    if json_:
        show_result({"folder": str(folder), **values}, json_)
        return
    from ..comparing.report import render_terminal

    show_result(render_terminal(values), False)
    print(f"kept in {folder}: report.html, comparison.json")


arena_app = typer.Typer(help="The fixed tasks on which techniques meet.", no_args_is_help=False)
app.add_typer(arena_app, name="arena")


@arena_app.callback(invoke_without_command=True)
def arena_list(context: typer.Context, json_: Json = False) -> None:
    """List the arena's tasks."""
    from .evidence import arena_tasks

    if context.invoked_subcommand is None:
        show_result(arena_tasks(json_), json_)


@arena_app.command("tune")
def arena_tune(
    only: Annotated[list[str] | None, typer.Argument(help="Names of techniques; none tunes all.")] = None,
    store: Store = Path("claims/store"),
    on: On = "here",
    workers: Workers = 1,
) -> None:
    """Find learning rates anew, with the same number of trials for all: of the baselines, and of what claims hold
    against them on the language model."""
    from ..comparing import arena
    from ..comparing.store import Store as Results
    from ..storage import write_json
    from .evidence import say

    found = arena.tune(Results(store), only or [], on=on, workers=workers, hear=say(False))
    write_json(arena.RATES, found)
    show_result(found["rates"], True)


@arena_app.command("run")
def arena_run(
    tasks: Annotated[list[str] | None, typer.Argument(help="Names of tasks; none runs all.")] = None,
    with_: Annotated[str, typer.Option("--with", help="Baselines: full, head, lora.")] = "full,head,lora",
    seeds: Annotated[int, typer.Option(help="Trainings of each.", min=1)] = 5,
    store: Store = Path("claims/store"),
    on: On = "here",
    workers: Workers = 1,
    json_: Json = False,
) -> None:
    """Carry out the baselines on the arena's tasks; what the store has is not computed again."""
    from . import evidence

    named = with_.split(",")
    done = evidence.arena_run(tasks or [], seeds, named, evidence.say(json_), on=on, workers=workers, store=store)
    if json_:
        show_result({name: compared.to_dict() for name, compared in done.items()}, True)
        return
    from ..comparing.report import render_terminal

    for name, compared in done.items():
        print(name)
        show_result(render_terminal(compared.to_dict()), False)


claims_app = typer.Typer(help="Claims of papers, as experiments that anyone can run again.")
app.add_typer(claims_app, name="claims")

Folder = Annotated[Path | None, typer.Option(help="Folder of claims; none takes ./claims, else the package's own.")]


@claims_app.callback(invoke_without_command=True)
def claims(context: typer.Context, folder: Folder = None, json_: Json = False) -> None:
    """List every claim with its verdict, its effect with interval, and its cost."""
    from . import evidence

    if context.invoked_subcommand is not None:
        return
    where = evidence.claims_folder(folder)
    if json_:
        show_result(evidence.claims_json(where), True)
        return
    from ..claims.claim import every
    from ..claims.page import claims_table
    from ..claims.settle import stored

    found = every(where)
    show_result(claims_table(found, {name: stored(where, claim) for name, claim in found.items()}), False)


@claims_app.command("run")
def claims_run(
    names: Annotated[list[str], typer.Argument(help="Catalogue numbers or names.")],
    folder: Folder = None,
    store: Annotated[Path | None, typer.Option(help="Folder of results; none takes the claims' own.")] = None,
    on: On = "here",
    workers: Workers = 1,
    json_: Json = False,
) -> None:
    """Run a claim's experiment here, keep its result, and compare with the one that was stored."""
    from ..claims.claim import of_paper
    from ..claims.page import render_claim
    from ..comparing.pool import Crew
    from ..errors import RunError
    from . import evidence

    where = evidence.claims_folder(folder)
    stems = dict.fromkeys(claim.stem for name in names for claim in of_paper(where, name))
    hear, failed = evidence.say(json_), dict[str, InputError | RunError]()
    with Crew(workers) as crew:
        how: dict[str, Any] = {"on": on, "workers": workers, "crew": crew}
        for stem in stems:
            try:
                claim, result, said = evidence.run_claim(stem, where, store or where / "store", hear, **how)
            except (InputError, RunError) as error:
                failed[stem] = error
                continue
            show_result(result if json_ else render_claim(claim, result), json_)
            if not json_:
                print(said)
    if failed:
        kind = type(next(iter(failed.values())))
        raise kind("; ".join(f"{stem}: {error}" for stem, error in failed.items()))


@claims_app.command("show")
def claims_show(
    name: Annotated[str, typer.Argument(help="Catalogue number or name.")],
    folder: Folder = None,
    plot: Annotated[Path | None, typer.Option(help="Write the plot to this file (.svg or .png).")] = None,
    json_: Json = False,
) -> None:
    """Show a claim: the paper's sentence in our words, the experiment, every seed's figure, the plot."""
    from ..claims.claim import find, of_paper
    from ..claims.page import render_claim
    from ..claims.settle import stored
    from . import evidence

    where = evidence.claims_folder(folder)
    found = [find(where, name)] if plot else of_paper(where, name)
    results = {claim.stem: stored(where, claim) for claim in found}
    if json_:
        show_result([{"claim": stem, "result": result} for stem, result in results.items()], json_)
        return
    for claim in found:
        show_result(render_claim(claim, results[claim.stem], plot=plot), False)


@claims_app.command("check")
def claims_check(
    names: Annotated[list[str] | None, typer.Argument(help="Claims; none takes the quick ones.")] = None,
    folder: Folder = None,
    on: On = "here",
    workers: Workers = 1,
) -> None:
    """Run claims again from nothing; fail when a verdict turns. Keeps nothing."""
    from ..errors import RunError
    from . import evidence

    where = evidence.claims_folder(folder)
    turned = evidence.check_claims(names or [], where, evidence.say(False), on=on, workers=workers)
    if turned:
        raise RunError("; ".join(turned))


@app.command()
def doctor(json_: Json = False) -> None:
    """Check this machine: versions, device, precision, caches, extras."""
    from .show import doctor_table

    show_result(doctor_table(json_), json_)
