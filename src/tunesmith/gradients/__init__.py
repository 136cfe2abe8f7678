"""Gradients: how the gradient of what is asked is got. One way a file; the folder is the registry.

A way fills all gradients (`Gradient.__call__`), or it gives them one tensor after another and each moves its tensor at
once (`Gradient.stream`), so that they never exist together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

Loss = Callable[[], Tensor]
"""The share of one micro-batch in the loss of an optimizer step, a scalar."""

Take = Callable[[nn.Parameter], None]
"""Moves a parameter by the gradient that it has now, and lets go of the gradient."""


@dataclass(frozen=True)
class Plan:
    """What a way may know of the run before it begins.

    Attributes:
        rows: training rows.
        rows_per_step: rows of one optimizer step.
        steps: optimizer steps of the run; infinite where only time limits it.
        reversible: whether a step with the negative gradient takes back the step before it.
    """

    rows: int
    rows_per_step: int
    steps: float
    reversible: bool = False


class Gradient:
    """A way to fill ``parameter.grad`` from the loss.

    The loss of an optimizer step is the sum of one closure for each micro-batch, already weighted so that the sum
    is the mean over the step's supervised units. A way may call each closure as often as it needs; to see the same
    drop-out again it seeds PyTorch's generators with ``torch.initial_seed()``, the step's own seed.

    Attributes:
        streams: whether the engine calls `stream` in place of it. Only transforms that look at one tensor at a time
            fit then, and no part may ask for all gradients after the step.
        sums: whether each row's loss has to be a sum over its own units, so that no row's share depends on the others.
        entries: why it does not work where only some entries of a tensor move; empty where it does.
        adds: whether the gradients of the parts of a step add up to that of the whole, so that processes can share it.
    """

    streams: ClassVar[bool] = False
    sums: ClassVar[bool] = False
    entries: ClassVar[str] = ""
    adds: ClassVar[bool] = True

    def begin(self, model: nn.Module, plan: Plan) -> list[str]:
        """See the model with all its parts before training; what is to be noted in the run's log.

        Raises:
            InputError: the way does not fit this run.
        """
        return []

    def __call__(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter]) -> Tensor:
        """Fill the gradients and return the loss of the whole step, a detached scalar.

        Where ``sums`` is set, the closures give sums and not means; the loss that is returned is a sum too.
        """
        raise NotImplementedError

    def stream(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter], take: Take) -> Tensor:
        """Fill one gradient, let ``take`` move its parameter, and go on; return the loss as `__call__` does.

        A loss that is not finite is returned before anything has moved.
        """
        raise NotImplementedError


class Replayable(Gradient):
    """A streaming way whose step follows from a seed and a few numbers, so that a run is rebuilt from a log of them.

    Attributes:
        scalars: the numbers of the last step.
    """

    streams: ClassVar[bool] = True
    scalars: tuple[float, ...]

    def replay(self, seed: int, scalars: Sequence[float], parameters: Sequence[nn.Parameter], take: Take) -> None:
        """Do to the weights what the step with this seed and these numbers did, bit for bit, without the model."""
        raise NotImplementedError
