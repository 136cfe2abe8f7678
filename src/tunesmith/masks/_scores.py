"""Scores of entries, each a fold over what is seen of a weight, and the choice of the best."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Score:
    """A score of every entry of a weight; the highest are chosen.

    Attributes:
        fold: ``(score so far or None, weight, seen) -> score``, all of shape (outputs, inputs).
        reads: what ``seen`` is: nothing but the weight, one gradient after the other, or the change by a full tuning.
        together: rows of each gradient; 1 where it is squared, since the square of a mean is not the mean of squares.
        final: applied once, when all has been seen.
    """

    fold: Callable[[Tensor | None, Tensor, Tensor], Tensor]
    reads: Literal["weight", "gradient", "change"]
    together: int = 1
    final: Callable[[Tensor], Tensor] = lambda score: score


def _sum(score: Tensor | None, a: Tensor, b: Tensor | None = None, sign: float = 1.0) -> Tensor:
    """The score and ``a``, or ``sign * a * b``, in one pass over the weight."""
    score = torch.zeros(a.shape, device=a.device) if score is None else score
    return score.add_(a) if b is None else score.addcmul_(a, b, value=sign)


def _cosine(weight: Tensor, change: Tensor) -> Tensor:
    """One less the cosine of each row before and after, the same for all of a row."""
    if weight.ndim < 2:
        return change.abs()
    return (1 - F.cosine_similarity(weight, weight + change, dim=1))[:, None].expand_as(weight)


SCORES = {
    "random": Score(lambda s, w, _: torch.rand(w.shape).to(w.device), "weight"),
    "magnitude": Score(lambda s, w, _: w.abs(), "weight"),
    "smallest": Score(lambda s, w, _: -w.abs(), "weight"),
    "fisher": Score(lambda s, w, g: _sum(s, g.float(), g.float()), "gradient"),
    "gradient": Score(lambda s, w, g: _sum(s, g), "gradient", 32, Tensor.abs),
    "saliency": Score(lambda s, w, g: _sum(s, w.float(), g.float()), "gradient", 32, Tensor.abs),
    "movement": Score(lambda s, w, g: _sum(s, w.float(), g.float(), -1.0), "gradient", 32),
    "change": Score(lambda s, w, d: d.abs(), "change"),
    "cosine": Score(lambda s, w, d: _cosine(w, d), "change"),
}
"""Name -> score. ``smallest`` takes the smallest magnitudes; ``change`` and ``cosine`` need a full tuning first."""


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest of flat values, k from 1; on a CPU by NumPy, which takes an eighth of PyTorch's time."""
    if values.device.type != "cpu":
        return values.kthvalue(k).values
    return torch.from_numpy(np.partition(values.float().numpy(), k - 1)[k - 1 : k])[0]


def select(
    scores: Mapping[str, Tensor], groups: Mapping[str, Hashable], density: float, *, rows: bool
) -> dict[str, Tensor]:
    """The flat indices of the highest scores, ascending.

    Args:
        scores: name of a tensor -> its scores, (outputs, inputs) or (outputs,).
        groups: name -> group; the tensors of a group compete, and each group keeps the same share.
        density: share that is kept, at least one of each group.
        rows: whether whole rows compete, by the mean of their scores; a vector's entries are rows of one.

    >>> select({"a": torch.tensor([[1., 5.], [4., 0.]])}, {"a": ""}, 0.5, rows=False)
    {'a': tensor([1, 2])}
    """
    chosen: dict[str, Tensor] = {}
    for group in dict.fromkeys(groups[n] for n in scores):
        names = [n for n in scores if groups[n] == group]
        flat = [scores[n].mean(1) if rows and scores[n].ndim == 2 else scores[n].reshape(-1) for n in names]
        pool = torch.cat(flat)
        best = pool.topk(max(1, round(density * len(pool))), sorted=False).indices.sort().values
        start = 0
        for name, part in zip(names, flat, strict=True):
            mine = best[(best >= start) & (best < start + len(part))] - start
            start += len(part)
            if rows and scores[name].ndim == 2:
                width = scores[name].shape[1]
                mine = (mine[:, None] * width + torch.arange(width, device=mine.device)).reshape(-1)
            if len(mine):
                chosen[name] = mine
    return chosen
