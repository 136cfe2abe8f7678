from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import NonNegative, Positive, Share
from . import Loss, Step
from ._preference import answer_log_probabilities, lengths, log_ratios, must_write, pairs


class DPO(Loss):
    """The chosen answer is to become likelier than the rejected one, both measured against the base.

    ``-log sigmoid(beta (log ratio of chosen - log ratio of rejected))``. The base is the reference: no second
    copy of the weights. Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; smoothing: Mitchell 2023, "A note
    on DPO with noisy preferences", eq. 3.

    Settings:
        beta: how near the model stays to its base.
        smoothing: share of pairs that are taken to be the wrong way round.
    """

    mean_over = "rows"
    compares = True

    def __init__(self, *, beta: Positive = 0.1, smoothing: Share = 0.0):
        self.beta, self.smoothing = beta, smoothing

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        chosen, rejected = pairs(step, self)
        ratios = log_ratios(step)
        margin = self.beta * (ratios[chosen] - ratios[rejected])
        return -((1 - self.smoothing) * F.logsigmoid(margin) + self.smoothing * F.logsigmoid(-margin)).mean()


class IPO(Loss):
    """The margin of the chosen over the rejected answer is to be ``1 / (2 beta)``, no more and no less.

    ``(log ratio of chosen - log ratio of rejected - 1 / (2 beta))^2``. Source: Azar et al. 2023,
    arXiv:2310.12036, eq. 17.

    Settings:
        beta: how near the model stays to its base.
        per_token: divide each log ratio by the answer's length, as common implementations do.
    """

    mean_over = "rows"
    compares = True

    def __init__(self, *, beta: Positive = 0.1, per_token: bool = True):
        self.beta, self.per_token = beta, per_token

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        chosen, rejected = pairs(step, self)
        ratios = log_ratios(step) / lengths(step) if self.per_token else log_ratios(step)
        return ((ratios[chosen] - ratios[rejected] - 1 / (2 * self.beta)) ** 2).mean()


class ORPO(Loss):
    """The chosen answer's likelihood, and its odds against the rejected one's; asks no base.

    ``-log p(chosen) per token - ratio * log sigmoid(log odds of chosen - log odds of rejected)``, odds of the
    geometric mean of the tokens' probabilities. Source: Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7.

    Settings:
        ratio: weight of the odds.
    """

    mean_over = "rows"

    def __init__(self, *, ratio: NonNegative = 0.1):
        self.ratio = ratio

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        chosen, rejected = pairs(step, self)
        mean = answer_log_probabilities(step.logits, step) / lengths(step)
        mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)  # odds of a sure answer are infinite
        odds = mean - torch.log(-torch.expm1(mean))
        return (-mean[chosen] - self.ratio * F.logsigmoid(odds[chosen] - odds[rejected])).mean()


class SimPO(Loss):
    """The chosen answer's mean log-probability is to exceed the rejected one's by a margin; asks no base.

    ``-log sigmoid(beta (mean log p of chosen - mean log p of rejected) - margin)``. Source: Meng et al. 2024,
    arXiv:2405.14734, eq. 6.

    Settings:
        beta: scale of the reward.
        margin: what the difference of rewards is to exceed (``gamma``).
    """

    mean_over = "rows"

    def __init__(self, *, beta: Positive = 2.0, margin: NonNegative = 1.0):
        self.beta, self.margin = beta, margin

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        chosen, rejected = pairs(step, self)
        mean = answer_log_probabilities(step.logits, step) / lengths(step)
        return -F.logsigmoid(self.beta * (mean[chosen] - mean[rejected]) - self.margin).mean()
