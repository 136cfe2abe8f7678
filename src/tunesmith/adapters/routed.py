from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count
from . import Adapter


class Routed(Adapter):
    """A learned router sends each token through a few blocks of its layer's own MLP; the other blocks are not computed.

    The hidden units are cut into blocks of equal size. Of a token those blocks are taken whose scores are highest, ``top(R x +
    c)``, and their outputs are added up with the weights ``k softmax(scores of the k taken)``, by which the router learns. It
    begins as the ridge regression of the blocks' share of the MLP's output (their norms) on the first rows. Linear adapters
    cannot act on the matrices of a routed MLP; the mask may let these train. It stays in the finished model.

    Source: Gui et al. 2023, "SPT: Fine-Tuning Transformer-based Language Models Efficiently with Sparsification", routed
    feed-forward networks; the router's start and the weights are ours.

    Settings:
        blocks: how many blocks there are; the number of hidden units has to be a multiple.
        active: how many of them each token goes through.
    """

    targets = ["sublayer.mlp"]  # noqa: RUF012
    accepts = ("sublayer",)
    folds = False
    replaces = True
    changes_at_birth = "some blocks are left out"
    rate = 1.25e-2
    observes = 4

    def __init__(self, site: Site, *, blocks: Count = 4, active: Count = 2):
        super().__init__(site)
        up = site.parts.get("up")
        if up is None or site.activation is None:
            raise InputError(f"{site.path} has no hidden units that could be routed", where="adapter.routed",
                             expected="the MLP of a model that names its nonlinearity")  # fmt: skip
        if up.outputs % blocks or active > blocks:
            raise InputError(f"{active} of {blocks} blocks of {up.outputs} hidden units", where="adapter.routed",
                             expected="blocks of equal size, of which at most all are active")  # fmt: skip
        self.R = nn.Parameter(torch.zeros(blocks, site.inputs))
        self.c = nn.Parameter(torch.zeros(blocks))
        self.active, self.size = active, up.outputs // blocks
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        best = F.linear(flat, self.R.to(flat.dtype), self.c.to(flat.dtype)).float().topk(self.active, -1)
        weights = self.active * best.values.softmax(-1)
        said: Tensor | None = None
        for block in range(len(self.c)):
            tokens, rank = (best.indices == block).nonzero(as_tuple=True)
            part = self._block(block, flat[tokens], weights[tokens, rank, None])
            said = part.new_zeros(len(flat), self.site.outputs) if said is None else said
            said = said.scatter_add(0, tokens[:, None].expand_as(part), part)  # index_add would keep the parts
        assert said is not None
        bias = self.site.bias
        return (said if bias is None else said + bias).view(*x.shape[:-1], -1)

    def _block(self, number: int, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """What one block adds to the output of some tokens, (tokens, outputs), times their weights (tokens, 1)."""
        parts, units = self.site.parts, slice(number * self.size, (number + 1) * self.size)
        weight, act = parts["down"].weight[:, units], self.site.activation
        inner = {n: F.linear(x, p.weight[units], None if p.bias is None else p.bias[units])
                 for n in ("gate", "up") if (p := parts.get(n)) is not None}  # fmt: skip
        hidden = act(inner["gate"]) * inner["up"] if "gate" in inner else act(inner["up"])
        return F.linear(hidden if weights is None else hidden * weights.to(hidden.dtype), weight)

    @torch.no_grad()
    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        norms = torch.stack([self._block(i, x).double().norm(dim=-1) for i in range(len(self.c))], -1)
        shares = norms / norms.mean(-1, keepdim=True).clamp(min=1e-12)
        wide = F.pad(x.double(), (0, 1), value=1.0)  # in double precision, which autocast leaves alone
        gram, cross = wide.T @ wide, wide.T @ shares
        self.seen = (gram, cross) if self.seen is None else (self.seen[0] + gram, self.seen[1] + cross)

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        for adapter in adapters:
            assert adapter.seen is not None
            gram, cross = adapter.seen
            ridge = 1e-2 * gram.diagonal().mean()
            fitted = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), cross)
            adapter.R.copy_(fitted[:-1].T)
            adapter.c.copy_(fitted[-1])
            adapter.seen = None
