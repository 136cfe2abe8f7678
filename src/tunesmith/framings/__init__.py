"""Framings: how a prompt is put to the model that answers it. One way a file; nothing of them is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from ..settings import Count

Kept = list[dict[str, str]]
"""What a framing has found out for a model, and shows with every prompt."""


class Trial(Protocol):
    """What a framing may ask for while it settles."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        """What the model says to each prompt, always the likeliest token."""

    def examples(self, most: int) -> Kept:
        """Training prompts that the model answers right by itself, with its answers; of so many at most."""

    def value(self, kept: Kept) -> float:
        """The mean score on the validation rows of what is kept."""

    def draw(self, count: int, of: int) -> list[int]:
        """So many different places below ``of``, by the seed."""


class Framing:
    """Frames prompts.

    Settings:
        votes: answers to each held-out prompt, drawn at the loop's temperature; the commonest counts. 1 takes the likeliest.

    Attributes:
        searches: whether it tries itself out on held-out rows, whose answers somebody has to score.
    """

    votes: Count = 1
    searches: ClassVar[bool] = False

    def settle(self, trial: Trial) -> Kept:
        """What is shown with every prompt to this model; found once for each model."""
        return []

    def __call__(self, prompts: Sequence[str], kept: Kept, trial: Trial) -> list[str]:
        """The prompts as they are put to the model."""
        raise NotImplementedError
