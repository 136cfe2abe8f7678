from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import Positive, Share
from . import Loss, Step
from ._common import full, likelihoods, must, must_label_rows


class PromptedPretraining(Loss):
    """First masked-language modelling on the filled-in prompts, then the prompt's own classes (PCP).

    Until ``until`` the blank of each row's template holds a label's chief word, and a share of the row's tokens, that
    word among them or not, is masked and asked for; each row's mean counts. Afterwards it is ``cross_entropy``; it takes
    that term's place. For a causal model the same is plain training on prompts with their answers. Source: Shi and Lipani
    2023, "Don't Stop Pretraining? Make Prompt-based Fine-tuning Powerful Learner", arXiv:2305.01711.

    Settings:
        until: share of the run spent on modelling.
        share: of the tokens that are masked; a row has one at least.
        labels: the word that fills the blank: ``gold``, or that of the next class, whatever the row: the lower bound.
    """

    def __init__(self, *, until: Share = 0.5, share: Positive = 0.15, labels: Literal["gold", "shuffled"] = "gold"):
        self.until, self.share, self.labels = until, share, labels

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        must(step.head == "masked-cloze", self, "a masked language model that fills blanks: task.classify.cloze=true")
        if step.progress >= self.until:
            return likelihoods(step.logits, step).sum() / step.units
        filled, blank = self.filled(step)
        chosen = self.chosen(step)
        ids = torch.where(chosen, blank, filled)
        said = full(step.vocabulary(chosen, input_ids=ids))
        each = F.cross_entropy(said, filled[chosen], reduction="none")
        sequence = chosen.nonzero()[:, 0]
        means = each.new_zeros(len(ids)).index_add(0, sequence, each / chosen.sum(1)[sequence])
        return means.mean()

    def filled(self, step: Step) -> tuple[Tensor, Tensor]:
        """Ids with a label's chief word, its first piece, at each blank; and the id of the mask, as a tensor."""
        sequence, place, token, word, row = step.batch["asked"].unbind(1)
        table = step.batch["mean_words" if "mean_words" in step.batch else "sum_words"]
        label = step.targets if self.labels == "gold" else (step.targets + 1) % table.shape[1]
        chief = (table[word, label[row]] == table.max(0).values[label[row]]).nonzero()[:, 0]
        first = torch.ones_like(chief, dtype=torch.bool)
        first[1:] = sequence[chief][1:] != sequence[chief][:-1]
        ids = step.batch["input_ids"].clone()
        blank = step.batch["input_ids"][sequence[0], place[0]]
        ids[sequence[chief[first]], place[chief[first]]] = token[chief[first]]
        return ids, blank

    def chosen(self, step: Step) -> Tensor:
        """The places that are masked, bool of the shape of the ids."""
        ids = step.batch["input_ids"]
        plain = step.attended & ~torch.isin(ids, torch.tensor(step.special, device=ids.device, dtype=ids.dtype))
        drawn = step.draw(kind="uniform")[..., 0].masked_fill(~plain, 2.0)
        return plain & ((drawn < self.share) | (drawn == drawn.min(1, keepdim=True).values))
