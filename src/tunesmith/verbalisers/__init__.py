"""Verbalisers: which words stand for a label where a class is told by filling a blank. One a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

Words = dict[str, dict[str, float]]
"""Label -> word -> weight."""


class View(Protocol):
    """What a verbaliser may ask of the untuned base and of the few labelled rows; computed when it is first asked for."""

    @property
    def labels(self) -> Sequence[str]:
        """The classes."""

    @property
    def names(self) -> Sequence[str]:
        """Each class's name as the words of a sentence."""

    @property
    def classes(self) -> Tensor:
        """The class of each labelled row, (rows,)."""

    @property
    def said(self) -> Tensor:
        """The base's log-probability of every token at the blank of each labelled row, (rows, vocabulary)."""

    @property
    def table(self) -> Tensor:
        """The embedding of every token, (vocabulary, size)."""

    def pieces(self, word: str) -> list[int]:
        """The ids of a word in a sentence."""

    def word(self, token: int) -> str | None:
        """The whole word that a token is by itself; None where it is a piece, a number or a sign."""


class Verbaliser:
    """Finds words for every label.

    Attributes:
        asks: whether it asks the base or the labelled rows, so that the base has to be loaded.
    """

    asks: ClassVar[bool] = True

    def __call__(self, view: View) -> Words:
        """Words with positive weights for every label."""
        raise NotImplementedError


def likeliest(scores: Tensor, view: View, count: int) -> list[int]:
    """The best ``count`` tokens that are whole words, best first.

    Args:
        scores: of every token, (vocabulary,).
        view: tells words from pieces.
        count: how many.
    """
    found: list[int] = []
    seen: set[str] = set()
    for token in scores.argsort(descending=True).tolist():
        word = view.word(token)
        if word is not None and word.lower() not in seen:
            seen.add(word.lower())
            found.append(token)
        if len(found) == count:
            break
    return found
