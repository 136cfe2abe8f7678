"""Losses: what is asked of the model. One term a file; terms add up; the folder is the registry."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ..settings import Positive


class Step(Protocol):
    """What a loss may ask for. Everything is computed when it is first asked for, and only then."""

    @property
    def batch(self) -> dict[str, Tensor]:
        """The batch as it goes into the model."""

    @property
    def logits(self) -> Tensor:
        """The model's logits at every supervised place: (units, classes), (units, vocabulary), or (rows, outputs)."""

    @property
    def targets(self) -> Tensor:
        """What is asked at the same places: class indices (units,), or numbers (rows,) or (rows, outputs)."""

    @property
    def units(self) -> int:
        """Number of supervised units: rows, or tokens that carry a label."""

    def forward(self, **changes: Any) -> Any:
        """Another forward pass of the model, with parts of the batch replaced."""

    def base(self) -> Tensor:
        """The base model's logits at the same places, without gradient."""


class Loss:
    """One term of what is asked.

    Settings:
        weight: factor of this term in the sum of all.
    """

    weight: Positive = 1.0

    def __call__(self, step: Step) -> Tensor:
        """The mean over the step's supervised units, a scalar."""
        raise NotImplementedError
