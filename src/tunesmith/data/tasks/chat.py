from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from . import Encoding, Task

if TYPE_CHECKING:
    from ..reader import Reader

SHAREGPT = {
    "human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant", "observation": "tool",
}  # fmt: skip
"""Roles of ShareGPT's ``from`` -> roles of ``messages``."""


class Chat(Task):
    """Answer in a conversation. Only the assistant's turns are supervised, the end of each included."""

    name = "chat"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {"messages": ("messages", "conversations", "conversation", "dialog")}
    metric = "loss"
    greater = False
    per_token = True
    heads: ClassVar[Mapping[str, str]] = {"decoder": "causal-lm"}

    def messages(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The conversation as ``{"role": ..., "content": ...}``; ShareGPT's form is converted."""
        found = []
        for message in row[self.columns["messages"]] or []:
            if message.get("from") is not None:
                name = message["from"]
                found.append({"role": SHAREGPT.get(name, name), "content": message.get("value")})
            else:
                found.append(_filled(message))
        return found

    def problem(self, row: Mapping[str, Any]) -> str | None:
        value = row[self.columns["messages"]]
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            return f"column {self.columns['messages']!r} is {_short(value)}; expected a list of messages"
        messages = self.messages(row)
        for number, message in enumerate(messages, 1):
            if message.get("role") not in ("system", "user", "assistant", "tool"):
                return f"message {number} has role {message.get('role')!r}; expected system, user, assistant or tool"
            if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
                return f"message {number} has content {_short(message.get('content'))}; expected text"
        turns = [m["role"] for m in messages]
        if "assistant" not in turns:
            return "no turn of the assistant; expected at least one, since nothing else is trained"
        if next(t for t in turns if t != "system") == "assistant":
            return "the assistant speaks first; expected a user's turn before it"
        for number, (one, two) in enumerate(pairwise(turns), 1):
            if one == two and one in ("user", "assistant"):
                return f"messages {number} and {number + 1} are both the {one}'s; expected alternate turns; join them"
        answers = [m for m in messages if m["role"] == "assistant" and not m.get("tool_calls")]
        if any(not m["content"].strip() for m in answers):
            return "a turn of the assistant is empty; expected text; fill it in or delete the row"
        return None

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        return [[reader.chat(self.messages(row))] for row in rows]

    def target(self, row: Mapping[str, Any]) -> str:
        return str(self.messages(row)[self.last(row)].get("content", ""))

    def prompt_ids(self, row: Mapping[str, Any], reader: Reader) -> list[int]:
        """The ids after which the model writes the last turn of the assistant."""
        return reader.chat_prompt(self.messages(row)[: self.last(row)])

    def last(self, row: Mapping[str, Any]) -> int:
        """The place of the assistant's last turn; behind all where it has none."""
        turns = [m["role"] for m in self.messages(row)]
        return len(turns) - 1 - turns[::-1].index("assistant") if "assistant" in turns else len(turns)


def _filled(value: Any) -> Any:
    """A message without the empty fields that a table gives to every message because one of them has the field."""
    if isinstance(value, dict):
        return {k: _filled(v) for k, v in value.items() if v is not None}
    return [_filled(v) for v in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
