from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..settings import Positive, Share
from . import Loss, Step
from ._common import full, must


class EntityMasking(Loss, nn.Module):
    """Hidden words are to be told from the rest, entities more often and at a higher price than others (MSLM).

    ``sum over other words + factor * sum over entities`` of the negative log-likelihood of what was hidden, over the
    supervised words. Entities are the words whose tag is not in ``outside``. The mean of all embeddings hides a word;
    a linear map of its own, which begins as the identity, and the base's embeddings say what it was. It goes beside
    ``cross_entropy``. Source: Abaho et al. 2024, "Improving Pre-trained Language Model Sensitivity via Mask Specific
    losses", arXiv:2403.18025, without its joint tuning of the rates.

    Settings:
        entities: share of the entities' tokens that are hidden.
        others: share of the other tokens that are hidden.
        factor: how much more an entity counts.
        outside: tags of words that are no entities.
    """

    weight: Positive = 0.1

    dense: nn.Linear
    bias: nn.Parameter

    def __init__(
        self,
        *,
        entities: Share = 0.5,
        others: Share = 0.15,
        factor: Positive = 2.0,
        outside: list[str] = ["O"],  # noqa: B006
    ):
        nn.Module.__init__(self)
        self.entities, self.others, self.factor, self.outside = entities, others, factor, outside

    def start(self, step: Step) -> None:
        must(step.head == "token-classification", self, "words with tags, as task tag has them")
        size, inner = step.main.hidden.shape[-1], step.table.shape[-1]
        self.dense = nn.Linear(size, inner, dtype=full(step.main.hidden).dtype)
        nn.init.eye_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.bias = nn.Parameter(self.dense.bias.new_zeros(len(step.table)))

    def __call__(self, step: Step) -> Tensor:
        must(step.head == "token-classification", self, "words with tags, as task tag has them")
        entity = self.places(step)
        shares = torch.where(entity, self.entities, self.others)
        hidden = _inside(step.attended) & (step.draw(kind="uniform")[..., 0] < shares)
        blank = step.table.mean(0)
        seen = step.run(embed=lambda e: torch.where(hidden.unsqueeze(-1), blank.to(e.dtype), e)).hidden[hidden]
        said = self.dense(full(seen).to(self.dense.weight.dtype)) @ step.table.to(self.dense.weight.dtype).T + self.bias
        lost = F.cross_entropy(said, step.batch["input_ids"][hidden], reduction="none")
        return (torch.where(entity[hidden], self.factor, 1.0) * lost).sum() / step.units

    def places(self, step: Step) -> Tensor:
        """Tokens of entities, bool (rows, length); a word's later tokens go with its first."""
        labels = step.batch["labels"]
        inside = torch.tensor([name not in self.outside for name in step.names], device=labels.device)
        asked = labels != -100
        own = torch.where(asked, torch.arange(labels.shape[1], device=labels.device), 0).cummax(1).values
        carried = labels.gather(1, own)
        return (carried != -100) & inside[carried.clamp(min=0)] & step.attended


def _inside(attended: Tensor) -> Tensor:
    """The places of a row without its first and its last."""
    inside = attended.clone()
    inside[:, 0] = False
    return inside.scatter(1, attended.sum(1, keepdim=True) - 1, False)
