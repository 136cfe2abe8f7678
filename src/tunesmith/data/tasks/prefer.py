from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError
from ..rows import Rows
from . import Encoding, Task

if TYPE_CHECKING:
    from ..reader import Reader

GOOD = ("true", "1", "good", "yes", "+1", "chosen", "desirable")
BAD = ("false", "0", "bad", "no", "-1", "rejected", "undesirable")
MARKS = {True: "<|good|> ", False: "<|bad|> "}
"""What stands before a prompt of each kind where the model is trained under control."""


class Prefer(Task):
    """Which of two answers to a prompt is better (chosen, rejected), or whether an answer is good (completion, label).

    Settings: ``chat`` and ``separator`` as for ``generate``; ``control`` puts a mark of its kind before each prompt, for
    conditional training, and in use the good one.
    """

    name = "prefer"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "prompt": ("prompt", "question", "instruction", "input"),
        "chosen": ("chosen", "preferred", "response_chosen"),
        "rejected": ("rejected", "dispreferred", "response_rejected"),
        "completion": ("completion", "response", "answer"),
        "label": ("label", "desirable", "good"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"chosen", "rejected", "completion", "label"})
    metric = "loss"
    greater = False
    per_token = True
    heads: ClassVar[Mapping[str, str]] = {"decoder": "causal-lm"}
    options: ClassVar[Mapping[str, Any]] = {"chat": True, "separator": "\n", "control": False}

    @property
    def paired(self) -> bool:
        """Whether a row holds two answers."""
        return "chosen" in self.columns

    @property
    def loss(self) -> str:  # type: ignore[override]
        return "conditional_training" if self.settings["control"] else "dpo" if self.paired else "kto"

    @property
    def input_columns(self) -> list[str]:
        return [self.columns["prompt"]]

    def learn(self, rows: Rows) -> None:
        for one, two in (("chosen", "rejected"), ("completion", "label")):
            if (one in self.columns) != (two in self.columns):
                lacking = two if one in self.columns else one
                raise InputError(
                    f"no column is the {lacking}", where=rows.source,
                    expected="prompt with chosen and rejected, or with completion and label",
                    fix=f"name it: --task prefer --column {lacking}=NAME",
                )  # fmt: skip
        if self.paired:
            self.columns = {r: c for r, c in self.columns.items() if r not in ("completion", "label")}
        elif "completion" not in self.columns:
            raise InputError(
                "no column holds answers", where=rows.source,
                expected="prompt with chosen and rejected, or with completion and label", fix="name them with --column",
            )  # fmt: skip
        self.check(rows)

    def problem(self, row: Mapping[str, Any]) -> str | None:
        for role in ("chosen", "rejected", "completion"):
            text = self.value(row, role)
            if role in self.columns and (not isinstance(text, str) or not text.strip()):
                return f"column {self.columns[role]!r} holds no text; expected an answer; fill it in or delete the row"
        if "label" in self.columns and _kind(self.value(row, "label")) is None:
            found = self.value(row, "label")
            return f"column {self.columns['label']!r} is {found!r}; expected true or false: is the answer good?"
        return super().problem(row)

    def prompt(self, row: Mapping[str, Any], *, good: bool = True) -> str:
        """The prompt, with its mark under control."""
        text = str(self.value(row, "prompt"))
        return MARKS[good] + text if self.settings["control"] else text

    def _encoding(self, row: Mapping[str, Any], role: str, good: bool, reader: Reader) -> Encoding:
        settings = {k: v for k, v in self.settings.items() if k != "control"}
        encoding = reader.completion(self.prompt(row, good=good), str(row.get(self.columns[role]) or ""), **settings)
        encoding.good, encoding.controlled = good, bool(self.settings["control"])
        return encoding

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        made = []
        for row in rows:
            if not self.paired:
                good = _kind(row.get(self.columns["label"], True))
                made.append([self._encoding(row, "completion", bool(good), reader)])
                continue
            encoding = self._encoding(row, "chosen", True, reader)
            encoding.other = other = self._encoding(row, "rejected", False, reader)
            encoding.full, encoding.lost = max(encoding.full, other.full), encoding.lost + other.lost
            made.append([encoding])
        return made

    def target(self, row: Mapping[str, Any]) -> str:
        return str(row[self.columns["chosen" if self.paired else "completion"]])

    def prompt_ids(self, row: Mapping[str, Any], reader: Reader) -> list[int]:
        """The ids after which the model writes; under control, behind the mark of good answers."""
        settings = {k: v for k, v in self.settings.items() if k != "control"}
        return reader.prompt(self.prompt(row), **settings)


def _kind(value: Any) -> bool | None:
    """Whether a label says good or bad; None where it says neither.

    >>> _kind(True), _kind(0.0), _kind("Bad"), _kind("maybe")
    (True, False, False, None)
    """
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    return True if text in GOOD else False if text in BAD else None
