from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..settings import NonNegative
from . import Loss, Step
from ._common import full, likelihoods, must_label_rows, name_of


class RationaleSupervision(Loss, nn.Module):
    """The words that people gave as the reason are learned too, and the row is read once more through them (RAFT).

    A second head marks tokens; a third adds to the class's logits what the mean hidden state says, weighted by the
    marks. ``L(y, logits + guide(sum p_i h_i / sum p_i)) + marking * mean over rows and tokens of BCE(p_i, mark_i)``.
    Rows without a reason count for the class alone. It takes the place of ``cross_entropy``. Name the reasons' column
    with ``rows.columns: {rationale: NAME}``. Source: Saha et al. 2022, "Rationale-Guided Few-Shot Classification to
    Detect Abusive Language", arXiv:2211.17046, with one pooled guide in place of its cross-attention.

    Settings:
        marking: weight of the marks; 0 where the rows have no reasons.
    """

    mean_over = "rows"

    mark: nn.Linear
    guide: nn.Linear

    def __init__(self, *, marking: NonNegative = 1.0):
        nn.Module.__init__(self)
        self.marking = marking

    def start(self, step: Step) -> None:
        must_label_rows(step, self)
        size, dtype = step.main.hidden.shape[-1], full(step.main.hidden).dtype
        self.mark = nn.Linear(size, 1, dtype=dtype)
        self.guide = nn.Linear(size, step.logits.shape[-1], dtype=dtype)
        nn.init.zeros_(self.guide.weight)
        nn.init.zeros_(self.guide.bias)

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        value = likelihoods(self._guided(step.logits, step), step).sum() / step.rows
        return value + self.marking * self._marked(step) if self.marking else value

    @torch.no_grad()
    def read(self, logits: Tensor, step: Step) -> Tensor:
        """Logits with what the marked words add."""
        return self._guided(logits, step).to(logits.dtype)

    def marks(self, step: Step) -> Tensor:
        """Log odds that a token is part of the reason, (rows, length)."""
        return self.mark(self._hidden(step))[..., 0]

    def _hidden(self, step: Step) -> Tensor:
        return full(step.main.hidden).to(self.mark.weight.dtype)

    def _guided(self, logits: Tensor, step: Step) -> Tensor:
        share = (self.marks(step).sigmoid() * step.attended).unsqueeze(-1)
        pooled = (share * self._hidden(step)).sum(1) / share.sum(1).clamp(min=1e-6)
        return full(logits) + self.guide(pooled)

    def _marked(self, step: Step) -> Tensor:
        if "rationale" not in step.batch:
            raise InputError(
                f"{name_of(self)} needs to know the reasons", expected="a column of them, rows.columns: {rationale: NAME}",
                fix="set marking to 0 for rows without",
            )  # fmt: skip
        truth = step.batch["rationale"]
        known = truth != -100
        scores = self.marks(step)
        wrong = F.binary_cross_entropy_with_logits(scores, truth.clamp(min=0).to(scores.dtype), reduction="none")
        return ((wrong * known).sum(1) / known.sum(1).clamp(min=1)).sum() / step.rows
