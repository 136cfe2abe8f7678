"""Many labelled row sets as one: every row a question whose answer is one token, a letter among options, or yes or no."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InputError, unknown
from .cloze import label_words
from .detect import detect
from .rows import Rows, read
from .tasks import Task
from .tasks.classify import label_name

Form = Literal["options", "yes_no"]
Made = list[dict[str, str]]

MOST = 26
"""Options of a question at most: the letters."""


@dataclass(frozen=True)
class Source:
    """A row set of a collection.

    Attributes:
        rows: whatever `read` reads; of task ``classify`` or ``pair``, one label a row.
        question: what is asked; ``{column}`` stands for a row's column, and the row's texts stand below it.
        labels: label -> how an option says it, where its name says too little; ``{column}`` as above.
        columns: what a column is, as in a recipe.
    """

    rows: Any
    question: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


def collect(
    sources: Mapping[str, Source], form: Form = "options", rows: int = 500, seed: int = 0, words: int = 60
) -> Made:
    """Rows of all sources in one form, shuffled.

    ``options``: the label is the letter of the right option, in an order of its own for each row. ``yes_no``: each drawn
    row asks two questions, whether its label fits (yes), and whether another one does (no).

    Args:
        sources: name -> row set; a row keeps the name in its column ``source``.
        form: how the labels are asked for.
        rows: most rows that are drawn from a source.
        seed: of the draw.
        words: of a text that are kept, so that what is asked behind it is never cut.

    Returns:
        Rows with ``text``, ``label`` and ``source``.

    Raises:
        InputError: a source has no classes, too many of them, or lacks a column that it is to show.

    >>> rows = [{"text": "A goal!", "label": "sport"}, {"text": "Shares fell", "label": "money"}] * 3
    >>> made = collect({"news": Source(rows)}, rows=1)
    >>> made[0]["label"] in "AB", made[0]["text"].splitlines()[1:] in (["A: money", "B: sport"], ["A: sport", "B: money"])
    (True, True)
    """
    draw = random.Random(seed)
    made: Made = []
    for name, source in sources.items():
        table = read(source.rows)
        task = _classes(detect(table, columns=dict(source.columns) or None), table)
        for i in sorted(draw.sample(range(len(table)), min(rows, len(table)))):
            asked = _Asked(table[i], task, source, table.where(i), words)
            made += [
                {**row, "source": name} for row in (asked.options(draw) if form == "options" else asked.yes_no(draw))
            ]
    draw.shuffle(made)
    return made


def _classes(task: Task, table: Rows) -> Task:
    if task.name not in ("classify", "pair") or getattr(task, "multi", False):
        raise InputError(
            f"task {task.name}", where=table.source, expected="rows of task classify or pair, one label a row"
        )
    if len(task.labels or []) > MOST:
        raise InputError(f"{len(task.labels or [])} labels", where=table.source, expected=f"at most {MOST} options")
    return task


@dataclass(frozen=True)
class _Asked:
    """One row as a question."""

    row: Mapping[str, Any]
    task: Task
    source: Source
    where: str
    words: int

    def options(self, draw: random.Random) -> Made:
        """The row with its options, the label a letter."""
        labels = list(self.task.labels or [])
        draw.shuffle(labels)
        listed = [
            f"{letter}: {self._said(label)}" for letter, label in zip(string.ascii_uppercase, labels, strict=False)
        ]
        return [{"text": "\n".join([*self._head(), *listed]), "label": string.ascii_uppercase[labels.index(self._own)]}]

    def yes_no(self, draw: random.Random) -> Made:
        """The row with its own label and with another one."""
        other = draw.choice([label for label in self.task.labels or [] if label != self._own])
        asked = [(self._own, "yes"), (other, "no")]
        return [{"text": "\n".join([*self._head(), f"{self._said(name)}?"]), "label": answer} for name, answer in asked]

    @property
    def _own(self) -> str:
        return label_name(self.row[self.task.columns["label"]])

    def _head(self) -> list[str]:
        texts = [" ".join(str(self.row[c]).split()[: self.words]) for c in self.task.input_columns]
        return [*([self._filled(self.source.question)] if self.source.question else []), *texts]

    def _said(self, label: str) -> str:
        if not self.source.labels:
            return label_words(label)
        if label not in self.source.labels:
            raise unknown("label", label, self.source.labels, where=self.where)
        return self._filled(self.source.labels[label])

    def _filled(self, text: str) -> str:
        try:
            return text.format(**self.row)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"{text!r} cannot be filled in ({error})", where=self.where, expected=f"columns {', '.join(self.row)}"
            ) from None


def sources_of(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Source]:
    """Sources by name: files and packaged sets, or what a file says of each.

    >>> list(sources_of(["packaged:trec", "rows/reviews.csv"]))
    ['trec', 'reviews']
    """
    if not isinstance(given, Mapping):
        return {_stem(rows): Source(rows) for rows in given}
    made = {}
    for name, facts in given.items():
        facts = {"rows": facts} if isinstance(facts, str) else dict(facts or {})
        if wrong := [key for key in facts if key not in Source.__dataclass_fields__]:
            raise unknown("key of a source:", wrong[0], Source.__dataclass_fields__, where=name)
        if "rows" not in facts:
            raise InputError("no rows are named", where=name, expected="rows: a file, or packaged:NAME")
        made[str(name)] = Source(**facts)
    return made


def _stem(rows: str) -> str:
    return rows.removeprefix("packaged:").split("/")[-1].split(".")[0]
