"""The texts in a row that a model reads, and the row with others in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..data.tasks import Task
from . import Row

Change = Callable[[str], str]


def changed(task: Task, row: Row, change: Change) -> dict[str, Any]:
    """The row with every text that goes in replaced: texts, words, prompts, or what the user says in a conversation."""
    made = dict(row)
    if task.name == "chat":
        spoken = getattr(task, "messages")(row)  # noqa: B009
        made[task.columns["messages"]] = [
            {**m, "content": change(m["content"])} if m["role"] == "user" else m for m in spoken
        ]
        return made
    for column in task.input_columns:
        value = made.get(column)
        if isinstance(value, list):
            made[column] = [change(str(word)) for word in value]
        elif isinstance(value, str) and value:
            made[column] = change(value)
    return made
