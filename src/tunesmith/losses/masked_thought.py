from __future__ import annotations

import torch
from torch import Tensor

from ..settings import Decay, Share, Whole
from . import Loss, Step
from ._common import likelihoods, must


class MaskedThought(Loss):
    """The likelihood of an answer of whose own earlier tokens some are hidden from the model.

    Each input token of the answer is replaced with probability ``share``; labels stay. By default what stands in
    its place is the mean of all embeddings, so that no token has to be added. It takes the place of
    ``cross_entropy``. Source: Chen et al. 2024, "Masked Thought", arXiv:2403.02178.

    Settings:
        share: share of the answer's tokens that are hidden.
        ramp: share of the run over which hiding grows from none.
        token: id of a token to put in their place; None takes the mean embedding.
    """

    def __init__(self, *, share: Decay = 0.2, ramp: Share = 0.67, token: Whole | None = None):
        self.share, self.ramp, self.token = share, ramp, token

    def __call__(self, step: Step) -> Tensor:
        must(step.head == "causal-lm", self, "a causal model that writes")
        share = self.share * min(1.0, step.progress / self.ramp) if self.ramp else self.share
        answer = step.batch["labels"] != -100
        hidden = answer & (step.draw(kind="uniform")[..., 0] < share)
        if self.token is not None:
            must(self.token < len(step.table), self, f"a token below {len(step.table)}")
            ids = torch.where(hidden, self.token, step.batch["input_ids"])
            return likelihoods(step.run(input_ids=ids).logits, step).sum() / step.units
        blank = step.table.mean(0)
        blanked = step.run(embed=lambda e: torch.where(hidden.unsqueeze(-1), blank.to(e.dtype), e))
        return likelihoods(blanked.logits, step).sum() / step.units
