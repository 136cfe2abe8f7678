from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from . import Encoding, Task

if TYPE_CHECKING:
    from ..reader import Reader


class LanguageModel(Task):
    """Predict the next token of plain text, or on an encoder the hidden ones. Long texts are cut; no token is lost."""

    name = "lm"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {"text": ("text", "content", "document", "body", "article")}
    metric = "loss"
    greater = False
    per_token = True
    heads: ClassVar[Mapping[str, str]] = {"decoder": "causal-lm", "encoder": "masked-lm"}

    def encode(self, rows: Sequence[Mapping[str, Any]], reader: Reader) -> list[list[Encoding]]:
        texts = [str(self.value(row, "text")) for row in rows]
        return reader.hidden(texts) if reader.architecture == "encoder" else reader.documents(texts)

    def target(self, row: Mapping[str, Any]) -> str:
        return str(self.value(row, "text"))

    def prompt_ids(self, row: Mapping[str, Any], reader: Reader) -> list[int]:
        """The text as a beginning that the model goes on with."""
        return reader.beginning(str(self.value(row, "text")))
