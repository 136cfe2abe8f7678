from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError
from ..rows import Rows
from . import Encoding, Task
from .classify import Classify
from .pair import Pair

if TYPE_CHECKING:
    from ..reader import Reader


class Regress(Task):
    """A number for a text, or for two."""

    name = "regress"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "text": (*Classify.roles["text"], *Pair.roles["text"]),
        "second": Pair.roles["second"],
        "label": ("label", "score", "target", "value", "rating", "similarity", "labels"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"second"})
    loss = "squared_error"
    metric = "pearson"
    heads: ClassVar[Mapping[str, str]] = Classify.heads

    def learn(self, rows: Rows) -> None:
        """Check that every label is a number and that they differ."""
        self.check(rows)
        column, low, high = self.columns["label"], float("inf"), float("-inf")
        for batch in rows.batches([column]):
            values = [float(row[column]) for row in batch]
            low, high = min(low, *values), max(high, *values)
        if low == high:
            found = f"column {column!r} is {low:g} in every row"
            raise InputError(found, where=rows.source, expected="numbers that differ")
        self.notes.append(f"numbers from {low:g} to {high:g}")

    def problem(self, row: Mapping[str, Any]) -> str | None:
        value = row[self.columns["label"]]
        if problem := super().problem(row):
            return problem
        return None if _is_number(value) else f"column {self.columns['label']!r} is {value!r}; expected a number"

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        texts = [str(self.value(row, "text")) for row in rows]
        seconds = [str(self.value(row, "second")) for row in rows] if "second" in self.columns else None
        encodings = reader.texts(texts, seconds)
        for encoding, row in zip(encodings, rows, strict=True):
            encoding.labels = self.target(row) if self.columns["label"] in row else 0.0
        return [[e] for e in encodings]

    def target(self, row: Mapping[str, Any]) -> float:
        return float(row[self.columns["label"]])


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return abs(float(value)) < float("inf")
    except (TypeError, ValueError):
        return False
