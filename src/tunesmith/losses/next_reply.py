from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..settings import Count
from . import Loss, Step
from ._common import full
from ._preference import must_write, with_answers_of


class NextReply(Loss, nn.Module):
    """A second head tells the true reply from replies of other rows, by the hidden state of the last token.

    Cross-entropy over the true reply and ``distractors`` others behind the same prompt; 0 for a batch of one row.
    It goes beside ``cross_entropy``. Source: Wolf et al. 2019, "TransferTransfo", arXiv:1901.08149, sec. 3.

    Settings:
        distractors: replies of other rows for each row, at most the rows of the batch less one.
    """

    mean_over = "rows"
    whole = "its distractors are the replies of other rows of the batch"

    head: nn.Linear

    def __init__(self, *, distractors: Count = 1):
        nn.Module.__init__(self)
        self.distractors = distractors

    def start(self, step: Step) -> None:
        must_write(step, self)
        hidden = full(step.main.hidden)
        self.head = nn.Linear(hidden.shape[-1], 1, dtype=hidden.dtype)

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        others = [with_answers_of(step, by) for by in range(1, min(self.distractors, step.rows - 1) + 1)]
        scores = torch.stack([self._score(s) for s in (step, *others)], dim=1)
        return F.cross_entropy(scores, torch.zeros(step.rows, dtype=torch.long, device=scores.device))

    def _score(self, step: Step) -> Tensor:
        last = step.attended.sum(1) - 1
        hidden = full(step.main.hidden)[torch.arange(step.rows, device=last.device), last]
        return self.head(hidden.to(self.head.weight.dtype))[:, 0]
