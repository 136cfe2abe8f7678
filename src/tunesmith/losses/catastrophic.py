from __future__ import annotations

import torch
from torch import Tensor

from ..settings import Count, Positive
from . import Loss, Step
from ._common import full, kind_of, kl, must

_BATCH = "it is a statistic of the whole batch"


class BaseConsistency(Loss):
    """What the model says stays near what its base says.

    KL of the base for a language model, else the squared distance of their features.

    Source: Chang et al. 2024, "BA-LoRA", arXiv:2408.04556 (consistency regulariser).
    """

    weight: Positive = 0.1
    compares = True

    def __call__(self, step: Step) -> Tensor:
        if step.head.endswith("lm"):
            return kl(step.reference.logits, step.logits).sum() / step.units
        apart = full(step.main.features) - full(step.reference.features)
        return (apart**2).mean(-1).sum() / step.units


class BatchDiversity(Loss):
    """Outputs are to differ: a language model's are to have entropy, a classifier's are not to vary together.

    ``-entropy`` of each token's distribution, or the mean square of the covariances off the diagonal over the
    batch. Source: Chang et al. 2024, "BA-LoRA", arXiv:2408.04556 (diversity regulariser).
    """

    weight: Positive = 0.01
    whole = _BATCH

    def __call__(self, step: Step) -> Tensor:
        must(step.logits.shape[-1] > 1, self, "more than one output")
        if step.head.endswith("lm"):
            log_p = full(step.logits).log_softmax(-1)
            return (log_p.exp() * log_p).sum() / step.units
        return _spread(full(step.logits))


class SingularValues(Loss):
    """The batch's outputs are to lie in few directions: 1 less the share of the greatest singular values in their sum.

    Source: Chang et al. 2024, "BA-LoRA", arXiv:2408.04556 (SVD regulariser).

    Settings:
        first: how many of the greatest singular values count.
    """

    weight: Positive = 0.01
    whole = _BATCH

    def __init__(self, *, first: Count = 1):
        self.first = first

    def __call__(self, step: Step) -> Tensor:
        must(kind_of(step) != "number", self, "more than one output")
        values = torch.linalg.svdvals(full(step.logits))
        return 1 - values[: self.first].sum() / values.sum().clamp(min=1e-12)


def _spread(z: Tensor) -> Tensor:
    """Mean square of the covariances between different columns of (units, size); 0 for one unit."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / max(1, len(z) - 1)
    size = z.shape[1]
    return (covariance**2).sum().sub((covariance.diagonal() ** 2).sum()) / (size * (size - 1))
