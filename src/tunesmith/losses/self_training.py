from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..settings import Count, NonNegative, Share
from . import Loss, Step
from ._common import Averaged, full, likelihoods, must_label_rows


class SelfTraining(Loss, nn.Module):
    """First weak labels, then the model's own confident ones, with like rows drawn together (COSINE).

    After ``begin`` a copy of the model, renewed every ``refresh`` steps, gives soft labels ``y_j`` proportional
    to ``f_j^2 / sum over the batch of f_j``; rows of confidence ``1 - H(y) / log C`` above ``confident`` count by
    it: ``w KL(y || f)``, plus ``contrast`` times the pairs' term (same label ``d^2``, other ``max(0, margin -
    d)^2``), plus ``smoothing`` times ``KL(uniform || f)``. It takes the place of ``cross_entropy``. Source: Yu et
    al. 2021, arXiv:2010.07835.

    Settings:
        begin: share of the run with the weak labels.
        refresh: steps between two copies.
        confident: least confidence of a row that counts.
        contrast: weight of the pairs' term.
        margin: distance beyond which rows of different labels are left alone.
        smoothing: weight of the confidence regulariser.
    """

    whole = "its soft labels and pairs are those of a batch"

    def __init__(
        self,
        *,
        begin: Share = 0.3,
        refresh: Count = 50,
        confident: Share = 0.6,
        contrast: NonNegative = 0.1,
        margin: NonNegative = 1.0,
        smoothing: NonNegative = 0.1,
    ):
        nn.Module.__init__(self)
        self.begin, self.refresh, self.confident = begin, refresh, confident
        self.contrast, self.margin, self.smoothing = contrast, margin, smoothing
        self.copy = Averaged(0.0)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    steps: Tensor

    def start(self, step: Step) -> None:
        must_label_rows(step, self)
        self.copy.start(step.parameters)

    def end_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Renew the copy when it is due."""
        self.steps += 1
        if int(self.steps) % self.refresh == 0:
            self.copy.follow(parameters)

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        if step.progress < self.begin:
            return likelihoods(step.logits, step).sum() / step.units
        y, w = self.labels(step)
        log_f, own = full(step.logits).log_softmax(-1), self._own(step, step.logits)
        apart = (w * (y * (y.clamp(min=1e-12).log() - log_f)).sum(-1)).mean()
        classes = own.sum(-1).clamp(min=2)
        even = (-classes.log() - (log_f * own).sum(-1) / classes)[w > 0]
        smooth = even.sum() / len(w)
        return apart + self.contrast * self._pairs(full(step.main.features), y, w) + self.smoothing * smooth

    @torch.no_grad()
    def labels(self, step: Step) -> tuple[Tensor, Tensor]:
        """Soft labels of the copy (rows, classes), and each row's weight (rows,), 0 where it is not confident."""
        f = full(step.run(weights=self.copy.tensors()).logits).softmax(-1)
        y = f**2 / f.sum(0).clamp(min=1e-12)  # no row of the batch may be of the task that a label belongs to
        y = y / y.sum(-1, keepdim=True)
        w = 1 + (y * y.clamp(min=1e-12).log()).sum(-1) / self._own(step, f).sum(-1).clamp(min=2).log()
        return y, w * (w > self.confident)

    def _own(self, step: Step, like: Tensor) -> Tensor:
        """Which labels each row can have, 0 or 1, (rows, classes): where several tasks are mixed, those of its own."""
        choices = step.batch.get("choices")
        return torch.ones_like(full(like)) if choices is None else choices.to(full(like).dtype)

    def _pairs(self, features: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Mean over pairs of confident rows, with the squared distance divided by the size."""
        chosen, kind = features[w > 0], y.argmax(-1)[w > 0]
        first, second = torch.triu_indices(len(chosen), len(chosen), 1, device=features.device)
        if not len(first):
            return features.sum() * 0
        squared = ((chosen[first] - chosen[second]) ** 2).mean(-1)
        gap = (self.margin - squared.clamp(min=1e-12).sqrt()).clamp(min=0) ** 2
        return torch.where(kind[first] == kind[second], squared, gap).mean()
