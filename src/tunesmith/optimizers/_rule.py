"""Optimizers that are one function of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim


class Rule(optim.Optimizer):
    """An optimizer that moves each tensor by itself.

    Args:
        groups: of parameters; ``decays`` says whether weight decay applies.
        lr: learning rate; the engine sets it before every step.
        weight_decay: share of the weights that is taken away each step, times the rate.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float = 0.0):
        super().__init__(
            [{**g, "weight_decay": weight_decay if g["decays"] else 0.0} for g in groups], {"lr": lr}
        )  # fmt: skip

    def update(self, p: nn.Parameter, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Move ``p`` in place; ``state`` begins empty and holds tensors and numbers."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a saved state with the types that it was saved with, which PyTorch would change to the weights'."""
        super().load_state_dict(dict(state_dict))
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, entries in state_dict["state"].items():
            p = parameters[int(index)]
            self.state[p] |= {n: v.to(p.device) for n, v in entries.items() if isinstance(v, Tensor)}


def decay(p: nn.Parameter, group: Mapping[str, Any]) -> None:
    """Decoupled weight decay."""
    if group["weight_decay"]:
        p.mul_(1 - group["lr"] * group["weight_decay"])


def adam(g: Tensor, state: dict[str, Any], betas: tuple[float, float], eps: float) -> Tensor:
    """Adam's direction, with its two moments and its step in ``state``.

    Source: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.
    """
    if "step" not in state:
        state |= {"step": 0, "mean": torch.zeros_like(g), "square": torch.zeros_like(g)}
    state["step"] += 1
    state["mean"].lerp_(g, 1 - betas[0])
    state["square"].lerp_(g * g, 1 - betas[1])
    mean = state["mean"] / (1 - betas[0] ** state["step"])
    square = state["square"] / (1 - betas[1] ** state["step"])
    return mean / (square.sqrt() + eps)
