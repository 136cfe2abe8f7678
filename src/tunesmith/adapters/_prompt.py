"""Virtual tokens in front of the input: what all soft prompts have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..models.anatomy import Site
from ..settings import Start
from . import Adapter


class Prompt(Adapter):
    """Vectors in front of the embeddings of every row; a subclass says which (`tokens`)."""

    targets = ["input"]  # noqa: RUF012
    folds = False
    accepts = ("input",)
    changes_at_birth = "every token attends to the virtual ones from the start"
    rate = 1e-2

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        front, own = y[:, : max(0, y.shape[1] - x.shape[1])], y[:, -x.shape[1] :]
        if own.shape[1] < x.shape[1]:  # more of a text is written, and its virtual tokens lie in the cache
            return self.changed(x, own)
        tokens = self.tokens(x, own).to(y.dtype).expand(len(y), -1, -1)
        return torch.cat([tokens, front, self.changed(x, own)], dim=1)

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        """The virtual tokens: (length, width) for all rows or (rows, length, width).

        Args:
            mask: (rows, places), 0 where a place is padding.
            embeddings: (rows, places, width) of the row's own tokens.
        """
        raise NotImplementedError

    def changed(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        """What becomes of the row's own embeddings; they stay, unless a technique says otherwise.

        Args:
            mask: (rows, places), 0 where a place is padding.
            embeddings: (rows, last places, width); fewer than ``mask`` has where more of a text is written.
        """
        return embeddings


def embedded(site: Site, ids: Tensor) -> Tensor:
    """What the model's table of embeddings gives for these ids: (..., width), in single precision, without gradient."""
    table: Any = site.parts["embedding"].module
    with torch.no_grad():
        return table(ids.to(table.weight.device)).float().cpu()


def born(site: Site, length: int, start: Start) -> Tensor:
    """New vectors (length, width): embeddings of words drawn from the frequent ones, or noise of the same size."""
    vocabulary = site.parts["embedding"].inputs
    drawn = embedded(site, torch.randint(min(5000, vocabulary), (length,)))
    return drawn if start == "vocabulary" else torch.randn_like(drawn) * drawn.std()


def beginning(mask: Tensor, embeddings: Tensor, tokens: int) -> Tensor:
    """The mean embedding (rows, width) of each row's first tokens, without padding."""
    chosen = mask.bool() & (mask.cumsum(1) <= tokens)
    weights = chosen.unsqueeze(-1).to(embeddings.dtype)
    return (embeddings * weights).sum(1) / weights.sum(1).clamp(min=1)
