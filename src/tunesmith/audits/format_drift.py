from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..settings import Count
from . import Audit, Finding, Pair
from ._compare import by_rows
from ._prompts import FORMATS


class FormatDrift(Audit):
    """Does the model answer everything in the form that it was trained on? Form and length of answers to other prompts.

    Short prompts that ask for a form (one word, a number, yes or no, a list, JSON, one sentence) are answered by base
    and tuned model. A simple rule says of each answer whether it keeps to the form, whatever it says.

    Source: Wang et al. 2022, arXiv:2211.00635 (ProMoT: format specialisation).

    Settings:
        tokens: most tokens of an answer.
    """

    tasks: ClassVar[tuple[str, ...]] = ("generate", "chat")

    def __init__(self, *, tokens: Count = 40):
        self.tokens = tokens

    def __call__(self, pair: Pair) -> list[Finding]:
        prompts = [prompt for prompt, _ in FORMATS]
        written = [pair.write(prompts, tuned=t, tokens=self.tokens) for t in (False, True)]
        kept = [[keeps(text) for (_, keeps), (text, _) in zip(FORMATS, said, strict=True)] for said in written]
        words = [[len(text.split()) for text, _ in said] for said in written]
        stopped = [[ended for _, ended in said] for said in written]
        figures = (("format_kept", kept, True), ("words_written", words, None), ("stopped_by_itself", stopped, None))
        return [
            by_rows(pair, name, *(np.array(v, dtype=float) for v in values), greater=greater)
            for name, values, greater in figures
        ]
