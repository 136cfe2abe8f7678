from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..settings import Positive
from . import Loss, Step
from ._common import full, likelihoods, must, must_label_rows


class SoftLabels(Loss):
    """How far the model is from a teacher's soft labels, ``KL(soft || f)``, rows that help validation rows counting more.

    With ``reweighted`` a row counts by ``max(0, -dL_val/deps)``: how much a small step on it alone would lower the loss of
    a batch of validation rows, which have labels by people; the weights have mean 1. That slope is the product of both
    gradients, got for all rows by two forward passes along the validation rows' gradient. Rows without soft labels count
    with their own. It takes the place of ``cross_entropy``. Source: Wang et al. 2021, "LiST", arXiv:2110.06274; the
    weights: Ren et al. 2018, "Learning to Reweight Examples", arXiv:1803.09050, eq. 8 and 9.

    Settings:
        reweighted: whether rows count by what they do to the validation rows.
        reach: how far the weights move along that gradient to see its slope, in their own norm.
    """

    def __init__(self, *, reweighted: bool = False, reach: Positive = 1e-2):
        self.reweighted, self.reach = reweighted, reach
        if reweighted:
            self.whole = "its weights compare the rows of a batch with one another"  # type: ignore[misc]

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        apart = self.apart(step.logits, step)
        if not self.reweighted:
            return apart.sum() / step.units
        gain = self.gains(step).clamp(min=0)
        weights = gain * len(gain) / gain.sum().clamp(min=1e-12)
        return (weights * apart).sum() / step.units

    def apart(self, logits: Tensor, step: Step) -> Tensor:
        """``KL(soft || f)`` of each row, (rows,)."""
        log_f = full(logits).log_softmax(-1)
        soft = step.batch.get("soft")
        if soft is None:
            soft = torch.nn.functional.one_hot(step.targets, log_f.shape[-1])
        soft = soft.to(log_f.dtype)
        return (torch.special.xlogy(soft, soft) - soft * log_f).sum(-1)

    def gains(self, step: Step) -> Tensor:
        """How much faster than by the mean a step on each row lowers the validation rows' loss, (rows,), up to a factor."""
        held = step.held_out
        must(held is not None, self, "validation rows", "hold some out: rows.validation, or rows.validation_share")
        parameters = {n: p for n, p in step.parameters.items() if p.requires_grad}
        with torch.enable_grad():
            loss = likelihoods(held.run().logits, held).mean()
        slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        known = {n: g for n, g in zip(parameters, slopes, strict=True) if g is not None}
        size = torch.stack([g.norm() for g in known.values()]).norm().clamp(min=1e-12)
        ahead, behind = (self._moved(step, parameters, known, side * self.reach / size) for side in (1, -1))
        return (ahead - behind) / (2 * self.reach)

    @torch.no_grad()
    def _moved(self, step: Step, parameters: Mapping[str, Tensor], way: Mapping[str, Tensor], by: Tensor) -> Tensor:
        """The rows' losses with the weights moved along a direction, under the same drop-out each time."""
        weights = {n: p.detach() + by * way[n] if n in way else p.detach() for n, p in parameters.items()}
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed())
            return self.apart(step.run(weights=weights).logits, step)
