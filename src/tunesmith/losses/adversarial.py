from __future__ import annotations

import torch
from torch import Tensor

from ..settings import Count, NonNegative, Positive
from . import Loss, Step
from ._common import divergence, likelihoods, place_norms


class FreeLB(Loss):
    """The likelihood along an ascent of the embeddings: every pass of the ascent also trains the model.

    Mean over the passes of the task's own loss at a shift that starts at random and climbs inside a ball of radius
    ``epsilon`` around each row. It takes the place of ``cross_entropy``. Source: Zhu et al. 2020, arXiv:1909.11764,
    alg. 1.

    Settings:
        epsilon: radius of the ball, over all embeddings of a row.
        rate: step of the ascent, along the row's gradient brought to length 1.
        ascents: passes.
        begin: length of the random start as a share of ``epsilon``.
    """

    def __init__(
        self,
        *,
        epsilon: Positive = 0.1,
        rate: Positive = 0.05,
        ascents: Count = 3,
        begin: NonNegative = 0.5,
    ):
        self.epsilon, self.rate, self.ascents, self.begin = epsilon, rate, ascents, begin

    def __call__(self, step: Step) -> Tensor:
        uniform = 2 * step.draw(step.embeddings.shape[-1], "uniform") - 1
        shift = uniform * step.attended.unsqueeze(-1)
        shift = self.begin * self.epsilon * shift / place_norms(shift)
        total = step.logits.new_zeros(())
        for number in range(self.ascents):
            with torch.set_grad_enabled(torch.is_grad_enabled() or number + 1 < self.ascents):
                shift.requires_grad_(True)
                losses = likelihoods(step.run(shift=shift).logits, step).sum()
                total = total + losses / self.ascents
                if number + 1 < self.ascents:
                    (slope,) = torch.autograd.grad(losses, shift, retain_graph=True)
                    shift = self._climb(shift.detach(), slope)
        return total / step.units

    def _climb(self, shift: Tensor, slope: Tensor) -> Tensor:
        moved = shift + self.rate * slope / place_norms(slope)
        return moved * (self.epsilon / place_norms(moved)).clamp(max=1.0)


class RoAST(Loss):
    """The likelihood at an adversarial shift of the embeddings, and agreement with the clean row.

    ``L(x + d) + consistency * symmetric KL(f(x), f(x + d))`` with ``d`` one step of length ``epsilon`` along the
    gradient at each place. It goes beside ``cross_entropy``; the paper's selective update is a matter of the
    optimizer chain. Source: Kim et al. 2023, "RoAST", arXiv:2312.04032.

    Settings:
        epsilon: length of the shift at each place.
        consistency: weight of the agreement.
    """

    def __init__(self, *, epsilon: Positive = 0.1, consistency: NonNegative = 1.0):
        self.epsilon, self.consistency = epsilon, consistency

    def __call__(self, step: Step) -> Tensor:
        with torch.enable_grad():
            shift = torch.zeros_like(step.embeddings).requires_grad_(True)
            (slope,) = torch.autograd.grad(likelihoods(step.run(shift=shift).logits, step).sum(), shift)
        length = slope.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
        moved = step.run(shift=(self.epsilon * slope / length).detach()).logits
        apart = divergence(moved, step.logits, step)
        return (likelihoods(moved, step) + self.consistency * apart).sum() / step.units
