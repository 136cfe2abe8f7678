from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .classify import Classify


class Pair(Classify):
    """One label for two texts: does the second follow, answer, repeat the first? A teacher's soft labels as in `Classify`."""

    name = "pair"
    roles: ClassVar[Mapping[str, Sequence[str]]] = {
        "text": ("sentence1", "premise", "question", "text1", "text_a", "anchor", "query", "first"),
        "second": ("sentence2", "hypothesis", "context", "passage", "text2", "text_b", "answer", "second", "sentence"),
        "label": Classify.roles["label"],
        "source": (),
        "soft": (),
    }
    options: ClassVar[Mapping[str, Any]] = {"multi": False, "cloze": None}
