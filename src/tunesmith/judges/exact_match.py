from __future__ import annotations

from typing import Literal

from . import Judge, Question, Verdict, reference_of
from ._texts import normal


class ExactMatch(Judge):
    """1 where an answer is the row's own, 0 elsewhere.

    Source: Rajpurkar et al. 2016, arXiv:1606.05250, sec. 6.1 (the normalisation).

    Settings:
        normalise: compare without case, punctuation, articles and extra white space.
        where: what must equal the right answer: the ``whole`` text, its ``first_line``, or any place that it stands in
            (``contains``), for models that answer in sentences.
    """

    needs_reference = True

    def __init__(self, *, normalise: bool = True, where: Literal["whole", "first_line", "contains"] = "whole"):
        self.normalise = normalise
        self.where = where

    def verdict(self, question: Question, text: str) -> Verdict:
        wanted = reference_of(question, self).strip()
        said = text.strip().partition("\n")[0] if self.where == "first_line" else text.strip()
        one, two = (normal(wanted), normal(said)) if self.normalise else (wanted, said)
        right = f" {one} " in f" {two} " if self.where == "contains" else one == two
        return Verdict(float(right), "" if right else f"Wrong. The answer is {wanted}.")
