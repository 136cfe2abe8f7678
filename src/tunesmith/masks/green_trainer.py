from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..models.anatomy import Weight
from ..settings import Count, Share
from . import Mask, Moment
from ._knapsack import plan
from ._weights import module_of


class GreenTrainer(Mask):
    """Those modules move that lower the loss most within a budget of FLOPs; nothing is computed below the deepest.

    Importance is ``-sum g x dw`` over some steps in which all move. Costs are counted for a token: a matrix of n entries
    takes 2n in the forward pass, 2n to pass the gradient on, and 2n for its own gradient; attention scores are left out.

    Source: Huang et al. 2023, arXiv:2309.13192, eq. 3 to 6. Modules are chosen whole, and a dynamic programme over the
    depth of the deepest one finds the best set.

    Settings:
        budget: FLOPs of a step, forward and backward, as a share of those of full tuning; above 1/3.
        choices: how often in a run the set is chosen.
        measured: steps in which all move before each choice; they are not in the budget.
    """

    rate: ClassVar[float] = 2.5e-4
    follows: ClassVar[bool] = True

    def __init__(self, *, budget: Share = 0.6, choices: Count = 3, measured: Count = 2):
        if budget <= 1 / 3:
            raise InputError(
                f"mask.green_trainer.budget is {budget}", expected="above 1/3, what the forward pass takes"
            )
        self.budget, self.choices, self.measured = budget, choices, measured

    def trains(self, weight: Weight) -> bool:
        return True

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        modules: dict[str, int] = {}
        for weight in reversed(weights):
            table = weight.role.startswith("embedding") and not weight.tied
            size = 0 if table or weight.parameter.ndim < 2 else 2 * weight.parameter.numel()
            modules[module_of(weight)] = modules.get(module_of(weight), 0) + size
        self.place = {name: i for i, name in enumerate(modules)}
        self.flops = np.array(list(modules.values()), dtype=float)
        self.gain = torch.zeros(len(modules), dtype=torch.float64)
        self.awake = torch.ones(len(modules), dtype=torch.bool)
        self.interval, self.since = -1, 0

    def follow(self, weight: Weight, before: Tensor, grad: Tensor) -> None:
        self.gain[self.place[module_of(weight)]] -= (grad * (weight.parameter - before)).double().sum().cpu()

    def now(self, weight: Weight, moment: Moment) -> bool:
        interval = min(self.choices - 1, int(moment.progress * self.choices))
        if interval != self.interval:
            self.interval, self.since = interval, moment.step
            self.gain.zero_()
            self.awake.fill_(True)
        if moment.step == self.since + self.measured and self.awake.all():
            allowed = (3 * self.budget - 1) * self.flops.sum()
            self.awake = torch.from_numpy(plan(self.gain.numpy(), self.flops, allowed))
        return bool(self.awake[self.place[module_of(weight)]])

    def state(self) -> dict[str, Tensor]:
        return {"gain": self.gain, "awake": self.awake, "interval": torch.tensor([self.interval, self.since])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.gain, self.awake = state["gain"], state["awake"]
        self.interval, self.since = state["interval"].tolist()
