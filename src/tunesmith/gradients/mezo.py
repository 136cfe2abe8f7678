from __future__ import annotations

from ..settings import Count, Positive
from .zeroth_order import ZerothOrder


class MeZO(ZerothOrder):
    """Two forward passes at weights moved both ways along a random direction, and a step along it.

    Nothing is kept beside the weights, and a step is a seed and a number, so that the log of a run is its checkpoint:
    16 bytes and one number a direction for each step. With ``[sgd]`` without momentum this is the paper's algorithm.
    It needs a task form that the base knows already (a prompt), and rates far below those of backpropagation.

    Source: Malladi et al. 2023, arXiv:2305.17333, algorithm 1.

    Settings:
        eps: how far the weights are moved, in standard deviations of the direction.
        queries: directions that are averaged in each step.
    """

    def __init__(self, *, eps: Positive = 1e-3, queries: Count = 1):
        super().__init__(eps=eps, queries=queries)
