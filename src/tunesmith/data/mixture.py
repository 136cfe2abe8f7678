"""Several row sets as one: each row becomes a prompt and a completion by one of its set's templates.

    rows:
      train:
        topics: {rows: questions.csv, prompts: ["What is this about? {text}\\n{options}", "{text}\\nTopic:"], answer: "{label}"}
        spam: {rows: messages.csv, prompts: ["Is this spam? {text}"], answer: "{label}", limit: 300}

A table of the columns ``prompt``, ``completion`` and ``source``, the set's name. Source: Wei et al. 2021,
arXiv:2109.01652 (FLAN: templates, options, and a limit of rows for each set).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError, unknown

if TYPE_CHECKING:
    from .rows import Rows

SETTINGS = ("rows", "prompts", "answer", "limit", "where")
"""What is said of a set: its ``rows``, its ``prompts`` (templates with ``{column}`` and ``{options}``), its ``answer`` (a
template), the ``limit`` of its rows, and ``where``, values of columns that its rows must have."""

MOST_OPTIONS = 30

_PLACE = re.compile(r"\{(\w+)\}")


def mix(sets: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of all sets, one after the other. Which rows and which template is drawn the same each time.

    Raises:
        InputError: a set lacks what it needs, or a template names no column; names the set.
    """
    if not sets:
        raise InputError("names no row set", where="rows", expected="name: {rows: ..., prompts: [...], answer: ...}")
    return [row for name, how in sets.items() for row in _told(str(name), how)]


def _told(name: str, how: Any) -> list[dict[str, str]]:
    from .rows import read

    place = f"rows.{name}"
    if not isinstance(how, Mapping):
        raise InputError(f"is {how!r}", where=place, expected="{rows: ..., prompts: [...], answer: ...}")
    for key in how:
        if key not in SETTINGS:
            raise unknown("setting", key, SETTINGS, where=place)
    if lacking := [key for key in SETTINGS[:3] if not how.get(key)]:
        raise InputError(f"says no {lacking[0]}", where=place, expected="rows, prompts and answer")
    prompts = [how["prompts"]] if isinstance(how["prompts"], str) else list(how["prompts"])
    rows = read(how["rows"])
    for template in (*prompts, how["answer"]):
        for column in _PLACE.findall(template):
            if column != "options":
                rows.column(column)
    return list(_rendered(name, rows, _chosen(name, rows, how), prompts, str(how["answer"])))


def _chosen(name: str, rows: Rows, how: Mapping[str, Any]) -> Sequence[int]:
    """The rows that fit, at most so many as the limit, in their order."""
    fit: Sequence[int] = range(len(rows))
    for column, value in (how.get("where") or {}).items():
        values = rows.column(column).to_pylist()
        fit = [i for i in fit if values[i] == value]
    limit = how.get("limit")
    if not fit:
        raise InputError("no row fits", where=f"rows.{name}.where", expected="values that rows have")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"is {limit!r}", where=f"rows.{name}.limit", expected="a number of rows")
    return fit if limit is None or limit >= len(fit) else sorted(random.Random(name).sample(fit, limit))


def _rendered(
    name: str, rows: Rows, chosen: Sequence[int], prompts: Sequence[str], answer: str
) -> list[dict[str, str]]:
    table = [rows[i] for i in chosen]
    answers = [_filled(answer, row) for row in table]
    told = any("{options}" in p for p in prompts)
    options = _options(name, {_filled(answer, row) for batch in rows.batches() for row in batch}) if told else ""
    draw = random.Random(name)
    return [
        {"prompt": _filled(draw.choice(prompts), {**row, "options": options}), "completion": said, "source": name}
        for row, said in zip(table, answers, strict=True)
    ]


def _options(name: str, answers: set[str]) -> str:
    """What can be answered in the whole set, whichever rows are taken of it."""
    if len(answers) > MOST_OPTIONS:
        raise InputError(
            f"has {len(answers)} different answers", where=f"rows.{name}", expected=f"at most {MOST_OPTIONS} options",
            fix="leave {options} out of its prompts",
        )  # fmt: skip
    return "Options:\n" + "\n".join(f"- {one}" for one in sorted(answers))


def _filled(template: str, row: Mapping[str, Any]) -> str:
    """A template with a row's values; braces inside the values stay as they are.

    >>> _filled("Is {text} good?", {"text": "this {x}"})
    'Is this {x} good?'
    """
    return _PLACE.sub(lambda place: "" if row[place[1]] is None else str(row[place[1]]), template)
