from __future__ import annotations

import torch
from torch import Tensor

from ..settings import Positive
from . import Loss, Step
from ._common import full, must_label_rows


class MarginRanking(Loss):
    """The right class is to score higher than every other by a margin.

    ``sum over wrong c of max(0, margin - s_right + s_c)`` on the scores as they are, so that what a language model finds
    plausible is ranked rather than made a distribution: with a cloze's ``plausibility``, of whole texts.
    Source: Tamborrino et al. 2020, "Pre-training Is (Almost) All You Need: An Application to Commonsense Reasoning".

    Settings:
        margin: by how much the right class is to lead.
    """

    def __init__(self, *, margin: Positive = 1.0):
        self.margin = margin

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        scores = full(step.logits)
        right = scores.gather(-1, step.targets[:, None])
        behind = (self.margin - right + scores).clamp(min=0)
        wrong = torch.ones_like(scores).scatter(-1, step.targets[:, None], 0.0)
        return (behind * wrong).sum() / step.units
