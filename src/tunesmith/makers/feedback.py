from __future__ import annotations

from collections.abc import Sequence

from . import Answer, Desk, Judged, Maker


class Feedback(Maker):
    """Every answer, good or bad: a mark before the prompt says which, and behind a bad one stands what was wrong with it.

    The tuned model is asked with the mark of good answers.

    Source: Wang et al. 2023, arXiv:2305.10314 (LeTI; its mix with pretraining text is the loop's option ``beside``).

    Settings:
        least: least score of a good answer.
        good: the mark of good answers.
        bad: the mark of bad ones.
        words: add what the judge said of a bad answer; without it the mark is all that tells.
    """

    def __init__(self, *, least: float = 1.0, good: str = "<|good|> ", bad: str = "<|bad|> ", words: bool = True):
        self.least = least
        self.good, self.bad = good, bad
        self.words = words

    def __call__(self, judged: Sequence[Judged], desk: Desk) -> list[Answer]:
        made = []
        for one in judged:
            for text, verdict in one.ranked():
                if text.strip():
                    right = verdict.score >= self.least
                    said = f"{text}\n{verdict.feedback}" if self.words and verdict.feedback and not right else text
                    made.append(Answer(one.question, said, (self.good if right else self.bad) + one.question.prompt))
        return made

    def ask(self, prompt: str) -> str:
        return self.good + prompt
