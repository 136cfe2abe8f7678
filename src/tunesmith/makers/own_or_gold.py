from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import Answer, Desk, Judged, Maker


class OwnOrGold(Maker):
    """A right answer in the model's own words: its own where it is right, else the row's in its words, else the row's.

    Every prompt gives one row, whose target lies as near to what the model would write as a right one can.

    Source: Gupta et al. 2025, arXiv:2502.08130 (S3FT).

    Settings:
        least: least score of a right answer.
        paraphrase: how the model is asked to say a row's answer in its own words, with ``{prompt}`` and ``{answer}``; empty
            to take the row's own answer at once.
    """

    needs_reference = True

    def __init__(
        self, *, least: float = 1.0,
        paraphrase: str = "{prompt}\n\nThe answer is: {answer}\n\nGive this answer in your own words.",
    ):  # fmt: skip
        self.least = least
        self.paraphrase = paraphrase

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        chosen = {i: text for i, one in enumerate(judged) if (text := self._own(one)) is not None}
        wrong = [i for i in range(len(judged)) if i not in chosen]
        chosen |= self._paraphrased([judged[i] for i in wrong], wrong, desk) if self.paraphrase and wrong else {}
        return [Answer(one.question, chosen.get(i, one.question.reference or "")) for i, one in enumerate(judged)]

    def _own(self, one: Judged) -> str | None:
        text, verdict = next(one.ranked())
        return text if verdict.score >= self.least and text.strip() else None

    def _paraphrased(self, wrong: Sequence[Judged], places: Sequence[int], desk: Desk) -> dict[int, str]:
        asked = [
            self.paraphrase.replace("{prompt}", w.question.prompt).replace("{answer}", w.question.reference or "")
            for w in wrong
        ]
        texts = desk.write(asked)
        verdicts = desk.judge([replace(w.question, samples=(t,)) for w, t in zip(wrong, texts, strict=True)])
        found = zip(places, texts, verdicts, strict=True)
        return {i: text for i, text, (v,) in found if v.score >= self.least and text.strip()}
