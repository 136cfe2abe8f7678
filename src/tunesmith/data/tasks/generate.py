from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from . import Encoding, Task

if TYPE_CHECKING:
    from ..reader import Reader


class Generate(Task):
    """Write a completion for a prompt. Only the completion is supervised, its end included.

    Settings: ``chat`` wraps the prompt as a user's turn where the base has a chat template; ``separator`` stands
    between prompt and completion where the prompt does not end in white space.
    """

    name = "generate"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "prompt": ("prompt", "instruction", "question", "source", "input_text", "document", "input"),
        "input": ("input", "context"),
        "completion": ("completion", "output", "response", "answer", "target", "summary", "target_text"),
        "source": (),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"input", "source"})
    metric = "loss"
    greater = False
    per_token = True
    heads: ClassVar[Mapping[str, str]] = {"decoder": "causal-lm", "encoder-decoder": "seq2seq-lm"}
    options: ClassVar[Mapping[str, Any]] = {"chat": True, "separator": "\n"}

    def prompt(self, row: Mapping[str, Any]) -> str:
        """The prompt, with the separate input of Alpaca's form below it."""
        text, extra = str(self.value(row, "prompt")), self.value(row, "input")
        return f"{text}\n\n{extra}" if extra else text

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        made = []
        for row in rows:
            answer = str(row.get(self.columns["completion"]) or "")
            encoding = reader.completion(self.prompt(row), answer, **self.settings)
            encoding.source = self.source(row)
            made.append([encoding])
        return made

    def target(self, row: Mapping[str, Any]) -> str:
        return str(row[self.columns["completion"]])

    def prompt_ids(self, row: Mapping[str, Any], reader: Reader) -> list[int]:
        """The ids after which the model writes; an exact prefix of the row's training ids."""
        return reader.prompt(self.prompt(row), **self.settings)
