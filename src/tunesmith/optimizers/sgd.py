from __future__ import annotations

from typing import Any

from torch import optim

from ..settings import Decay, NonNegative, Positive
from . import Stepper


class SGD(Stepper):
    """Stochastic gradient descent with momentum.

    Source: Sutskever et al. 2013, proceedings.mlr.press/v28/sutskever13, eq. 1 and 2.

    Settings:
        lr: highest learning rate; None takes the tested rate of the chosen adapter or mask, which is meant for AdamW
            and far too low here.
        momentum: decay of the running sum of the gradients.
        nesterov: look ahead by one step of momentum.
        weight_decay: factor of the weights that is added to their gradient; biases and norms are spared.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        momentum: Decay = 0.9,
        nesterov: bool = False,
        weight_decay: NonNegative = 0.0,
    ):
        self.lr = lr or 0.0
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        decayed = [{**g, "weight_decay": self.weight_decay if g["decays"] else 0.0} for g in groups]
        return optim.SGD(decayed, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
