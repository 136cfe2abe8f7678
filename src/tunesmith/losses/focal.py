from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..settings import NonNegative
from . import Loss, Step
from ._common import full, kind_of, must


class Focal(Loss):
    """Cross-entropy in which what is right already counts little: ``-alpha (1 - p)^gamma log p``.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5.

    Settings:
        gamma: how fast easy examples lose their weight; 0 is cross-entropy.
        class_weights: weight of each class in the order of the labels (``alpha``).
    """

    def __init__(self, *, gamma: NonNegative = 2.0, class_weights: list[float] | None = None):
        self.gamma = gamma
        self.class_weights = class_weights

    def __call__(self, step: Step) -> Tensor:
        must(kind_of(step) != "number", self, "classes", "use squared_error")
        logits, several = full(step.logits), kind_of(step) == "labels"
        if several:
            signs = 2 * step.targets.to(logits.dtype) - 1
            log_p = torch.nn.functional.logsigmoid(signs * logits)
        else:
            log_p = logits.log_softmax(-1).gather(-1, step.targets[:, None])[:, 0]
        # expm1 keeps 1 - p exact and its power's slope finite where p is close to 1
        missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        loss = -(missing**self.gamma) * log_p
        if self.class_weights is not None:
            loss = loss * self._alphas(logits, step, several)
        return loss.mean(-1).sum() / step.units if several else loss.sum() / step.units

    def _alphas(self, logits: Tensor, step: Step, several: bool) -> Tensor:
        alphas = logits.new_tensor(self.class_weights)
        if len(alphas) != logits.shape[-1]:
            raise InputError(
                f"loss.focal.class_weights has {len(alphas)} weights", expected=f"{logits.shape[-1]}, one a class"
            )
        return alphas if several else alphas[step.targets]
