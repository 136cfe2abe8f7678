"""Optimizers: how weights move. One rule a file; rules chain; the folder is the registry.

A chain is any number of transforms, which change the gradients in place, and then one stepper, which moves the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn, optim


class Transform:
    """A rule that changes the gradients before the step."""

    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        """Change ``parameter.grad`` in place; return figures for the run's log, each a scalar."""
        raise NotImplementedError


class Stepper:
    """A rule that moves the weights: one of PyTorch's optimizers, or a class with its interface.

    Attributes:
        lr: the highest learning rate of the run, which the schedule scales; None in a recipe takes the rate that the
            chosen adapter or mask was tested with.
    """

    lr: float

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        """The optimizer over these groups, each ``{"params": [...], "decays": bool, "factor": of the rate}``."""
        raise NotImplementedError
