"""Every adapter and mask as a technique that can be trained by itself at its defaults; shared by the measurements."""

from __future__ import annotations

from typing import Any

from tunesmith import parts
from tunesmith.comparing import arena
from tunesmith.comparing.identity import Identities
from tunesmith.parts import Part

CONTEXT_ROWS, CONTEXT_TOKENS = 3, 64
"""Training rows, and the most of their tokens, that stand in the context of a technique that begins as examples."""


def every() -> list[Part]:
    """All adapters and masks; head only comes first, because the others are held against it."""
    found = [*parts.of_kind("mask").values(), *parts.of_kind("adapter").values()]
    return sorted(found, key=lambda part: part.name != "head")


def technique(part: Part, task: str, identities: Identities) -> dict[str, Any]:
    """The options of a recipe that make this part train alone on an arena task.

    A composition gets two LoRAs to combine; what begins as examples in the context gets training rows.
    """
    if part.kind == "mask":
        return {"mask": {part.name: {}}}
    if part.settings["targets"].default == ["adapted"]:
        return {"adapter": [{"lora": {}}, {"lora": {}}, {part.name: {}}]}
    if "context" in part.settings:
        return {"adapter": {part.name: {"context": _examples(task, identities)}}}
    return {"adapter": {part.name: {}}}


def _examples(task: str, identities: Identities) -> list[int]:
    """Ids of the first training rows' texts and labels, one after the other, as many as fit."""
    prepared = identities.prepared(arena.find(task).recipe({"mask": "head"}))
    table, indices = prepared.parted.tables["train"], prepared.parted.indices["train"][:CONTEXT_ROWS]
    columns = prepared.task.columns
    text = " ".join(": ".join(str(table[int(i)][c]) for c in columns.values()) for i in indices)
    ids: list[int] = prepared.reader.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:CONTEXT_TOKENS]
