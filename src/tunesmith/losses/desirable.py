from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..settings import NonNegative, Positive
from . import Loss, Step
from ._common import full, row_sums, token_log_probabilities
from ._preference import good_rows, lengths, log_ratios, must_write, with_answers_of
from ._teacher import Teacher


class KTO(Loss):
    """Good answers are to gain and bad ones to lose against the base, each for itself: no pairs are needed.

    ``1 - sigmoid(beta (r - z))`` for a good answer, ``1 - sigmoid(beta (z - r))`` for a bad one; ``r`` is the log
    ratio of model and base, ``z`` its mean over prompts with other rows' answers, at least 0. Source: Ethayarajh
    et al. 2024, arXiv:2402.01306, eq. 8.

    Settings:
        beta: how near the model stays to its base.
        good: weight of good answers.
        bad: weight of bad answers.
    """

    mean_over = "rows"
    compares = True
    whole = "its reference point is taken from other rows of the batch"

    def __init__(self, *, beta: Positive = 0.1, good: NonNegative = 1.0, bad: NonNegative = 1.0):
        self.beta, self.good, self.bad = beta, good, bad

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        good, ratios = good_rows(step, self), log_ratios(step)
        signs = torch.where(good, 1.0, -1.0).to(ratios.dtype)
        weights = torch.where(good, self.good, self.bad).to(ratios.dtype)
        return (weights * (1 - torch.sigmoid(self.beta * signs * (ratios - self.zero(step))))).mean()

    @torch.no_grad()
    def zero(self, step: Step) -> Tensor:
        """The reference point, a scalar."""
        return log_ratios(with_answers_of(step, 1)).mean().clamp(min=0)


class Unlikelihood(Loss):
    """Good answers are made likely token by token, and the tokens of bad ones unlikely.

    ``-log p`` of a good answer's tokens and ``-alpha log(1 - p)`` of a bad one's, the mean over tokens.
    Source: Welleck et al. 2019, arXiv:1908.04319, sec. 5; on rated text: Korbak et al. 2023, arXiv:2302.08582, sec. 2.

    Settings:
        alpha: weight of bad answers.
    """

    def __init__(self, *, alpha: NonNegative = 1.0):
        self.alpha = alpha

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        good = good_rows(step, self)[step.owners]
        log_p = token_log_probabilities(step.logits, step.targets)
        log_p = log_p.clamp(
            max=-torch.finfo(log_p.dtype).eps
        )  # a sure token cannot be made less likely by its logarithm
        bad = -self.alpha * torch.log(-torch.expm1(log_p))
        return torch.where(good, -log_p, bad).sum() / step.units


class ConditionalTraining(Loss):
    """All answers are learned, good and bad, each behind the mark of its kind; the good mark is asked for in use.

    Cross-entropy on rows of task ``prefer`` with its setting ``control``. Source: Korbak et al. 2023, arXiv:2302.08582.
    """

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        good_rows(step, self)
        if "controlled" not in step.batch:
            raise InputError(
                "loss ConditionalTraining needs marks before the prompts", fix="task: {prefer: {control: true}}"
            )
        return F.cross_entropy(full(step.logits), step.targets, reduction="sum") / step.units


class PoFT(Loss):
    """Answers are to be likelier for the model than for models that are aligned already; what these find odd counts little.

    ``-log sigmoid(mean log p(answer) - mean log p of the teachers)``, the mean over teachers. Rows that the
    teachers find unlikely, as noisy ones are, get less weight in the gradient. Rows of task ``prefer`` count
    where they are good. Source: Fan et al. 2024, "Preference-Oriented Supervised Fine-Tuning", arXiv:2412.12865.

    Settings:
        teachers: ``base``, or models of the same tokenizer by name or folder.
        per_token: divide log-probabilities by the answer's length.
    """

    mean_over = "rows"
    compares = True

    def __init__(self, *, teachers: list[str] = ["base"], per_token: bool = True):  # noqa: B006
        self.teachers = [Teacher(name) for name in teachers]
        self.per_token = per_token

    def start(self, step: Step) -> None:
        for teacher in self.teachers:
            teacher.start(step)

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        size = lengths(step) if self.per_token else 1
        said = row_sums(token_log_probabilities(step.logits, step.targets), step) / size
        total = torch.zeros_like(said)
        for teacher in self.teachers:
            asked = token_log_probabilities(teacher.seen(step).logits, step.targets)
            total = total - F.logsigmoid(said - row_sums(asked, step) / size)
        counted = total / len(self.teachers)
        return (counted * step.batch["good"]).mean() if "good" in step.batch else counted.mean()
