"""Rows of an arena task changed on purpose: wrong labels, a shortcut, other texts to be tested on, reasons, sums."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.rows import read
from ..errors import unknown
from . import Lab

Table = list[dict[str, Any]]
Made = tuple[Table, Table, dict[str, Any]]
"""Rows to train on, rows to be tested on, and options of a recipe that read them (``task``, ``columns``)."""


def with_rows(lab: Lab, recipe: Any, kind: str, share: float, words: Sequence[str] = ()) -> Any:
    """The recipe with its rows changed; the change is the same for every recipe and seed.

    Args:
        lab: carries out.
        recipe: of an arena task.
        kind: ``own`` changes nothing; else one of `KINDS`.
        share: of rows that are changed, where the kind has one.
        words: of the kind ``reasons``.

    Raises:
        InputError: there is no such kind.
    """
    if kind == "own":
        return recipe
    if kind not in KINDS:
        raise unknown("kind of rows", kind, ["own", *KINDS], where="experiment.ablation.rows")
    parted = lab.prepared(recipe).parted
    train, test = ([parted.tables[s][int(i)] for i in parted.indices[s]] for s in ("train", "test"))
    draw = random.Random(0)
    made, held_out, options = KINDS[kind](train, test, draw, share, words)
    given = lab.given(recipe.updated({"task": options.get("task", "classify")}), train=made, test=held_out)
    return given.updated({"rows": {**given.rows.model_dump(), "columns": options.get("columns", {})}})


def _flipped(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """A share of the training labels is another one."""
    labels = sorted({row["label"] for row in train})
    wrong = set(draw.sample(range(len(train)), round(share * len(train))))

    def label(i: int, own: str) -> str:
        return draw.choice([other for other in labels if other != own]) if i in wrong else own

    return [{"text": r["text"], "label": label(i, r["label"])} for i, r in enumerate(train)], _plain(test), {}


def _plain(rows: Sequence[Mapping[str, Any]]) -> Table:
    return [{"text": r["text"], "label": r["label"]} for r in rows]


def _ordinal(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """Numbers become five classes of equal size, named 1 to 5."""
    edges = np.quantile([r["score"] for r in train], (0.2, 0.4, 0.6, 0.8))

    def classes(rows: Table) -> Table:
        return [{"text": r["text"], "label": str(1 + int(np.searchsorted(edges, r["score"])))} for r in rows]

    return classes(train), classes(test), {}


def _shortcut(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """A word in front that agrees with the label in a share of the training rows, and disagrees as often in the test."""
    labels = sorted({row["label"] for row in train})

    def marked(rows: Table, agree: float) -> Table:
        made = []
        for row in rows:
            same = draw.random() < agree
            word = ("zeta", "omega")[(labels.index(row["label"]) == 0) == same]
            made.append({"text": f"{word} {row['text']}", "label": row["label"]})
        return made

    return marked(train, share), marked(test, 1 - share), {}


def _shifted(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """Trained on film reviews, tested on other people's, whose sign of the mean rating is the label."""
    good, bad = "fresh", "rotten"
    rated = read("packaged:movie-ratings")
    rows = [rated[i] for i in draw.sample(range(len(rated)), min(2000, len(rated)))]
    other = [{"text": r["text"], "label": good if r["score"] > 0 else bad} for r in rows if abs(r["score"]) > 0.5]
    return _plain(train), other, {}


def _reasons(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """The words of a list that stand in a text are the reason for its label."""
    known = {w.lower() for w in words}

    def told(rows: Table) -> Table:
        made = []
        for row in rows:
            found = [w for w in re.findall(r"[a-z]+", row["text"].lower()) if w in known]
            made.append({"text": row["text"], "label": row["label"], "why": found})
        return made

    return told(train), told(test), {"columns": {"rationale": "why"}}


def _sums(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """Sums of three to five small numbers, worked out step by step."""
    return [_sum(draw) for _ in range(360)], [_sum(draw) for _ in range(60)], {"task": "generate"}


def _sum(draw: random.Random) -> dict[str, str]:
    """One sum.

    >>> _sum(random.Random(1))
    {'prompt': '11 + 3 + 6 =', 'completion': '11 + 3 = 14, 14 + 6 = 20'}
    """
    numbers = [draw.randint(2, 12) for _ in range(draw.randint(3, 5))]
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return {"prompt": f"{' + '.join(map(str, numbers))} =", "completion": ", ".join(steps)}


def _tasks(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """Three tasks, ten rows to three to one: questions, the sender's intent of text messages, film reviews."""
    made: Table = []
    held_out: Table = []
    for source, count in (("trec", 1000), ("sms-spam", 300), ("rotten-tomatoes", 100)):
        rows = read(f"packaged:{source}")
        drawn = draw.sample(range(len(rows)), count + 200)
        told = [{"text": rows[i]["text"], "label": rows[i]["label"], "of": source} for i in drawn]
        made, held_out = made + told[200:], held_out + told[:200]
    return made, held_out, {"columns": {"source": "of"}}


def _exchanged(train: Table, test: Table, draw: random.Random, share: float, words: Sequence[str]) -> Made:
    """A share of the instructions has another one's answer."""
    wrong = draw.sample(range(len(train)), round(share * len(train)))
    answers = {i: train[j]["output"] for i, j in zip(wrong, wrong[1:] + wrong[:1], strict=True)}
    return [{**row, "output": answers.get(i, row["output"])} for i, row in enumerate(train)], test, {"task": "generate"}


KINDS: dict[str, Callable[[Table, Table, random.Random, float, Sequence[str]], Made]] = {
    "flipped": _flipped,
    "ordinal": _ordinal,
    "shortcut": _shortcut,
    "shifted": _shifted,
    "reasons": _reasons,
    "sums": _sums,
    "tasks": _tasks,
    "exchanged": _exchanged,
}
