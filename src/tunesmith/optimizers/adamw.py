from __future__ import annotations

from typing import Any

from torch import optim

from ..settings import Decay, NonNegative, Positive
from . import Stepper


class AdamW(Stepper):
    """Adaptive moments with decoupled weight decay, PyTorch's fused implementation.

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2.

    Settings:
        lr: highest learning rate; None takes the tested rate of the chosen adapter or mask.
        beta1: decay of the mean of the gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root of the second moment.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: Positive = 1e-8,
        weight_decay: NonNegative = 0.01,
    ):
        self.lr = lr or 0.0
        self.betas = (beta1, beta2)
        self.eps = eps
        self.weight_decay = weight_decay

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        decayed = [{**g, "weight_decay": self.weight_decay if g["decays"] else 0.0} for g in groups]
        return optim.AdamW(decayed, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
