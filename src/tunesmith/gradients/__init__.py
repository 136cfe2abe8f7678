"""Gradients: how the gradient of what is asked is got. One way a file; the folder is the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn


class Gradient:
    """A way to fill ``parameter.grad`` from the loss.

    The loss of an optimizer step is the sum of one closure for each micro-batch, already weighted so that the sum
    is the mean over the step's supervised units. A way may call each closure as often as it needs.

    Attributes:
        adds: whether the gradients of the parts of a step add up to that of the whole, so that processes can share it.
    """

    adds: ClassVar[bool] = False

    def __call__(self, losses: Sequence[Callable[[], Tensor]], parameters: Sequence[nn.Parameter]) -> Tensor:
        """Fill the gradients and return the loss of the whole step, a detached scalar."""
        raise NotImplementedError
