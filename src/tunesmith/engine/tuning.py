"""What the loop does for adapters with values of their own to tune: their gradient comes from validation rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..adapters import Tuned
from ..errors import InputError
from .batches import micro_batches
from .step import Step, count_units

if TYPE_CHECKING:
    from .loop import Loop


class Tuner:
    """A loop's adapters that tune values on validation rows. Without any there is nothing to do.

    Args:
        loop: the loop whose adapters these are.

    Raises:
        InputError: there are no validation rows, or the recipe gives no gradients that could stand beside theirs.
    """

    def __init__(self, loop: Loop):
        self.loop = loop
        self.techniques = [t for t in loop.work.host.techniques() if t[0].tunes]
        self.rows = loop.work.held_out
        if not self.techniques:
            return
        name = type(self.techniques[0][0]).__name__
        if self.rows is None or not len(self.rows):
            raise InputError(f"adapter {name} tunes on validation rows, and there are none",
                             where="rows.validation_share", expected="a share above 0")  # fmt: skip
        if loop.work.gradient.streams or loop.work.gradient.sums or loop.work.together.count > 1:
            raise InputError(f"adapter {name} tunes on validation rows beside the gradient of a step",
                             fix="take gradient backprop, and one process")  # fmt: skip

    def after_backward(self) -> None:
        """Fill the gradients of the tuned values by the loss of some validation rows, as many as a step has."""
        for adapters in self.techniques:
            host = self.loop.work.host
            training = host.training
            host.eval()
            with type(adapters[0]).tuning(adapters) as tuned:
                for gradients in self._gradients(tuned):
                    for value, gradient in zip(tuned.values, gradients, strict=True):
                        value.grad = gradient if value.grad is None else value.grad + gradient
            host.train(training)

    def _gradients(self, tuned: Tuned) -> list[tuple[Tensor, ...]]:
        """One for each micro-batch, and one for what is added to the loss."""
        work, state, rows = self.loop.work, self.loop.state, self.rows
        assert rows is not None
        draw = np.random.default_rng([work.seed, state.step])
        chosen = draw.choice(len(rows), size=min(len(rows), work.rows_per_step), replace=False)
        batches = [work.collate(rows.take(g)) for g in micro_batches(chosen, rows.lengths, state.micro_tokens)]
        units = sum(count_units(b["labels"], work.head) for b in batches)
        found = [torch.autograd.grad(self.loop.closure(b, units, self._asks)(), tuned.values) for b in batches]
        if tuned.penalty is not None:
            found.append(torch.autograd.grad(tuned.penalty(), tuned.values, materialize_grads=True))
        return found

    def _asks(self, step: Step) -> Tensor:
        return torch.stack([term.weight * term(step) for term in self.loop.work.losses]).sum()
