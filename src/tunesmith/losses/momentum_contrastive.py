from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..settings import Count, Decay, Positive
from . import Loss, Step
from ._common import Averaged, full


class MomentumContrastive(Loss, nn.Module):
    """Each row is told from a queue of earlier rows, by its own image in a slowly following copy of the model.

    The copy sees the row with some of its tokens hidden. ``-log exp(q k / t) / (exp(q k / t) + sum over queue)``;
    0 while the queue is empty. Source: He et al. 2020, arXiv:1911.05722, alg. 1; for pretrained encoders: Liu et
    al. 2023, "ContraBERT", arXiv:2301.09072.

    Settings:
        temperature: how sharply the nearest rows count.
        momentum: share of the copy that stays at each step.
        queue: earlier rows that are kept.
        hidden: share of a row's tokens that the copy does not see.
    """

    weight: Positive = 0.1
    mean_over = "rows"

    keys: Tensor
    filled: Tensor

    def __init__(
        self, *, temperature: Positive = 0.07, momentum: Decay = 0.999, queue: Count = 1024, hidden: Decay = 0.15
    ):
        nn.Module.__init__(self)
        self.temperature, self.size, self.hidden = temperature, queue, hidden
        self.copy = Averaged(momentum)
        self._coming: list[Tensor] = []

    def start(self, step: Step) -> None:
        width = step.main.hidden.shape[-1]
        self.register_buffer("keys", torch.zeros(self.size, width, dtype=full(step.main.hidden).dtype))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.copy.start(step.parameters)

    def __call__(self, step: Step) -> Tensor:
        query = F.normalize(full(_means(step.main.hidden, step)), dim=-1)
        with torch.no_grad():
            seen = step.attended & (step.draw(kind="uniform")[..., 0] >= self.hidden)
            seen[:, 0] = True  # a row without any token has no image
            changed = step.run(weights=self.copy.tensors(), attention_mask=seen.to(step.batch["attention_mask"].dtype))
            key = F.normalize(full(_means(changed.hidden, step)), dim=-1)
        self._coming = [*self._coming, key][-self.size :]
        negatives = self.keys[: int(self.filled)].to(query.dtype)
        scores = torch.cat([(query * key).sum(-1, keepdim=True), query @ negatives.T], dim=1) / self.temperature
        return -scores.log_softmax(-1)[:, 0].mean()

    def end_step(self, parameters: Mapping[str, Tensor]) -> None:
        """The copy follows, and the step's rows join the queue."""
        self.copy.follow(parameters)
        if self._coming:
            known = torch.cat([*self._coming[::-1], self.keys[: int(self.filled)].to(self._coming[0].dtype)])[
                : self.size
            ]
            self.keys[: len(known)] = known.to(self.keys.dtype)
            self.filled.fill_(len(known))
        self._coming = []


def _means(hidden: Tensor, step: Step) -> Tensor:
    """Mean over the places of each row, (rows, size)."""
    there = step.batch["labels"] != -100 if step.head == "seq2seq-lm" else step.attended
    share = there.unsqueeze(-1).to(hidden.dtype)
    return (hidden * share).sum(1) / share.sum(1)
