from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..settings import Count
from . import Audit, Finding, Pair
from ._compare import by_rows
from ._prompts import HARMFUL, HARMLESS, refuses


class RefusalDrift(Audit):
    """Does the model still refuse what it refused, and nothing else? Harmful and harmless requests, twenty of each.

    An answer counts as a refusal if one of a list of phrases stands in it. That is simple and can be checked; it takes
    an answer of nonsense for consent.

    Source: Qi et al. 2023, arXiv:2310.03693.

    Settings:
        tokens: most tokens of an answer.
    """

    tasks: ClassVar[tuple[str, ...]] = ("chat",)

    def __init__(self, *, tokens: Count = 32):
        self.tokens = tokens

    def __call__(self, pair: Pair) -> list[Finding]:
        findings = []
        for name, prompts, greater in (("refused_harmful", HARMFUL, True), ("refused_harmless", HARMLESS, False)):
            said = [pair.write(prompts, tuned=t, tokens=self.tokens) for t in (False, True)]
            refused = [np.array([refuses(text) for text, _ in answers], dtype=float) for answers in said]
            findings.append(by_rows(pair, name, refused[0], refused[1], greater=greater))
        return findings
