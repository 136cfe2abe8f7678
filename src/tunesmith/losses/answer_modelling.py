from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import Share
from . import Step
from ._common import full, must, must_label_rows
from .prompted_pretraining import PromptedPretraining


class AnswerModelling(PromptedPretraining):
    """Masked-language modelling of the answer at the blank, over the whole vocabulary, and of some rows' own words.

    Each row's answer is one token, its label's chief word (`tunesmith collect` writes such rows). A share of the rows are
    plain masked-language modelling, so that the base stays a language model; it stands for what the paper calls dummy MLM.
    Source: Clavié, Cooper and Warner 2025, "It's All in The [MASK]", arXiv:2502.03793.

    Settings:
        dummies: share of the rows that are plain masked-language modelling.
        share: of a dummy's tokens that are masked; it has one at least.
    """

    def __init__(self, *, dummies: Share = 0.2, share: Share = 0.3):
        super().__init__(share=max(share, 1e-6))
        self.dummies = dummies

    def __call__(self, step: Step) -> Tensor:
        must_label_rows(step, self)
        must(step.head == "masked-cloze", self, "a masked language model that fills blanks: task.classify.cloze=true")
        filled, blank = self.filled(step)
        chosen = self.hidden(step)
        said = full(step.vocabulary(chosen, input_ids=torch.where(chosen, blank, filled)))
        each = F.cross_entropy(said, filled[chosen], reduction="none")
        sequence = chosen.nonzero()[:, 0]
        return each.new_zeros(len(filled)).index_add(0, sequence, each / chosen.sum(1)[sequence]).mean()

    def hidden(self, step: Step) -> Tensor:
        """The places that are asked for: the blank, or in a dummy those that are drawn; bool of the shape of the ids."""
        dummy = step.draw(kind="uniform")[:, :1, 0] < self.dummies
        sequence, place = step.batch["asked"][:, 0], step.batch["asked"][:, 1]
        blanks = torch.zeros_like(step.attended)
        blanks[sequence, place] = True
        return torch.where(dummy, self.chosen(step), blanks)
