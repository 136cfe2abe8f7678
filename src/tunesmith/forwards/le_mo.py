from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..models.around import Kept, LayerCall
from ..models.attention import Asked
from ..settings import Decay
from . import Tokens, best

QUERIES = 64
"""Tokens of each row whose attention is looked at, at even distances."""


class LeMo(Tokens):
    """The tokens that are attended to least go around the middle layers: long rows in less memory and time.

    In each layer a token's score is the attention that it gets, averaged over the heads and over 64 tokens of the row
    that see it, each as a multiple of even attention. It costs the layer's queries and keys without a gradient, and is
    known before anything else is computed. Supervised tokens that go around are supervised all the same.

    The paper's predictors, which guess the scores, its thresholds for each layer and its kernels are left out: the scores
    are computed, and every layer drops the same share.

    Source: Wang et al. 2025, "LeMo: Enabling LEss Token Involvement for MOre Context Fine-tuning".

    Settings:
        drop: share of each row's tokens that go around a layer.
        by: what is kept: the tokens of the most ``attention``, or ``random`` ones, for comparison.
    """

    ends = 2

    def __init__(self, *, drop: Decay = 0.4, by: Literal["attention", "random"] = "attention"):
        self.drop, self.by = drop, by

    def choose(self, call: LayerCall) -> Kept:
        there = call.there
        if self.by == "random":
            scores = torch.rand(there.shape).to(there.device)
        else:
            scores = _received(call.attention(), there)
        return best(scores, there, 1 - self.drop)


def _received(asked: Asked, there: Tensor) -> Tensor:
    """The attention that each token gets as a multiple of even attention, (rows, length).

    Args:
        asked: of an attention whose last keys are the tokens themselves; what stands in front of them is left out.
        there: which places hold a token, bool (rows, length).
    """
    first = (~there).int().argsort(dim=1, stable=True)
    ranks = torch.linspace(0, 1, QUERIES, device=there.device) * (there.sum(1, keepdim=True) - 1).clamp(min=0)
    chosen = first.gather(1, ranks.round().long())
    heads, size = asked.query.shape[1], asked.query.shape[3]
    query = asked.query.gather(2, chosen[:, None, :, None].expand(-1, heads, -1, size))
    length = there.shape[1]
    key = asked.key[:, :, -length:].repeat_interleave(heads // asked.key.shape[1], 1)
    sees = asked.sees()[:, :, -length:].gather(1, chosen[..., None].expand(-1, -1, length)) & there[:, None]
    scores = (asked.scale * query @ key.mT).float().masked_fill(~sees[:, None], torch.finfo(torch.float32).min)
    shares = scores.softmax(-1).mean(1) * sees
    even = sees.sum(-1, keepdim=True)
    return (shares * even).sum(1) / sees.sum(1).clamp(min=1)
