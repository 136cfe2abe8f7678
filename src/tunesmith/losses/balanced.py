from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..settings import NonNegative, Positive
from . import Loss, Step
from ._common import likelihoods, name_of

MOST = 64
"""Most tasks whose progress is followed."""


class Balanced(Loss, nn.Module):
    """Tasks of one run count alike, however many rows each has: the mean over tasks of each one's mean over its units.

    ``by`` weighs them further: ``focal`` by ``(1 - exp(-L_t))^gamma``, so that hard tasks count more; ``slope`` by
    ``softmax(-s_t)`` where ``s_t`` is the share by which a task's loss has lately fallen, so that all arrive together.
    ``scaled`` divides each loss by the logarithm of its number of classes (or of the vocabulary). It takes the place of
    ``cross_entropy``. Name the column that tells the tasks apart with ``rows.columns: {source: NAME}``. Source: Liu et
    al. 2023, "MFTCoder", arXiv:2311.02303, with training losses in place of its validation losses in ``slope``;
    scaling: Aghajanyan et al. 2021, "Muppet", arXiv:2101.11038.

    Settings:
        by: ``tasks``, ``focal`` or ``slope``.
        scaled: whether losses are brought to one scale.
        gamma: how sharply ``focal`` turns to hard tasks.
        sharpness: how sharply ``slope`` turns to slow tasks.
    """

    whole = "its tasks are those of a batch"

    slow: Tensor
    fast: Tensor

    def __init__(
        self,
        *,
        by: Literal["tasks", "focal", "slope"] = "tasks",
        scaled: bool = False,
        gamma: NonNegative = 1.0,
        sharpness: Positive = 4.0,
    ):
        nn.Module.__init__(self)
        self.by, self.scaled, self.gamma, self.sharpness = by, scaled, gamma, sharpness
        self.register_buffer("slow", torch.zeros(MOST))
        self.register_buffer("fast", torch.zeros(MOST))
        self._latest: dict[int, float] = {}

    def __call__(self, step: Step) -> Tensor:
        if "source" not in step.batch:
            raise InputError(
                f"{name_of(self)} needs rows of several tasks", expected="a column that tells them apart",
                fix="name it: rows.columns: {source: NAME}",
            )  # fmt: skip
        source = step.batch["source"][step.owners]
        losses = likelihoods(step.logits, step) / self._scale(step)
        tasks = source.unique().tolist()
        means = {task: losses[source == task].mean() for task in tasks}
        self._latest |= {task: float(mean.detach()) for task, mean in means.items()}
        weights = self._weights(means)
        return torch.stack([weights[t] * means[t] for t in tasks]).mean()

    def end_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Follow how the tasks' losses fall."""
        for task, loss in self._latest.items():
            if task < MOST:
                for average, stays in ((self.fast, 0.8), (self.slow, 0.98)):
                    known = float(average[task])
                    average[task] = stays * known + (1 - stays) * loss if known else loss
        self._latest = {}

    def _scale(self, step: Step) -> Tensor | float:
        """Logarithm of the number of classes of each unit."""
        if not self.scaled:
            return 1.0
        if "choices" in step.batch:
            return step.batch["choices"].sum(1)[step.owners].clamp(min=2).log()
        return math.log(max(2, step.logits.shape[-1]))

    def _weights(self, means: Mapping[int, Tensor]) -> Mapping[int, Tensor | float]:
        if self.by == "tasks":
            return dict.fromkeys(means, 1.0)
        if self.by == "focal":
            return {task: (1 - (-mean).exp()) ** self.gamma for task, mean in means.items()}
        fallen = torch.tensor([self._fallen(task) for task in means])
        return dict(zip(means, (len(means) * (-self.sharpness * fallen).softmax(0)).tolist(), strict=True))

    def _fallen(self, task: int) -> float:
        """Share of a task's loss that it has lately lost."""
        if task >= MOST or not float(self.slow[task]):
            return 0.0
        return 1 - float(self.fast[task]) / float(self.slow[task])
