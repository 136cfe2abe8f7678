from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..settings import Positive
from . import Transform


class ClipNorm(Transform):
    """Scale all gradients down together when their joint norm is above a limit.

    Source: Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, algorithm 1.

    Settings:
        limit: highest joint L2 norm.
    """

    def __init__(self, *, limit: Positive = 1.0):
        self.limit = limit

    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        return {"gradient_norm": nn.utils.clip_grad_norm_(list(parameters), self.limit)}


class ClipValue(Transform):
    """Cut each entry of the gradients to a range.

    Source: Mikolov 2012, Statistical Language Models Based on Neural Networks, sec. 3.2.2.

    Settings:
        limit: largest absolute value of an entry.
    """

    each = True

    def __init__(self, *, limit: Positive = 1.0):
        self.limit = limit

    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        torch._foreach_clamp_min_(grads, -self.limit)
        torch._foreach_clamp_max_(grads, self.limit)
        return {"gradient_norm": norm}
