"""What rows ask for: the task and the meaning of each column, found from names first and from values second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..errors import InputError, unknown
from . import tasks
from .rows import Rows
from .tasks import Task

ORDER = ("chat", "generate", "tag", "pair", "classify", "regress", "lm")
"""Tasks in the order in which they are tried; the more a task asks of the columns, the earlier."""

_SAMPLE = 1000


def detect(rows: Rows, task: str | Mapping[str, Any] | None = None, columns: Mapping[str, str] | None = None) -> Task:
    """The task of these rows, with labels learned and every row checked.

    Args:
        rows: the rows.
        task: its name, or ``{name: settings}``, where the user says so.
        columns: role -> column, where the user says so.

    Raises:
        InputError: nothing fits, more than one thing fits, or a row is wrong; the message says what to name.
    """
    name, options = _named(task)
    given = dict(columns or {})
    for column in given.values():
        rows.column(column)
    chosen, found = _match(rows, given, name)
    made = tasks.find(chosen)(found, options=options, notes=_notes(chosen, found, given, name))
    made.learn(rows)
    return made


def _named(task: str | Mapping[str, Any] | None) -> tuple[str | None, Mapping[str, Any]]:
    if task is None:
        return None, {}
    name, options = (task, {}) if isinstance(task, str) else next(iter(task.items()))
    tasks.find(name)
    return name, options or {}


def _match(rows: Rows, given: Mapping[str, str], name: str | None) -> tuple[str, dict[str, str]]:
    """The task and the column of each of its roles."""
    if name:
        return name, _fill(rows, tasks.find(name), given, guess=True)
    for candidate in ORDER:
        kind = tasks.find(candidate)
        if all(role in kind.roles for role in given) and (found := _by_name(rows, kind, given)):
            return _number_or_class(rows, candidate, found, given)
    for candidate in ("classify", "regress", "lm"):
        kind = tasks.find(candidate)
        if all(role in kind.roles for role in given):
            try:
                found = _fill(rows, kind, given, guess=True)
            except InputError:
                continue
            return _number_or_class(rows, candidate, found, given)
    raise InputError(
        f"no task fits the columns {', '.join(rows.columns)}", where=rows.source,
        expected="for example text and label", fix="name them: --task classify --column text=NAME --column label=NAME",
    )  # fmt: skip


def _by_name(rows: Rows, kind: type[Task], given: Mapping[str, str]) -> dict[str, str] | None:
    """Role -> column by the names of the ecosystem; None unless every role that is needed has one of a fitting type."""
    lower = {c.lower(): c for c in rows.columns}
    found = dict(given)
    for role, names in kind.roles.items():
        if role in found:
            continue
        column = next((lower[n] for n in names if n in lower and lower[n] not in found.values()), None)
        if column is not None and _fits(rows, role, column):
            found[role] = column
        elif role not in kind.optional:
            return None
    return found


def _fill(rows: Rows, kind: type[Task], given: Mapping[str, str], *, guess: bool) -> dict[str, str]:
    """Role -> column; what no name decides is decided by types, if exactly one column fits."""
    for role in given:
        if role not in kind.roles:
            raise unknown(f"role of task {kind.name}:", role, kind.roles, where="--column")
    lower = {c.lower(): c for c in rows.columns}
    found = dict(given)
    for role, names in kind.roles.items():
        named = [lower[n] for n in names if n in lower and lower[n] not in found.values()]
        named = [c for c in named if _fits(rows, role, c)]
        if role in found or (role in kind.optional and not named):
            continue
        rest = [c for c in rows.columns if c not in found.values() and _fits(rows, role, c)]
        candidates = named[:1] or (_likely(rows, role, rest) if guess else [])
        if len(candidates) != 1:
            raise InputError(
                f"which column is the {role} is not clear ({', '.join(rest) or 'none fits'})", where=rows.source,
                expected=f"for task {kind.name} one of {', '.join(rows.columns)}",
                fix=f"name it: --task {kind.name} --column {role}=NAME",
            )  # fmt: skip
        found[role] = candidates[0]
    return found


def _fits(rows: Rows, role: str, column: str) -> bool:
    """Whether a column has the type that a role needs."""
    kind = rows.table.schema.field(column).type
    if role == "messages":
        return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))
    if role in ("tokens", "tags"):
        return bool(pa.types.is_list(kind) and not pa.types.is_struct(kind.value_type))
    if role == "label":
        return not pa.types.is_struct(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _likely(rows: Rows, role: str, columns: list[str]) -> list[str]:
    """Of several columns the likeliest: the longest text, or the one whose values repeat most."""
    if len(columns) < 2:
        return columns
    sample = {c: [v for v in rows.column(c).slice(0, _SAMPLE).to_pylist() if v is not None] for c in columns}
    if role == "label":
        ratio = {c: len({str(v) for v in values}) / max(1, len(values)) for c, values in sample.items()}
        few = [c for c in columns if 0 < ratio[c] < 0.2]
        return few if len(few) < 2 else []
    size = {c: sum(len(str(v)) for v in values) / max(1, len(values)) for c, values in sample.items()}
    ranked = sorted(columns, key=lambda c: -size[c])
    return ranked[:1] if size[ranked[0]] > 3 * size[ranked[1]] else []


def _number_or_class(
    rows: Rows, name: str, found: dict[str, str], given: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Fractions, or more than twenty different whole numbers, are a quantity; anything else is a class."""
    if name not in ("classify", "pair", "regress"):
        return name, found
    kind = rows.table.schema.field(found["label"]).type
    values = rows.column(found["label"]).slice(0, 10 * _SAMPLE).to_pylist()
    if pa.types.is_floating(kind):
        number = any(v is not None and not float(v).is_integer() for v in values)
    else:
        number = pa.types.is_integer(kind) and len(set(values)) > 20
    if number:
        return "regress", found
    return ("pair" if "second" in found else "classify"), found


def _notes(name: str, found: Mapping[str, str], given: Mapping[str, str], named: str | None) -> list[str]:
    how = "as you say" if named else "found"
    mapping = ", ".join(f"{role} = {column}" for role, column in found.items())
    notes = [f"task {name} ({how}): {mapping}"]
    if found.get("prompt") == "instruction":
        notes.append("Alpaca's columns: instruction, with input below it, is the prompt; output is the completion")
    if found.get("messages", "").startswith("conversation"):
        notes.append("ShareGPT's columns: from/value become role/content, human is the user, gpt is the assistant")
    return notes
