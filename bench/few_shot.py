"""Score against number of labels: in context, cloze, head, contrastive head, and SetFit as the outside reference.

    python bench/few_shot.py [--only TASK] [--labels 8,16] [--ways head,cloze] [--seeds 3] [--workers 2]
    python bench/few_shot.py --render [--check]

Every cell (task, way, labels, seed) is one result file in ``bench/few_shot``; what is there is not run again. Labels are
those of a whole training set, spread evenly over the classes; all ways of a seed see the same rows and are scored on the
same held-out ones. SetFit runs in an environment of its own, whose Python is named by ``SETFIT_PYTHON``, and is left out
where there is none. ``--render`` writes ``docs/few-shot.md`` from the files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from render import ROOT, over_seeds

from tunesmith.comparing.work import commit
from tunesmith.storage import write_json

RESULTS = Path(__file__).parent / "few_shot"
PAGE = ROOT / "docs" / "few-shot.md"
LABELS = (8, 16, 32, 64, 128, 512)
SEEDS = (0, 1, 2)
CHECKED = 250

TASKS: dict[str, tuple[int, str]] = {
    "trec": (6, "{text} It was about {mask}."),
    "rotten-tomatoes": (2, "{text} It was {mask}."),
    "bbc-news": (5, "{text} This is about {mask}."),
    "sms-spam": (2, "{text} This message was {mask}."),
}
"""Packaged rows, their number of classes, and the template."""

WORDS: dict[str, dict[str, str]] = {
    "rotten-tomatoes": {"fresh": "great", "rotten": "terrible"},
    "sms-spam": {"ham": "normal", "spam": "spam"},
}
"""Words where a label's name is none that is said of a text; elsewhere the names."""

ENCODER, LM = "minilm-l6", "smollm2-135m"
FEW = {
    "adapter": "lora",
    "budget": {"epochs": 20, "steps": 300},
    "batch": {"rows": 8},
    "length": {"max": 96, "over": "truncate"},
}
Found = dict[tuple[str, str, int], list[dict[str, Any]]]
"""Results by rows, way and number of labels."""

FLAT = ("in context",)
"""Ways that show one row of each class, drawn anew for each row that is asked: they are measured at the fewest labels only."""

LM_BUDGET = {"epochs": 20, "steps": 100}
"""A step of the language model takes ten times as long as one of the encoder."""


def ways(rows: str) -> dict[str, dict[str, Any]]:
    """The recipe's options of each way; ``before`` takes the base as it is."""
    form: dict[str, Any] = {"template": TASKS[rows][1], "words": WORDS.get(rows, "names")}
    shown = {**form, "demonstrations": 1, "calibrate": True}
    return {
        "in context": {
            "base": LM,
            "task": {"classify": {"cloze": shown}},
            "before": True,
            "length": {"max": 256, "over": "truncate"},
        },
        "cloze": {"base": LM, "task": {"classify": {"cloze": form}}, "budget": LM_BUDGET},
        "head": {"base": ENCODER},
        "contrastive": {"base": ENCODER, "loss": ["cross_entropy", "supervised_contrastive"]},
        "setfit": {"base": ENCODER, "outside": True},
    }


def recipe_of(rows: str, way: str, labels: int, seed: int) -> Any:
    """The recipe of a cell; the rows' seed draws the few rows, so that each seed has others."""
    from tunesmith import recipe

    options = {k: v for k, v in ways(rows)[way].items() if k not in ("before", "outside")}
    shots = max(1, labels // TASKS[rows][0])
    source = {"train": f"packaged:{rows}", "shots": shots, "seed": seed}
    return recipe.make({**FEW, **options, "rows": source, "seed": seed, "checks": {"rows": CHECKED}})


def cell(rows: str, way: str, labels: int, seed: int) -> dict[str, Any]:
    """One cell's accuracy on the held-out rows."""
    from tunesmith.evaluation.intervals import measure
    from tunesmith.run.carry_out import environment, score, untrained

    made = recipe_of(rows, way, labels, seed)
    with tempfile.TemporaryDirectory() as folder:
        if ways(rows)[way].get("outside"):
            return outside(made, rows, way, labels, seed, Path(folder))
        if ways(rows)[way].get("before"):
            prepared, said = untrained(made, Path(folder))
            answers = list(said.values())[-1]
        else:
            scored = score(made, Path(folder), listen=lambda event: None)
            prepared, answers = scored.prepared, scored.answers
    found = measure("accuracy", answers)
    facts = {k: v for k, v in environment(prepared).items() if k != "command"}
    return facts_of(rows, way, labels, seed) | {
        "accuracy": found.value, "low": found.low, "high": found.high, "test_rows": found.rows,
        "train_rows": prepared.facts["splits"]["train"]["rows"], "recipe": prepared.recipe.to_dict(), "environment": facts,
    }  # fmt: skip


def facts_of(rows: str, way: str, labels: int, seed: int) -> dict[str, Any]:
    """What names a cell, and the commit."""
    return {"rows": rows, "way": way, "labels": labels, "seed": seed, "commit": commit()}


def outside(made: Any, rows: str, way: str, labels: int, seed: int, folder: Path) -> dict[str, Any]:
    """The same rows for SetFit, in the environment that ``SETFIT_PYTHON`` names."""
    from tunesmith.run.carry_out import held_out_rows
    from tunesmith.run.prepare import prepare

    prepared = prepare(made)
    columns = prepared.task.columns
    split = {n: [prepared.encoded[n].original(i) for i in range(len(prepared.encoded[n]))] for n in ("train", "test")}
    split["test"] = [split["test"][i] for i in held_out_rows(prepared)]
    told = {
        n: [{"text": str(r[columns["text"]]), "label": str(r[columns["label"]])} for r in s] for n, s in split.items()
    }
    (folder / "rows.json").write_text(
        json.dumps({**told, "base": str(prepared.base.path), "seed": seed}), encoding="utf-8"
    )
    script = Path(__file__).parent / "few_shot_setfit.py"
    done = subprocess.run(
        [os.environ["SETFIT_PYTHON"], str(script), str(folder / "rows.json")], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"setfit {rows} {labels} {seed}: {done.stderr.strip().splitlines()[-1]}")
    return facts_of(rows, way, labels, seed) | json.loads(done.stdout.strip().splitlines()[-1])


def path_of(rows: str, way: str, labels: int, seed: int) -> Path:
    """The result file of a cell."""
    return RESULTS / f"{rows}.{way.replace(' ', '-')}.{labels}.{seed}.json"


def run(given: argparse.Namespace) -> None:
    """Carry out what is missing, some cells at a time that share the cores."""
    RESULTS.mkdir(exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // given.workers))
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn"), max_tasks_per_child=8) as pool:
        for done in as_completed([pool.submit(keep, *asked) for asked in missing(given)]):
            print(*done.result(), flush=True)


def missing(given: argparse.Namespace) -> Iterator[tuple[str, str, int, int]]:
    """Cells without a result among those that were asked for."""
    for seed, labels, rows in product(SEEDS[: given.seeds], map(int, given.labels.split(",")), TASKS):
        for way in ways(rows):
            skipped = given.only not in (None, rows) or (given.ways and way not in given.ways.split(","))
            absent = way == "setfit" and "SETFIT_PYTHON" not in os.environ
            known = way in FLAT and labels > min(LABELS)
            if not (skipped or absent or known or path_of(rows, way, labels, seed).exists()):
                yield rows, way, labels, seed


def keep(rows: str, way: str, labels: int, seed: int) -> tuple[str, str]:
    """Carry a cell out and write its file; what it is called, and its accuracy."""
    path, result = path_of(rows, way, labels, seed), cell(rows, way, labels, seed)
    write_json(path, result)
    return path.name, f"{result['accuracy']:.3f}"


def page() -> str:
    """The page from the result files: a table a task, mean accuracy over seeds with its 95 % t interval."""
    found: Found = defaultdict(list)
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[result["rows"], result["way"], result["labels"]].append(result)
    every = [r for results in found.values() for r in results]
    lines = ["# Few labels", "", "Written by `python bench/few_shot.py --render` from `bench/few_shot`.", ""]
    lines += [
        f"Accuracy in percent on at most {CHECKED} held-out rows, against the number of labels in the whole training set, spread "
        f"evenly over the classes; mean over seeds, which draw other rows, with the 95 % t interval. Heads are those of "
        f"`{ENCODER}`; the cloze and the context are those of `{LM}`. In context one "
        "row of each class is shown, drawn anew for each row that is asked, however many labels there are: it is measured at the "
        "fewest. A cell without an interval has one seed and decides nothing.", "",
    ]  # fmt: skip
    for rows in TASKS:
        names = [way for way in ways(rows) if any(k[:2] == (rows, way) for k in found)]
        if not names:
            continue
        lines += [f"## {rows}", "", f"| labels | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for labels in LABELS:
            cells = [_cell(found.get((rows, way, labels), [])) for way in names]
            if any(cells):
                lines.append(f"| {labels} | {' | '.join(cells)} |")
        lines.append("")
    lines += winners(found)
    if every:
        lines += [f"Commits {', '.join(sorted({r['commit'] for r in every}))}.", ""]
    return "\n".join(lines)


def winners(found: Found) -> list[str]:
    """A table of which way has the highest mean, task by number of labels."""
    lines = [
        "## Where each wins", "",
        "The way with the highest mean, and by how many points it leads the next one: seeds in pairs, as both saw the same rows. "
        "*Undecided* where the 95 % t interval of the lead holds zero.", "",
        f"| labels | {' | '.join(TASKS)} |", "|---" * (len(TASKS) + 1) + "|",
    ]  # fmt: skip
    cells = {labels: [_winner(found, rows, labels) for rows in TASKS] for labels in LABELS}
    shown = [f"| {labels} | {' | '.join(said)} |" for labels, said in cells.items() if any(said)]
    return [*lines, *shown, ""] if shown else []


def _winner(found: Found, rows: str, labels: int) -> str:
    scores: dict[str, dict[int, float]] = {}
    for way in ways(rows):
        results = found.get((rows, way, min(LABELS) if way in FLAT else labels), [])
        if len(results) > 1:
            scores[way] = {r["seed"]: 100 * r["accuracy"] for r in results}
    if len(scores) < 2:
        return ""
    best, second = sorted(scores, key=lambda way: -statistics.mean(scores[way].values()))[:2]
    both = scores[best].keys() & scores[second].keys()
    if len(both) < 2:
        return ""
    lead, half = over_seeds([scores[best][seed] - scores[second][seed] for seed in sorted(both)])
    sure = "" if lead > half else "undecided: "
    return f"{sure}{best}, {lead:.1f} ± {half:.1f} before {second}"


def _cell(results: list[dict[str, Any]]) -> str:
    if not results:
        return ""
    mean, half = over_seeds([100 * r["accuracy"] for r in results])
    return f"{mean:.1f} ± {half:.1f}" if len(results) > 1 else f"{mean:.1f}"


def main() -> None:
    """Run, or write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one of the row sets")
    parser.add_argument("--labels", default=",".join(map(str, LABELS)))
    parser.add_argument("--ways", help="some of the ways")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--workers", type=int, default=1, help="cells at a time")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if not given.render:
        run(given)
    elif given.check:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit(f"{PAGE.name} does not say what bench/few_shot says; run: python bench/few_shot.py --render")
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
