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


def asked(task: Task, prompt: str, answer: str | None = None) -> dict[str, Any]:
    """A row of a task that writes, which asks this and nothing else; with an answer, or to be answered."""
    if task.name == "chat":
        turns = [{"role": "user", "content": prompt}]
        return {task.columns["messages"]: turns + ([{"role": "assistant", "content": answer}] if answer else [])}
    row: dict[str, Any] = {column: prompt if role == "prompt" else None for role, column in task.columns.items()}
    return {**row, task.columns["completion"]: answer} if answer is not None else row


def prompt_of(task: Task, row: Row) -> str:
    """What a row asks: its prompt, or what the user said last before the answer."""
    if task.name == "chat":
        turns = getattr(task, "messages")(row)  # noqa: B009
        return str([m["content"] for m in turns if m["role"] == "user"][-1])
    return str(getattr(task, "prompt")(row))  # noqa: B009
