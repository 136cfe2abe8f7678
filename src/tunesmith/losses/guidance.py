from __future__ import annotations

import torch
from torch import Tensor

from . import Loss, Step
from ._common import full
from ._teacher import Teacher


class Guidance(Loss):
    """Each layer's states are to be like those of a frozen guide's layer: ``mean over layers of 1 - CKA``.

    Linear centred kernel alignment over the tokens of a batch; layers are matched in order, by their relative depth. It
    goes beside ``cross_entropy``. Source: Subramaniam et al. 2024, "Training the Untrainable", arXiv:2410.20035;
    CKA: Kornblith et al. 2019, arXiv:1905.00414.

    Settings:
        guide: ``base``, or a model of the same tokenizer by name or folder; its head does not matter.
    """

    keeps = ("states",)
    whole = "CKA compares all tokens of a batch with one another"

    def __init__(self, *, guide: str = "base"):
        self.guide = Teacher(guide)
        self.compares = self.guide.is_base

    def start(self, step: Step) -> None:
        self.guide.start(step, head="any")

    def __call__(self, step: Step) -> Tensor:
        mine, theirs = step.states[1:], self.guide.seen(step, ("states",)).states[1:]
        there = step.attended if step.head != "seq2seq-lm" else step.batch["labels"] != -100
        likeness = []
        for number, state in enumerate(mine):
            other = theirs[max(1, round((number + 1) * len(theirs) / len(mine))) - 1]
            likeness.append(_cka(full(state[there]), full(other[there])))
        return 1 - torch.stack(likeness).mean()


def _cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA of (tokens, size) and (tokens, other size): 1 where one is a rotation of the other."""
    x, y = x - x.mean(0), y - y.mean(0)
    shared = (x.T @ y).norm() ** 2
    return shared / ((x.T @ x).norm() * (y.T @ y).norm()).clamp(min=1e-12)
