"""Masks: which of the model's own weights move. One rule a file; the folder is the registry."""

from __future__ import annotations

from typing import ClassVar

from ..models.anatomy import Weight


class Mask:
    """A rule over the model's own weights: which of them train.

    Tensors that were newly made for the task (a classifier's head) train under every mask, since nothing else can.

    Attributes:
        rate: the learning rate that passed the recorded learning test; used where a recipe names none.
    """

    rate: ClassVar[float] = 5e-5

    def trains(self, weight: Weight) -> bool:
        """Whether this weight moves."""
        raise NotImplementedError
