"""What rows ask for: the task and the meaning of each column, found from names first and from values second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..errors import InputError, unknown
from . import tasks
from .rows import Rows
from .tasks import Task

ORDER = ("chat", "prefer", "generate", "tag", "pair", "classify", "regress")
"""Tasks in the order in which names are tried; the more a task asks of the columns, the earlier. ``lm``, which asks for
no more than a text, is left for when nothing else can be meant."""

CLASSES = 20
"""Most different whole numbers that are read as classes; more are a quantity. Also most different texts that a column
called ``answer`` or ``target`` may hold to be read as classes rather than as texts to write."""

_SAMPLE = 1000
_SLICES = 10
_NO_LABEL = ("id", "idx", "index", "uid", "uuid", "guid", "key", "url", "link", "date", "time", "timestamp", "split")
_AMBIGUOUS = ("answer", "target")


def detect(
    rows: Rows,
    task: str | Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    group: str | None = None,
) -> Task:
    """The task of these rows, with labels learned and every row checked.

    Names decide where they can; where they cannot, types do, read from about 1,000 rows all over the table.

    Args:
        rows: the rows.
        task: its name, or ``{name: settings}``, where the user says so.
        columns: role -> column, where the user says so.
        group: a column that only tells which rows belong together; it gets no role by its values.

    Raises:
        InputError: nothing fits, more than one thing fits, or a row is wrong; the message says what to name.
    """
    name, options = _named(task)
    given = dict(columns or {})
    _check_given(rows, given, name)
    seen = rows
    if group is not None and group not in given.values():
        rows.column(group)
        seen = Rows(rows.table.drop_columns([group]), rows.source, rows.fingerprint)
    chosen, found = (name, _fill(seen, tasks.find(name), given)) if name else _match(seen, given)
    made = tasks.find(chosen)(found, options=options, notes=_notes(seen, chosen, found, given, name))
    made.learn(rows)
    return made


def _named(task: str | Mapping[str, Any] | None) -> tuple[str | None, Mapping[str, Any]]:
    if task is None:
        return None, {}
    name, options = (task, {}) if isinstance(task, str) else next(iter(task.items()))
    tasks.find(name)
    return name, options or {}


def _check_given(rows: Rows, given: Mapping[str, str], name: str | None) -> None:
    """The columns that the user names are there, fit their roles, and have one role each."""
    kinds = [tasks.find(name)] if name else list(tasks.every().values())
    roles = {role for kind in kinds for role in kind.roles}
    for role, column in given.items():
        if role not in roles:
            raise unknown(f"role of task {name}:" if name else "role", role, roles, where="--column")
        rows.column(column)
        if not _fits(rows, role, column):
            raise InputError(
                f"column {column!r} holds {_type(rows, column)}", where=rows.source, expected=f"a {role}",
                fix=f"name another: --column {role}=NAME",
            )  # fmt: skip
        if other := next((r for r, c in given.items() if c == column and r != role), None):
            raise InputError(f"{column!r} cannot be both {role} and {other}", where="--column")


def _match(rows: Rows, given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The task and the column of each of its roles, where the user names no task."""
    for name in ORDER:
        found = _by_name(rows, tasks.find(name), given)
        if name == "prefer" and not _rated(rows, found):
            continue
        if found and not (name == "generate" and _answers_are_classes(rows, found, given)):
            return _class_or_quantity(rows, name, found)
    if all(role in tasks.find("pair").roles for role in given):
        pair = _by_name(rows, tasks.find("pair"), given, without="label")
        for texts in filter(None, (pair, _by_type(rows, given))):
            labels = [given["label"]] if "label" in given else _labels(rows, texts)
            if len(labels) > 1:
                raise _unclear(rows, "classify", "label", labels)
            if labels:
                return _class_or_quantity(rows, "pair", {**texts, "label": labels[0]})
        found = _by_name(rows, tasks.find("lm"), given) or _by_type(rows, given)
        if not pair and "text" in found and set(given) <= {"text"}:
            return "lm", {"text": found["text"]}
    raise InputError(
        f"no task fits the columns {', '.join(rows.columns)}", where=rows.source,
        expected="for example text and label", fix="name them: --task classify --column text=NAME --column label=NAME",
    )  # fmt: skip


def _by_name(rows: Rows, kind: type[Task], given: Mapping[str, str], without: str = "") -> dict[str, str]:
    """Role -> column by the names of the ecosystem; empty unless every needed role has a column that fits it."""
    if any(role not in kind.roles for role in given):
        return {}
    found = dict(given)
    for role in kind.roles:
        if role in found or role == without:
            continue
        if named := _named_columns(rows, kind, role, found):
            found[role] = named[0]
        elif role not in kind.optional:
            return {}
    return found


def _rated(rows: Rows, found: Mapping[str, str]) -> bool:
    """Whether the columns hold two answers of which one was chosen, or an answer and whether it is good."""
    if {"chosen", "rejected"} <= found.keys():
        return True
    return {"completion", "label"} <= found.keys() and bool(pa.types.is_boolean(_type(rows, found["label"])))


def _named_columns(rows: Rows, kind: type[Task], role: str, found: Mapping[str, str]) -> list[str]:
    lower = {c.lower(): c for c in rows.columns}
    named = [lower[n] for n in kind.roles[role] if n in lower and lower[n] not in found.values()]
    return [c for c in named if _fits(rows, role, c)]


def _by_type(rows: Rows, given: Mapping[str, str]) -> dict[str, str]:
    """The column of the text, by its name or by being much the longest; empty where there is none.

    Raises:
        InputError: two columns are about as long.
    """
    found = dict(given)
    if "text" not in found:
        named = _named_columns(rows, tasks.find("classify"), "text", found)
        texts = named[:1] or _longest(rows, _texts(rows, found))
        if not texts:
            return {}
        if len(texts) > 1:
            raise _unclear(rows, "classify", "text", texts)
        found["text"] = texts[0]
    return found


def _fill(rows: Rows, kind: type[Task], given: Mapping[str, str]) -> dict[str, str]:
    """Role -> column for the task that the user names; what no name decides is decided by types, if one column fits.

    Raises:
        InputError: none fits a role, or more than one does.
    """
    found = dict(given)
    for role in kind.roles:
        named = _named_columns(rows, kind, role, found)
        if role in found or (role in kind.optional and not named):
            continue
        candidates = named[:1] or _guess(rows, kind, role, found)
        if len(candidates) != 1:
            raise _unclear(rows, kind.name, role, candidates)
        found[role] = candidates[0]
    return found


def _guess(rows: Rows, kind: type[Task], role: str, found: Mapping[str, str]) -> list[str]:
    """The columns that could have a role, by their types."""
    if role == "label":
        likely = [c for c in _labels(rows, found) if kind.name != "regress" or _is_number(rows, c)]
        return likely or [c for c in rows.columns if c not in found.values() and _fits(rows, role, c)]
    if role in ("tokens", "tags", "messages"):
        return [c for c in rows.columns if c not in found.values() and _fits(rows, role, c)]
    texts = _texts(rows, found)
    return _longest(rows, texts) if kind.name in ("classify", "regress", "lm") else texts


def _unclear(rows: Rows, task: str, role: str, columns: Sequence[str]) -> InputError:
    return InputError(
        f"which column is the {role} is not clear ({', '.join(columns) or 'none fits'})", where=rows.source,
        expected=f"for task {task} one of {', '.join(rows.columns)}",
        fix=f"name it: --task {task} --column {role}=NAME",
    )  # fmt: skip


# ---------------------------------------------------------------------- what values say


def _type(rows: Rows, column: str) -> pa.DataType:
    kind = rows.table.schema.field(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(rows: Rows, column: str) -> bool:
    kind = _type(rows, column)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(rows: Rows, column: str) -> bool:
    kind = _type(rows, column)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _fits(rows: Rows, role: str, column: str) -> bool:
    """Whether a column has the type that a role needs."""
    kind = _type(rows, column)
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if role == "messages":
        return bool(listed and pa.types.is_struct(kind.value_type))
    if role in ("tokens", "tags"):
        return bool(listed and not pa.types.is_struct(kind.value_type))
    if role == "rationale":
        return _is_text(rows, column) or bool(listed and pa.types.is_string(kind.value_type))
    if role == "soft":
        return bool(pa.types.is_struct(kind) or pa.types.is_null(kind))
    if role == "label":
        return not pa.types.is_struct(kind) and not (listed and pa.types.is_nested(kind.value_type))
    return _is_text(rows, column)


def _sample(rows: Rows, column: str) -> list[Any]:
    """Values from all over a column, since many files are sorted by their label."""
    size = _SAMPLE // _SLICES
    if len(rows) <= _SAMPLE:
        values = rows.column(column).to_pylist()
    else:
        starts = [i * (len(rows) - size) // (_SLICES - 1) for i in range(_SLICES)]
        values = [v for s in starts for v in rows.column(column).slice(s, size).to_pylist()]
    return [tuple(v) if isinstance(v, list) else v for v in values if v is not None]


def _labels(rows: Rows, found: Mapping[str, str]) -> list[str]:
    """The columns whose values can be labels: few and short ones that repeat, or a quantity."""
    rest = [c for c in rows.columns if c not in found.values() and _fits(rows, "label", c)]
    other = {*_NO_LABEL, *tasks.find("classify").roles["text"]}
    plain = [c for c in rest if c.lower() not in other and not c.lower().endswith(("_id", "_url", "_date"))]
    return [c for c in plain if _can_be_label(rows, c)]


def _can_be_label(rows: Rows, column: str) -> bool:
    values = _sample(rows, column)
    if any(isinstance(v, tuple) for v in values):
        values = [part for v in values for part in v]
    different = len(set(values))
    if different < 2:
        return False
    if pa.types.is_floating(_type(rows, column)):
        return True
    if _is_number(rows, column) and different > CLASSES:
        return different < len(values)
    return different <= max(2, len(values) / 3) and sum(len(str(v)) for v in values) <= 40 * len(values)


def _texts(rows: Rows, found: Mapping[str, str]) -> list[str]:
    labels = _labels(rows, found)
    texts = [c for c in rows.columns if c not in found.values() and _is_text(rows, c)]
    return [c for c in texts if c not in labels] or texts


def _longest(rows: Rows, columns: Sequence[str]) -> list[str]:
    """The column with much the longest values (three times as long as the next), or all of them."""
    values = {c: _sample(rows, c) for c in columns}
    size = {c: sum(len(str(v)) for v in found) / max(1, len(found)) for c, found in values.items()}
    ranked = sorted(columns, key=lambda c: -size[c])
    clear = len(ranked) > 1 and size[ranked[0]] > 3 * size[ranked[1]]
    return ranked[:1] if clear else list(columns)


def _answers_are_classes(rows: Rows, found: Mapping[str, str], given: Mapping[str, str]) -> bool:
    """Whether what looks like a text to write, by an ambiguous name, is one of a few answers."""
    column = found["completion"]
    if "completion" in given or column.lower() not in _AMBIGUOUS:
        return False
    return len(set(_sample(rows, column))) <= CLASSES and _can_be_label(rows, column)


def _class_or_quantity(rows: Rows, name: str, found: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Fractions, or more than twenty different whole numbers, are a quantity; anything else is a class."""
    if name not in ("classify", "pair", "regress"):
        return name, found
    number = False
    if _is_number(rows, found["label"]):
        values = {float(v) for v in _sample(rows, found["label"])}
        number = len(values) > CLASSES or any(v == v and not v.is_integer() for v in values)
    return "regress" if number else "pair" if "second" in found else "classify", found


def _notes(rows: Rows, name: str, found: Mapping[str, str], given: Mapping[str, str], named: str | None) -> list[str]:
    """What is printed: the mapping, what was converted, and which columns are not used."""
    kind = tasks.find(name)
    parts = []
    for role, column in found.items():
        why = " (as you say)" if role in given else "" if column.lower() in kind.roles[role] else " (by its values)"
        parts.append(f"{role} = {column}{why}")
    notes = [f"task {name} ({'as you say' if named else 'found'}): {', '.join(parts)}"]
    if name == "generate" and "input" in found:
        notes.append(f"the prompt is {found['prompt']}, with {found['input']} below it where a row has one")
    if name == "chat" and "from" in {f.name for f in _type(rows, found["messages"]).value_type}:
        notes.append("ShareGPT's from/value become role/content; human is the user, gpt is the assistant")
    if rest := [c for c in rows.columns if c not in found.values()]:
        notes.append(f"not used: {', '.join(rest)}")
    return notes
