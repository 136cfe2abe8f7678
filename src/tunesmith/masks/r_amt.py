from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import Positive, Roles
from . import EntryMask, Patch


class R_AMT(EntryMask):  # noqa: N801
    """Weights are switched off, never changed: a score for each learns through the threshold that makes it a bit.

    A score's gradient is that of its bit (straight through). Where the task and the base disagree about it, it is
    dropped by chance: kept if ``U < (1 + sgn(g) (g + h) / (|g| + |h|)) / 2``, with ``h`` the gradient of the divergence
    from the base's predictions.

    Source: Zheng et al. 2023, arXiv:2307.15049, eq. 3 (mask), 5 and 6 (gradient dropout).

    Settings:
        roles: roles of the modules whose weights can be switched off.
        margin: how far every score lies above the threshold at first.
        agree: whether gradients that the base does not share are dropped; it costs a second backward pass.
    """

    rate: ClassVar[float] = 1e-3

    def __init__(self, *, roles: Roles = ["attention.*"], margin: Positive = 5e-3, agree: bool = True):  # noqa: B006
        super().__init__(score="magnitude", density=1.0, roles=roles)
        self.margin, self.agree = margin, agree

    @property
    def checks(self) -> bool:
        return self.agree

    def choose(self) -> dict[str, Tensor | None]:
        self.scores = {}
        return dict.fromkeys(self.weights)

    def difference(self, patch: Patch) -> Tensor:
        return torch.where(patch.values < -self.margin, -patch.base, 0.0).to(patch.values.dtype)

    def chain(self, patch: Patch, grad: Tensor) -> Tensor:
        return grad * patch.base

    def against(self, step: Any) -> Tensor:
        """The divergence of the model's predictions from the base's, over the supervised units."""
        base = step.base().float()
        if base.shape[-1] == 1:
            return F.mse_loss(step.logits.float(), base)
        return F.kl_div(
            step.logits.float().log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="batchmean"
        )

    def reconcile(self, patch: Patch, grad: Tensor, other: Tensor) -> Tensor:
        share = (grad + other) / (grad.abs() + other.abs()).clamp(min=1e-30)
        return torch.where(torch.rand(grad.shape).to(grad.device) < (1 + grad.sign() * share) / 2, grad, 0.0)
