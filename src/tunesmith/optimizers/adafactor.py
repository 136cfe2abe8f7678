from __future__ import annotations

from typing import Any

from torch import optim

from ..settings import NonNegative, Positive
from . import Stepper


class Adafactor(Stepper):
    """Adaptive steps from the row and column means of the squared gradients, PyTorch's implementation.

    The step of each tensor is clipped by its root mean square and scaled by that of the weights. With gradient ``lomo``
    this is AdaLOMO (Lv et al. 2023, arXiv:2310.10195), whose state is two vectors a matrix.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4.

    Settings:
        lr: highest learning rate, relative to the size of the weights; also never above ``1/sqrt(step)``. None takes
            the tested rate of the chosen adapter or mask, which is meant for AdamW and too low here.
        beta2_decay: exponent by which the memory of the squares grows with the steps.
        eps: smallest size of the weights that the step is scaled by.
        clip: highest root mean square of a tensor's step before scaling.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        beta2_decay: float = -0.8,
        eps: Positive = 1e-3,
        clip: Positive = 1.0,
        weight_decay: NonNegative = 0.0,
    ):
        self.lr = lr or 0.0
        self.beta2_decay, self.eps, self.clip = beta2_decay, eps, clip
        self.weight_decay = weight_decay

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        decayed = [{**g, "weight_decay": self.weight_decay if g["decays"] else 0.0} for g in groups]
        return optim.Adafactor(decayed, self.lr, beta2_decay=self.beta2_decay, eps=(None, self.eps), d=self.clip)
