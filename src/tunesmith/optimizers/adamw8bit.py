from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn, optim

from ..settings import Count, Decay, NonNegative, Positive, Whole
from . import Stepper
from ._codes import decode, encode
from ._rule import Rule, adam, decay


class AdamW8bit(Stepper):
    """AdamW whose moments are kept in 8 bits: a quarter of its memory, in plain PyTorch on any device.

    Each block of a moment is divided by its largest value and rounded to a code of 256 values that are dense near zero.

    Source: Dettmers et al. 2021, arXiv:2110.02861, sec. 2.

    Settings:
        lr: highest learning rate; None takes the tested rate of the chosen adapter or mask.
        beta1: decay of the mean of the gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root of the second moment.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
        block: entries that share a scale.
        smallest: tensors with fewer entries keep full moments.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: Positive = 1e-8,
        weight_decay: NonNegative = 0.01,
        block: Count = 256,
        smallest: Whole = 4096,
    ):
        self.lr = lr or 0.0
        self.betas, self.eps, self.weight_decay = (beta1, beta2), eps, weight_decay
        self.block, self.smallest = block, smallest

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        return _AdamW8bit(groups, self)


class _AdamW8bit(Rule):
    def __init__(self, groups: list[dict[str, Any]], settings: AdamW8bit):
        super().__init__(groups, settings.lr, settings.weight_decay)
        self.settings = settings

    def update(self, p: nn.Parameter, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        s = self.settings
        decay(p, group)
        if p.numel() < s.smallest:
            p.sub_(adam(g, state, s.betas, s.eps), alpha=group["lr"])
            return
        full: dict[str, Any] = {}
        if state:
            full = {"step": state["step"]}
            for name in ("mean", "square"):
                flat = decode(state[f"{name}_codes"], state[f"{name}_scales"], signed=name == "mean")
                full[name] = flat[: g.numel()].view_as(g)
        p.sub_(adam(g.float(), full, s.betas, s.eps), alpha=group["lr"])
        state["step"] = full["step"]
        for name in ("mean", "square"):
            state[f"{name}_codes"], state[f"{name}_scales"] = encode(full[name], s.block, signed=name == "mean")
