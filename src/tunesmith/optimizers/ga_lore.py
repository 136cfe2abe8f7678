from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from ..settings import Count, Decay, NonNegative, Positive
from . import Stepper
from ._rule import Rule, adam, decay


class GaLore(Stepper):
    """Adam in a subspace: each matrix's gradient is projected on its own leading singular vectors.

    All weights move, while Adam's moments have the rank of the subspace. Tensors that are no larger than the rank, and
    vectors, get plain Adam. The moments are kept when the subspace is renewed, as in the paper.

    Source: Zhao et al. 2024, arXiv:2403.03507, algorithm 2.

    Settings:
        lr: highest learning rate; None takes the tested rate of the chosen adapter or mask.
        rank: dimensions of the subspace.
        refresh: steps between renewals of the subspace, each a singular value decomposition.
        scale: factor of the steps in the subspace.
        beta1: decay of the mean of the gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root of the second moment.
        weight_decay: share of each matrix that is taken away each step, times the rate; biases and norms are spared.
    """

    def __init__(
        self,
        *,
        lr: Positive | None = None,
        rank: Count = 128,
        refresh: Count = 200,
        scale: Positive = 0.25,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: Positive = 1e-8,
        weight_decay: NonNegative = 0.0,
    ):
        self.lr = lr or 0.0
        self.rank, self.refresh, self.scale = rank, refresh, scale
        self.betas, self.eps, self.weight_decay = (beta1, beta2), eps, weight_decay

    def build(self, groups: list[dict[str, Any]]) -> optim.Optimizer:
        return _GaLore(groups, self)


class _GaLore(Rule):
    def __init__(self, groups: list[dict[str, Any]], settings: GaLore):
        super().__init__(groups, settings.lr, settings.weight_decay)
        self.settings = settings

    def update(self, p: nn.Parameter, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        s = self.settings
        decay(p, group)
        if p.ndim != 2 or min(p.shape) <= s.rank:
            p.sub_(adam(g, state, s.betas, s.eps), alpha=group["lr"])
            return
        tall = p.shape[0] >= p.shape[1]
        if state.get("step", 0) % s.refresh == 0:
            left, _, right = torch.linalg.svd(g.float(), full_matrices=False)
            state["basis"] = (right[: s.rank].T if tall else left[:, : s.rank]).to(g.dtype).contiguous()
        basis = state["basis"]
        inside = adam(g @ basis if tall else basis.T @ g, state, s.betas, s.eps)
        p.sub_(inside @ basis.T if tall else basis @ inside, alpha=group["lr"] * s.scale)
