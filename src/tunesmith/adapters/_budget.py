"""How a budget of rank is shared out among sites."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def in_proportion(weights: Sequence[float], total: int, most: Sequence[int]) -> list[int]:
    """Whole numbers with this sum, one for each weight and as near to its share as can be; each at least 1.

    >>> in_proportion([1, 1, 6], 8, [9, 9, 9])
    [1, 1, 6]
    >>> in_proportion([1, 1, 6], 8, [9, 9, 4])
    [2, 2, 4]
    """
    given = [1] * len(weights)
    norm = sum(weights)
    wanted = [w / norm * total if norm else total / len(weights) for w in weights]
    for _ in range(min(total, sum(most)) - len(weights)):
        open_ = [i for i, g in enumerate(given) if g < most[i]]
        given[max(open_, key=lambda i: wanted[i] / given[i] if wanted[i] >= given[i] else wanted[i] - given[i])] += 1
    return given


def best(scores: Sequence[Tensor], total: int) -> list[int]:
    """How many of each tensor's scores, sorted from the highest, are among the ``total`` highest; each at least 1.

    >>> best([torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0.3, 0.1])], 3)
    [2, 1]
    """
    owners = torch.cat([torch.full((len(s) - 1,), i) for i, s in enumerate(scores)])
    order = torch.cat([s[1:].cpu() for s in scores]).argsort(descending=True, stable=True)[: total - len(scores)]
    return [1 + int((owners[order] == i).sum()) for i in range(len(scores))]
