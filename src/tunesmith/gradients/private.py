from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..settings import NonNegative, Positive
from . import Gradient, Loss, Plan
from ._per_row import Recorder, norms
from ._privacy import epsilon_of, noise_for


class Private(Gradient):
    """Each row's gradient is clipped to a norm, and noise is added to the sum: differentially private training.

    The norms of linear layers and embeddings come from what went in and the gradient of what came out, so no row's
    gradient is ever made; the clipped sum is made from the same numbers, by one backward pass. It equals the second,
    reweighted pass of the paper. Other tensors, those of adapters and norms, are small and go row by row. A row's loss
    is the sum over its units. The noise comes from the run's seed, so the seed has to stay secret; rows are shuffled,
    and accounted for as if drawn independently. Large batches and high rates help, and a task form that the base knows.

    Source: Li et al. 2021, arXiv:2110.05679, sec. 4 (ghost clipping); Bu et al. 2022, arXiv:2210.00038 (one pass);
    Wang et al. 2022, arXiv:2206.04236, and Behnia et al. 2022, "Privately Fine-Tuning Large Language Models with
    Differential Privacy" (the Edgeworth accountant).

    Settings:
        clip: highest L2 norm of a row's gradient.
        epsilon: the privacy budget of the whole run, which sets the noise.
        delta: the share of cases in which the budget may be exceeded; below one over the number of rows.
        noise: standard deviation of the noise in units of ``clip``, in place of a budget.
        accountant: ``rdp`` and ``prv`` are Opacus' (``tunesmith[privacy]``), ``prv`` is tighter and slower;
            ``edgeworth`` is an estimate without guarantee: within 5% of the noise of ``prv`` where a step sees 5% of the
            rows or more, 11% too little at 2% of them and 100 steps.
    """

    sums = True
    adds = False
    entries = "it clips whole tensors' gradients"

    def __init__(
        self,
        *,
        clip: Positive = 0.1,
        epsilon: Positive = 8.0,
        delta: Positive = 1e-5,
        noise: NonNegative | None = None,
        accountant: Literal["rdp", "prv", "edgeworth"] = "rdp",
    ):
        self.clip, self.epsilon, self.delta, self.accountant = clip, epsilon, delta, accountant
        self.given = noise
        self.noise = noise or 0.0
        self.expected = 1
        self.checked = False

    def begin(self, model: nn.Module, plan: Plan) -> list[str]:
        self.expected = min(plan.rows_per_step, plan.rows)
        self.recorder = Recorder(model, [p for p in model.parameters() if p.requires_grad])
        if self.given is not None:
            return [f"private: noise {self.given:g} x clip {self.clip:g}; the budget is not accounted for"]
        if not math.isfinite(plan.steps):
            raise InputError("the noise depends on the number of steps", where="budget",
                             expected="epochs, steps or rows")  # fmt: skip
        rate = self.expected / plan.rows
        self.noise = noise_for(self.epsilon, self.delta, rate, int(plan.steps), self.accountant)
        spent = epsilon_of(self.noise, self.delta, rate, int(plan.steps), self.accountant)
        return [f"private: noise {self.noise:.4g} x clip {self.clip:g} for epsilon {spent:.4g} at delta {self.delta:g} "
                f"({self.accountant}, {int(plan.steps)} steps of {self.expected} of {plan.rows} rows)"]  # fmt: skip

    def __call__(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter]) -> Tensor:
        total = torch.zeros((), device=parameters[0].device)
        for loss in losses:
            with self.recorder.recording():
                value = loss()
            total += value.detach()
            if not value.isfinite():
                return total
            self._add(value)
        for p in parameters:
            if p.grad is not None:
                drawn = torch.randn_like(p.grad, dtype=torch.float32)
                p.grad.add_(drawn, alpha=self.noise * self.clip).div_(self.expected)
        return total

    def _add(self, loss: Tensor) -> None:
        """Add a micro-batch's clipped gradients."""
        calls = self.recorder.calls(loss, check=not self.checked)
        self.checked = True
        with torch.no_grad():
            factors = (self.clip / (norms(calls) + 1e-6)).clamp(max=1.0)
        for call in calls:
            for p, g in call.weighted(factors):
                p.grad = g.to(p.dtype) if p.grad is None else p.grad.add_(g)
