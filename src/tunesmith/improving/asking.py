"""What a row asks, and rows that ask it in other words or have another answer; for tasks that write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.detect import detect
from ..data.rows import Rows
from ..data.tasks import Task
from ..data.tasks.generate import Generate
from ..errors import InputError
from ..judges import Question
from ..makers import Answer, Maker, Pair
from ..recipe import Recipe

Row = Mapping[str, Any]


def task_of(recipe: Recipe, rows: Rows, known: Task | None = None) -> Task:
    """What the rows ask for: prompts may stand without an answer.

    Args:
        recipe: says what the columns are.
        rows: the rows.
        known: the task of a run whose model writes; its columns are looked for first.

    Raises:
        InputError: the rows ask for nothing that is written.
    """
    if known is not None and recipe.task is None and all(
        c in rows.columns for r, c in known.columns.items() if r not in ("completion", "input")
    ):  # fmt: skip
        return known
    columns, found = recipe.rows.columns, rows.columns
    prompt = columns.get("prompt") or next((c for c in Generate.roles["prompt"] if c in found), None)
    lacks = not any(c in found for c in (*Generate.roles["completion"], *columns.values()) if c != prompt)
    if prompt in found and lacks and "messages" not in found and recipe.task in (None, "generate"):
        return Generate({"prompt": str(prompt), "completion": "completion"})
    task = detect(rows, recipe.task, columns or None)
    if task.name not in ("generate", "chat"):
        raise InputError(
            f"task {task.name} writes no answer that can be judged", where=rows.source, expected="task generate or chat",
            fix="--set task=generate --column prompt=NAME",
        )  # fmt: skip
    return task


class Asker:
    """Reads and writes the rows of one task.

    Args:
        task: ``generate`` or ``chat``.
    """

    def __init__(self, task: Task):
        self.task: Any = task
        self.chats = task.name == "chat"

    def prompt(self, row: Row) -> str:
        """What a row asks: its prompt, or what the user said last before the answer."""
        if not self.chats:
            return str(self.task.prompt(row))
        return str([m["content"] for m in self._before(row) if m["role"] == "user"][-1])

    def reference(self, row: Row) -> str | None:
        """The row's own answer, if it has one."""
        if self.chats:
            messages, last = self.task.messages(row), self.task.last(row)
            return str(messages[last]["content"]) if last < len(messages) else None
        text = row.get(self.task.columns["completion"])
        return str(text) if text is not None and str(text).strip() else None

    def question(self, row: Row, samples: Sequence[str]) -> Question:
        """The row with answers to be judged."""
        return Question(self.prompt(row), row, self.reference(row), tuple(samples))

    def asking(self, row: Row, prompt: str) -> dict[str, Any]:
        """The row with another prompt."""
        columns = self.task.columns
        if not self.chats:
            return {**row, columns["prompt"]: prompt, **({columns["input"]: None} if "input" in columns else {})}
        before = self._before(row)
        last = max(i for i, m in enumerate(before) if m["role"] == "user")
        after = self.task.messages(row)[len(before) :]
        return {**row, columns["messages"]: [*before[:last], {**before[last], "content": prompt}, *after]}

    def answered(self, row: Row, text: str) -> dict[str, Any]:
        """The row with another answer."""
        if not self.chats:
            return {**row, self.task.columns["completion"]: text}
        messages = [*self._before(row), {"role": "assistant", "content": text}]
        return {**row, self.task.columns["messages"]: messages}

    def made(self, item: Answer | Pair) -> dict[str, Any]:
        """A maker's row as a file of rows has it.

        Raises:
            InputError: a conversation of several turns is to become a pair or a rated answer, which has one prompt.
        """
        row = item.question.row
        if isinstance(item, Answer) and item.good is None:
            asked = self.asking(row, item.prompt) if item.prompt is not None else dict(row)
            return self.answered(asked, item.completion)
        if self.chats and len(self._before(row)) > 1:
            raise InputError(
                "a conversation of several turns cannot become a pair or be rated", expected="one turn of the user",
                fix="take rows with prompt and completion",
            )  # fmt: skip
        if isinstance(item, Answer):
            return {"prompt": item.question.prompt, "completion": item.completion, "label": item.good}
        return {"prompt": item.question.prompt, "chosen": item.chosen, "rejected": item.rejected}

    def recipe_task(self, maker: Maker) -> tuple[dict[str, Any], dict[str, str]]:
        """The task of the rows that a maker makes, and what their columns mean."""
        if not (maker.pairs or maker.rates):
            return {self.task.name: self.task.settings}, dict(self.task.columns)
        settings = {} if self.chats else {k: self.task.settings[k] for k in ("chat", "separator")}
        roles = ("prompt", "chosen", "rejected") if maker.pairs else ("prompt", "completion", "label")
        return {"prefer": settings}, {role: role for role in roles}

    def _before(self, row: Row) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.task.messages(row)
        return messages[: self.task.last(row)]
