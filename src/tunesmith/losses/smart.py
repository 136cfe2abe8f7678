from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..settings import Count, Decay, Positive
from . import Loss, Step
from ._common import Averaged, divergence


class SMART(Loss):
    """What the model says may change little in the worst direction around a row's embeddings (smoothness).

    The symmetric KL (squared error for numbers) between the clean row and one moved by gradient ascent from small
    noise, each entry by at most ``epsilon``. It goes beside ``cross_entropy``. Source: Jiang et al. 2020,
    arXiv:1911.03437, sec. 3 and alg. 1; ``proximal`` is its other half.

    Settings:
        epsilon: farthest move of an entry of an embedding.
        noise: deviation of the noise from which the ascent starts.
        rate: step of the ascent; the gradient at each place is brought to a greatest entry of 1.
        ascents: steps of the ascent, one more pass each.
    """

    def __init__(
        self,
        *,
        epsilon: Positive = 0.01,
        noise: Positive = 0.001,
        rate: Positive = 0.01,
        ascents: Count = 1,
    ):
        self.epsilon, self.noise, self.rate, self.ascents = epsilon, noise, rate, ascents

    def __call__(self, step: Step) -> Tensor:
        return divergence(step.run(shift=self.worst(step)).logits, step.logits, step).sum() / step.units

    def worst(self, step: Step) -> Tensor:
        """The shift of the embeddings that the model is to withstand, (rows, length, size)."""
        shift = self.noise * step.draw(step.embeddings.shape[-1])
        clean = step.logits.detach()
        for _ in range(self.ascents):
            with torch.enable_grad():
                shift.requires_grad_(True)
                apart = divergence(step.run(shift=shift).logits, clean, step).sum()
                (slope,) = torch.autograd.grad(apart, shift)
            greatest = slope.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
            shift = (shift + self.rate * slope / greatest).detach().clamp(-self.epsilon, self.epsilon)
            shift = shift * step.attended.unsqueeze(-1)
        return shift


class Proximal(Loss, nn.Module):
    """The model may move little from a slowly following copy of itself, in what it says (a trust region).

    Symmetric KL (squared error for numbers) between the two. It goes beside ``cross_entropy``. Source: Jiang et
    al. 2020, arXiv:1911.03437, sec. 3 (momentum Bregman proximal point).

    Settings:
        momentum: share of the copy that stays at each step; 0 is the model of the step before.
    """

    def __init__(self, *, momentum: Decay = 0.99):
        nn.Module.__init__(self)
        self.copy = Averaged(momentum)

    def start(self, step: Step) -> None:
        self.copy.start(step.parameters)

    def __call__(self, step: Step) -> Tensor:
        with torch.no_grad():
            before = step.run(weights=self.copy.tensors()).logits
        return divergence(step.logits, before, step).sum() / step.units

    def end_step(self, parameters: Mapping[str, Tensor]) -> None:
        self.copy.follow(parameters)
