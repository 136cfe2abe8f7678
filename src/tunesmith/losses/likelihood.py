from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..settings import Decay
from . import Loss, Step
from ._common import full, kind_of, must, must_classify


class CrossEntropy(Loss):
    """Negative log-likelihood of the right class or the next token.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.108; smoothing: Szegedy et al. 2015,
    arXiv:1512.00567, sec. 7.

    Settings:
        smoothing: share of the target's probability that is spread evenly over all classes.
        class_weights: weight of each class in the order of the labels; the mean is taken over the rows, so that a
            weight of 2 counts a row twice.
    """

    def __init__(self, *, smoothing: Decay = 0.0, class_weights: list[float] | None = None):
        self.smoothing = smoothing
        self.class_weights = class_weights

    def __call__(self, step: Step) -> Tensor:
        must_classify(step, self)
        weights = None
        if self.class_weights is not None:
            weights = torch.tensor(self.class_weights, device=step.logits.device, dtype=full(step.logits).dtype)
            if len(weights) != step.logits.shape[-1]:
                raise InputError(
                    f"loss.cross_entropy.class_weights has {len(weights)} weights",
                    expected=f"{step.logits.shape[-1]}, one a class",
                )
        total = F.cross_entropy(
            full(step.logits), step.targets, weights, reduction="sum", label_smoothing=self.smoothing
        )
        return total / step.units


class BinaryCrossEntropy(Loss):
    """Negative log-likelihood of several labels that are each there or not, averaged over labels.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.90.
    """

    def __call__(self, step: Step) -> Tensor:
        must(kind_of(step) == "labels", self, "several labels a row", "use cross_entropy for one label")
        return F.binary_cross_entropy_with_logits(full(step.logits), step.targets.to(full(step.logits).dtype))


class SquaredError(Loss):
    """Squared distance of the predicted from the given number, which the task has brought to mean 0, variance 1.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, eq. 3.12.
    """

    def __call__(self, step: Step) -> Tensor:
        must(kind_of(step) == "number", self, "a number a row, as task regress has it")
        return F.mse_loss(full(step.logits).squeeze(-1), step.targets.to(full(step.logits).dtype))
