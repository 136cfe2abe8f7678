from __future__ import annotations

from collections.abc import Sequence

from ..judges._texts import sentences
from . import Answer, Desk, Judged, Maker


class Knowledge(Maker):
    """Besides each answer two tasks on what it says: list its facts, and answer from them.

    The paper has a large model extract triples; a fact is a sentence here.

    Source: Lyu et al. 2024, arXiv:2402.11176 (KnowTuning, its explicit stage).

    Settings:
        listing: how facts are asked for, behind the prompt.
        using: how an answer from the facts is asked for, behind the prompt and before the facts.
    """

    needs_reference = True

    def __init__(
        self, *, listing: str = "List the facts that an answer needs, one a line.",
        using: str = "Answer from these facts:",
    ):  # fmt: skip
        self.listing = listing
        self.using = using

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> Sequence[Answer]:
        made = []
        for one in judged:
            question, own = one.question, one.question.reference or ""
            facts = "\n".join(f"- {fact}" for fact in sentences(own))
            made += [
                Answer(question, own),
                Answer(question, facts, f"{question.prompt}\n\n{self.listing}"),
                Answer(question, own, f"{question.prompt}\n\n{self.using}\n{facts}"),
            ]
        return made
