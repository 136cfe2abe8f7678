from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..models.anatomy import Site
from ..settings import Positive
from ._low_rank import Anchored, dense


class CorDA(Anchored):
    """LoRA that starts from the weight's components in the context of the inputs: those of ``W C``, ``C = X X^T``.

    The mean of ``C``'s diagonal is made 1: with more tokens ``B`` would start larger and ``A`` smaller, and the same step
    would move the weight further.

    Source: Yang et al. 2024, arXiv:2406.05223, sec. 3.

    Settings:
        mode: ``instruction`` trains the components that matter most for the observed rows, ``knowledge`` those that
            matter least, so that what the rows show is kept.
        damping: share of the mean of ``C``'s diagonal that is added to it, doubled until ``C`` can be inverted.
    """

    rate = 2e-4
    observes = 16

    def __init__(
        self,
        site: Site,
        *,
        mode: Literal["instruction", "knowledge"] = "instruction",
        damping: Positive = 0.01,
        **low_rank: Any,
    ):
        super().__init__(site, **low_rank)
        self.mode, self.damping = mode, damping
        self.moments: Tensor | None = None

    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        seen = x.double().T @ x.double()
        self.moments = seen if self.moments is None else self.moments + seen

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        for adapter in adapters:
            assert adapter.moments is not None
            C, inverse = _invertible(adapter.moments / adapter.moments.diagonal().mean(), adapter.damping)
            U, s, V = torch.linalg.svd(dense(adapter.site).double() @ C, full_matrices=False)
            V, rank = V @ inverse, len(adapter.A)
            chosen = slice(0, rank) if adapter.mode == "instruction" else slice(len(s) - rank, len(s))
            adapter.start_from_product(U[:, chosen], s[chosen], V[chosen])
            adapter.moments = None


def _invertible(C: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """``C``, whose diagonal's mean is 1, with a damped diagonal; and its inverse."""
    eye = torch.eye(len(C), dtype=C.dtype, device=C.device)
    added = damping
    while True:
        damped = C + added * eye
        inverse, failed = torch.linalg.inv_ex(damped)
        if not failed and torch.dist(damped @ inverse, eye) < 1e-3:
            return damped, inverse
        added = 2 * added
