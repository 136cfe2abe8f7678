from __future__ import annotations

from ..errors import InputError
from ..settings import NonNegative
from . import Judge, Question, Verdict, reference_of
from ._texts import number


class NumericAnswer(Judge):
    """1 where an answer ends on the number that the row's own answer ends on, 0 elsewhere.

    The number is what follows the last ``####`` or ``answer is``, else the last one in the text.

    Source: Cobbe et al. 2021, arXiv:2110.14168 (the form of answers).

    Settings:
        tolerance: how far it may be off, as a share of the right number.
    """

    needs_reference = True

    def __init__(self, *, tolerance: NonNegative = 1e-6):
        self.tolerance = tolerance

    def verdict(self, question: Question, text: str) -> Verdict:
        wanted, said = number(reference_of(question, self)), number(text)
        if wanted is None:
            raise InputError(
                f"the answer {question.reference!r} holds no number", expected="a number in every row's own answer",
                fix="take the judge exact_match",
            )  # fmt: skip
        if said is None:
            return Verdict(0.0, "There is no number in the answer.")
        right = abs(float(said) - float(wanted)) <= self.tolerance * max(abs(float(wanted)), 1e-9)
        return Verdict(float(right), "" if right else f"Wrong. The answer is {wanted}, not {said}.")
