from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from . import Loss, Step
from ._common import full, likelihoods, must_classify, name_of
from ._teacher import Teacher


def _teachers(names: list[str], term: object) -> list[Teacher]:
    if not names:
        raise InputError(f"{name_of(term)} has no earlier predictor", expected="predictors: [runs/first/model]")
    return [Teacher(name) for name in names]


class DiscoverFeatures(Loss):
    """The likelihood where it is worst: over the units that an earlier predictor gets right, and those that it gets wrong.

    The highest mean of these groups of a batch, two for each predictor, so that what the earlier ones go by is not
    enough any more. The rounds of discovery are runs, each with the tuned models of those before as ``predictors``. It
    takes the place of ``cross_entropy``. Source: Zhang, Lopez-Paz and Bottou 2022, "Rich Feature Construction for the
    Optimization-Generalization Dilemma", arXiv:2203.15516 (Bonsai, discovery).

    Settings:
        predictors: tuned models by folder, with the same tokenizer and labels; ``base`` is the run's own.
    """

    whole = "it compares groups of a batch"

    def __init__(self, *, predictors: list[str] = []):  # noqa: B006
        self.predictors = _teachers(predictors, self)
        self.compares = any(t.is_base for t in self.predictors)

    def start(self, step: Step) -> None:
        must_classify(step, self)
        for teacher in self.predictors:
            teacher.start(step)

    def __call__(self, step: Step) -> Tensor:
        must_classify(step, self)
        losses = likelihoods(step.logits, step)
        means = []
        for teacher in self.predictors:
            right = teacher.seen(step).logits.argmax(-1) == step.targets
            means += [losses[group].mean() for group in (right, ~right) if group.any()]
        return torch.stack(means).max()


class RichFeatures(Loss, nn.Module):
    """One trunk is to say all that several predictors say, each with a head of its own.

    Mean over the predictors of the cross-entropy to the class that each takes; a linear head for each reads the
    hidden state. What it leaves is where a run for other environments begins. It goes alone or beside ``cross_entropy``.
    Source: Zhang, Lopez-Paz and Bottou 2022, "Rich Feature Construction for the Optimization-Generalization Dilemma",
    arXiv:2203.15516 (Bonsai, synthesis).

    Settings:
        predictors: tuned models by folder, with the same tokenizer and labels; ``base`` is the run's own.
    """

    heads: nn.ModuleList

    def __init__(self, *, predictors: list[str] = []):  # noqa: B006
        nn.Module.__init__(self)
        self.predictors = _teachers(predictors, self)
        self.compares = any(t.is_base for t in self.predictors)

    def start(self, step: Step) -> None:
        must_classify(step, self)
        size, classes = step.main.features.shape[-1], step.logits.shape[-1]
        dtype = full(step.main.features).dtype
        self.heads = nn.ModuleList(nn.Linear(size, classes, dtype=dtype) for _ in self.predictors)
        for teacher in self.predictors:
            teacher.start(step)

    def __call__(self, step: Step) -> Tensor:
        must_classify(step, self)
        features = full(step.main.features)
        total = features.new_zeros(())
        for head, teacher in zip(self.heads, self.predictors, strict=True):
            said = teacher.seen(step).logits.argmax(-1).to(features.device)
            total = total + F.cross_entropy(head(features), said, reduction="sum")
        return total / (len(self.predictors) * step.units)
