from __future__ import annotations

import torch
from torch import Tensor

from ..settings import Decay, NonNegative, Positive
from . import Loss, Step
from ._common import likelihoods, must

_FIX = "add a mask, such as everything, or leave the term out: an adapter starts at the base by itself"


def _moved(step: Step, term: Loss) -> list[str]:
    """The pretrained tensors that train.

    Raises:
        InputError: there is none.
    """
    names = [name for name in step.origin if name not in step.fresh]
    must(bool(names), term, "pretrained weights that train", _FIX)
    return names


class L2SP(Loss):
    """Weights are drawn to where pretraining left them: ``1/2 |w - w_0|^2 + fresh/2 |w_new|^2``.

    Source: Li et al. 2018, arXiv:1802.01483, sec. 3.

    Settings:
        fresh: factor for tensors that were newly made for the task, which are drawn to 0.
    """

    weight: Positive = 0.01
    compares = True

    def __init__(self, *, fresh: NonNegative = 1.0):
        self.fresh = fresh

    def __call__(self, step: Step) -> Tensor:
        weights, origin = step.parameters, step.origin
        moved = sum(((weights[n] - origin[n]) ** 2).sum() for n in _moved(step, self))
        new = sum((weights[n] ** 2).sum() for n in step.fresh)
        return torch.as_tensor(moved + self.fresh * new) / 2


class Mixout(Loss):
    """The likelihood of a model in which a random share of the weights is as it was pretrained.

    ``w = (m w_0 + (1 - m) w - p w_0) / (1 - p)``, ``m`` Bernoulli(p) for each entry of a matrix, drawn once a
    step. It takes the place of ``cross_entropy``. Source: Lee et al. 2019, arXiv:1909.11299.

    Settings:
        share: probability of the pretrained value (``p``).
    """

    compares = True

    def __init__(self, *, share: Decay = 0.7):
        self.share = share

    def __call__(self, step: Step) -> Tensor:
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        mixed = {}
        for name in _moved(step, self):
            weight, origin = step.parameters[name], step.origin[name]
            if weight.ndim > 1:
                drawn = torch.rand(weight.shape, generator=generator).to(weight.device)
                kept = torch.where(drawn < self.share, origin, weight)
                mixed[name] = (kept - self.share * origin) / (1 - self.share)
        return likelihoods(step.run(weights=mixed).logits, step).sum() / step.units
