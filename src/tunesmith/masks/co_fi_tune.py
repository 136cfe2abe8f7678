from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.anatomy import Weight
from ..settings import Count, Decay, Roles, Share
from . import EntryMask, Patch
from ._weights import oriented


class CoFiTune(EntryMask):
    """A region of the middle-lower layers moves, and in it each neuron the less the more the base's answers need it.

    A neuron's importance is the size of the gradient of a gate on it, ``|sum_j w_ij g_ij|``, under the divergence between
    two passes with dropout; brought to mean 0 and deviation 1 and through ``|tanh|`` it is ``I``, and each step is taken
    by ``1 - I``.

    Source: Zhang et al. 2024, arXiv:2404.10306, sec. 3.2 and 3.3; the importance: Ke et al. 2023, arXiv:2302.03241, eq. 3
    to 5. The region is the one that the paper's search found; dropout is on the input embeddings, since many models have
    none.

    Settings:
        roles: roles of the modules that move.
        start: where in the depth the region begins, as a share of the layers from the bottom.
        stop: where it ends.
        samples: training rows that importance is read from.
        dropout: share of the input embeddings that is dropped in the two passes.
    """

    rate: ClassVar[float] = 1.25e-3
    soft: ClassVar[bool] = True

    def __init__(
        self,
        *,
        roles: Roles = ["mlp.*"],  # noqa: B006
        start: Share = 0.25,
        stop: Share = 0.5,
        samples: Count = 64,
        dropout: Decay = 0.1,
    ):
        super().__init__(score="gradient", density=1.0, roles=roles, samples=samples)
        self.start, self.stop, self.dropout, self.together = start, stop, dropout, 1

    def trains(self, weight: Weight) -> bool:
        inside = weight.layer is not None and self.start <= (weight.layer + 0.5) / weight.layers < self.stop
        return inside and super().trains(weight)

    def asks(self, step: Any) -> Tensor:
        table = step.host.model.get_input_embeddings()
        hook = table.register_forward_hook(lambda module, inputs, output: F.dropout(output, self.dropout))
        try:
            one, two = step.again().float(), step.again().float()
        finally:
            hook.remove()
        if one.shape[-1] == 1:
            return F.mse_loss(one, two)
        return F.kl_div(one.log_softmax(-1), two.log_softmax(-1), log_target=True, reduction="batchmean")

    @torch.no_grad()
    def observe(self, weight: Weight, grad: Tensor) -> None:
        gate = oriented(weight, weight.parameter * grad).float()
        seen = (gate.sum(1) if gate.ndim == 2 else gate).abs()
        self.scores[weight.name] = self.scores.get(weight.name, 0) + seen

    def choose(self) -> dict[str, Tensor | None]:
        return dict.fromkeys(self.weights)

    def prepare(self, patch: Patch) -> Tensor:
        score = self.scores.pop(patch.weight.name)
        importance = torch.tanh((score - score.mean()) / score.std().clamp(min=1e-30)).abs()
        share = oriented(patch.weight, torch.empty_like(patch.weight.parameter))
        share.copy_((1 - importance)[:, None] if share.ndim == 2 else 1 - importance)
        return oriented(patch.weight, share).reshape(-1)
