from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..settings import Positive, Share
from . import Loss, Step
from ._common import full, kind_of, must
from ._teacher import Teacher


class Distillation(Loss):
    """The model is to say what a teacher says: any model with the same tokenizer and outputs, or the base itself.

    ``temperature^2 * D`` of the softened distributions (squared distance for numbers). ``forward`` is KL(teacher
    || model), which covers all that the teacher might say; ``reverse`` is KL(model || teacher), which seeks its
    mode; ``js`` lies between. With ``until`` it helps only early (SALT). Source: Hinton et al. 2015,
    arXiv:1503.02531, sec. 2; early help: Rawat et al. 2024, arXiv:2410.18779; reverse and JS: Sun 2024,
    arXiv:2403.12017.

    Settings:
        teacher: ``base``, or a model by name or folder.
        temperature: how soft both distributions are made.
        divergence: ``forward``, ``reverse`` or ``js``.
        until: share of the run after which the term is 0.
    """

    def __init__(
        self,
        *,
        teacher: str = "base",
        temperature: Positive = 2.0,
        divergence: Literal["forward", "reverse", "js"] = "forward",
        until: Share = 1.0,
    ):
        self.teacher = Teacher(teacher)
        self.compares = self.teacher.is_base
        self.temperature, self.divergence, self.until = temperature, divergence, until

    def start(self, step: Step) -> None:
        self.teacher.start(step)

    def __call__(self, step: Step) -> Tensor:
        if step.progress > self.until:
            return step.logits.sum() * 0
        said, asked = full(step.logits), full(self.teacher.seen(step).logits).to(step.logits.device)
        must(said.shape == asked.shape, self, f"a teacher with {said.shape[-1]} outputs")
        if kind_of(step) == "number":
            return ((said - asked) ** 2).sum() / step.units
        if kind_of(step) == "labels":  # each label is a choice between two
            said, asked = torch.stack([said, -said], -1) / 2, torch.stack([asked, -asked], -1) / 2
        q, p = (said / self.temperature).log_softmax(-1), (asked / self.temperature).log_softmax(-1)
        total = self._apart(p, q).sum() / step.units * self.temperature**2
        return total / step.logits.shape[-1] if kind_of(step) == "labels" else total

    def _apart(self, p: Tensor, q: Tensor) -> Tensor:
        """Divergence of the model's log-probabilities ``q`` from the teacher's ``p``, for each unit."""
        if self.divergence == "forward":
            return (p.exp() * (p - q)).sum(-1)
        if self.divergence == "reverse":
            return (q.exp() * (q - p)).sum(-1)
        m = torch.logaddexp(p, q) - math.log(2)
        return ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2
