"""Tasks: what a row's columns mean, what the model must output, and how it is scored. One task a file."""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError, unknown
from ..rows import Rows

if TYPE_CHECKING:
    from ..reader import Reader


IGNORED = -100
"""The label of a place where nothing is asked."""


@dataclass
class Encoding:
    """A row as token ids.

    Attributes:
        input_ids: what goes in.
        labels: a class, a number, a 0/1 vector, or one label for each token with -100 where nothing is asked.
        token_type_ids: which of two texts a token belongs to, for models that ask.
        words: for a tagger, the index of the word of each labelled token.
        full: number of tokens before anything was cut.
        lost: supervised tokens that were cut.
        good: for a rated answer, whether it is a good one.
        other: the worse answer to the same prompt.
        controlled: whether a mark of its kind stands before the prompt.
        views: for a cloze, all the sequences that the row becomes; ``input_ids`` is the first.
        asked: for a cloze, what is asked in them: sequences, places, tokens and words, in four lists.
        source: which of several tasks the row belongs to, by its place in the task's ``sources``.
        rationale: for each token, whether it is part of the reason for the label; -100 where that is not known.
        soft: probability of each class by a teacher.
    """

    input_ids: list[int]
    labels: Any
    token_type_ids: list[int] | None = None
    words: list[int] | None = None
    full: int = 0
    lost: int = 0
    good: bool | None = None
    other: Encoding | None = None
    controlled: bool | None = None
    views: list[list[int]] | None = None
    asked: list[list[int]] | None = None
    source: int | None = None
    rationale: list[int] | None = None
    soft: list[float] | None = None


class Task:
    """What the columns of the rows mean.

    Attributes:
        name: the task's name.
        roles: what a column may be, each with the names that it has in the ecosystem, likeliest first.
        optional: the roles that may be missing.
        loss: name of the default loss part.
        metric: name of the figure that counts most.
        greater: whether more of it is better.
        per_token: whether labels stand at tokens rather than at rows.
        heads: kind of head for each architecture; what is missing cannot do this task.
        options: settings of the task with their defaults.
        sources: names of the tasks that the rows belong to; None where they are all of one.
    """

    name: ClassVar[str] = ""
    roles: ClassVar[Mapping[str, Sequence[str]]] = {}
    optional: ClassVar[frozenset[str]] = frozenset()
    loss: str = "cross_entropy"
    metric: ClassVar[str] = ""
    greater: ClassVar[bool] = True
    per_token: ClassVar[bool] = False
    heads: ClassVar[Mapping[str, str]] = {}
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        labels: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        sources: Sequence[str] | None = None,
    ):
        self.columns = dict(columns)
        self.sources = list(sources) if sources is not None else None
        self.labels = list(labels) if labels is not None else None
        self.settings = {**self.options, **(options or {})}
        self.notes = list(notes)
        for name, value in (options or {}).items():
            if name not in self.options:
                raise unknown(f"setting of task {self.name}:", name, self.options)
            kinds = self.options[name]
            if value != kinds and not isinstance(value, bool if kinds is None else type(kinds)):
                kind = "true or false" if kinds is None or isinstance(kinds, bool) else "text"
                raise InputError(f"{value!r} does not fit", where=f"task.{self.name}.{name}", expected=kind)

    # ------------------------------------------------------------------ what every task has

    @property
    def input_columns(self) -> list[str]:
        """The columns that the model sees: what makes two rows the same."""
        answers = {"label", "tags", "completion", "chosen", "rejected", "source", "rationale", "soft"}
        return [column for role, column in self.columns.items() if role not in answers]

    def head(self, architecture: str) -> str:
        """The kind of head for a base of this architecture.

        Raises:
            InputError: such a base cannot do this task.
        """
        if architecture not in self.heads:
            raise InputError(
                f"the base is of kind {architecture}, which cannot do task {self.name}",
                expected=f"a base of kind {' or '.join(self.heads)}", fix="see `tunesmith models`",
            )  # fmt: skip
        return self.heads[architecture]

    def describe(self) -> dict[str, Any]:
        """The task as JSON; `from_dict` makes it again."""
        known = {"name": self.name, "columns": self.columns, "labels": self.labels, "settings": self.settings}
        return known if self.sources is None else {**known, "sources": self.sources}

    def learn(self, rows: Rows) -> None:
        """Take from the rows what the task has to know of them, such as its labels, and check every row.

        Raises:
            InputError: a row lacks what the task asks for.
        """
        self.check(rows)
        if "source" in self.columns:
            found = rows.column(self.columns["source"])
            if found.null_count:
                raise InputError(
                    f"column {self.columns['source']!r} is empty in {found.null_count} rows", where=rows.source
                )
            self.sources = sorted(found.unique().to_pylist())
            self.notes.append(f"{len(self.sources)} tasks in {self.columns['source']}: {', '.join(self.sources[:6])}")

    def check(self, rows: Rows) -> None:
        """Check every row, streamed.

        Raises:
            InputError: the first row that is wrong, by file and line.
        """
        index = 0
        for batch in rows.batches(list(self.columns.values())):
            for row in batch:
                if problem := self.problem(row):
                    raise InputError(problem, where=rows.where(index))
                index += 1

    def problem(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with a row, or None."""
        for role, column in self.columns.items():
            value = row[column]
            if role not in self.optional and (value is None or (isinstance(value, float) and math.isnan(value))):
                return f"column {column!r} is empty; expected a {role}; fill it in or delete the row"
            if isinstance(value, str) and not value.strip() and role not in self.optional:
                return f"column {column!r} holds no text; expected a {role}; fill it in or delete the row"
        return None

    def value(self, row: Mapping[str, Any], role: str) -> Any:
        """A row's value for a role; None where the role has no column."""
        return row[self.columns[role]] if role in self.columns else None

    def source(self, row: Mapping[str, Any]) -> int | None:
        """Which task a row belongs to; None where there is one only.

        Raises:
            InputError: it is none of those of the training rows.
        """
        if self.sources is None:
            return None
        name = self.value(row, "source")
        if name not in self.sources:
            raise InputError(f"task {name!r} was not among the training rows", expected=", ".join(self.sources))
        return self.sources.index(name)

    # ------------------------------------------------------------------ what a task defines

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        """Rows as token ids; a row can become several where a long text is cut into pieces.

        Rows without an answer (to predict) are encoded with a placeholder of the right form.
        """
        raise NotImplementedError

    def target(self, row: Mapping[str, Any]) -> Any:
        """What is right, in the form in which predictions are scored."""
        raise NotImplementedError


@functools.cache
def every() -> Mapping[str, type[Task]]:
    """Name -> task: every file of this folder holds one."""
    found = {}
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__:
                found[value.name] = value
    return found


def from_dict(described: Mapping[str, Any]) -> Task:
    """The task that `Task.describe` described."""
    kind = every()[described["name"]]
    sources = described.get("sources")
    return kind(described["columns"], labels=described["labels"], options=described["settings"], sources=sources)


def find(name: str) -> type[Task]:
    """The task of this name.

    Raises:
        InputError: there is none; the nearest is offered.
    """
    if name not in every():
        raise unknown("task", name, every())
    return every()[name]
