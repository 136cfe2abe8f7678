from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import Positive
from . import Loss, Step
from ._common import full, must_label_rows


class SupervisedContrastive(Loss):
    """Rows of one class are drawn together and others pushed apart, by the direction of their mean hidden state.

    ``-1/|P(i)| sum_{p in P(i)} log exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)``, the mean over rows that
    have a row of their class in the batch. Source: Khosla et al. 2020, arXiv:2004.11362, eq. 2; in fine-tuning:
    Gunel et al. 2020, arXiv:2011.01403.

    Settings:
        temperature: how sharply the nearest rows count.
    """

    weight: Positive = 0.1
    whole = "it compares the rows of a batch with one another"

    def __init__(self, *, temperature: Positive = 0.3):
        self.temperature = temperature

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        z = F.normalize(full(step.main.features), dim=-1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        log_p = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf).log_softmax(-1).masked_fill(itself, 0)
        same = (step.targets[:, None] == step.targets[None, :]) & ~itself
        anchors = same.any(1)
        if not anchors.any():
            return z.sum() * 0
        mean = (log_p * same).sum(1)[anchors] / same.sum(1)[anchors]
        return -mean.mean()
