from __future__ import annotations

import torch
from torch import Tensor, nn

from ..settings import Count
from . import Loss, Step
from ._common import likelihoods, must
from ._templates import TEMPLATES, cut, framed


class PromptAgnostic(Loss, nn.Module):
    """The likelihood inside wordings that change, so that none of them is learned by heart (PAFT).

    Every few steps another template is drawn and put around what a row asks: at its ends, but inside what a
    tokenizer adds to a text, and before the answer. A prompt that a chat template wraps gets it around the turn;
    ``task: {generate: {chat: false}}`` leaves the wrapping out. It takes the place of ``cross_entropy``. Source: Wei
    et al. 2025, "PAFT: Prompt-Agnostic Fine-Tuning", arXiv:2502.12859.

    Settings:
        templates: wordings with ``{text}`` in each; none takes 20 general ones.
        every: steps between two draws.
    """

    steps: Tensor
    origin: Tensor

    def __init__(self, *, templates: list[str] = [], every: Count = 4):  # noqa: B006
        nn.Module.__init__(self)
        self.templates = [cut(t) for t in templates or TEMPLATES]
        self.every = every
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("origin", torch.zeros((), dtype=torch.long))

    def start(self, step: Step) -> None:
        must(step.head in ("causal-lm", "sequence-classification"), self, "rows with a prompt or a text")
        self.origin.fill_(torch.initial_seed() % 2**31)

    def end_step(self, parameters: object) -> None:
        """Count the step."""
        self.steps += 1

    def drawn(self) -> int:
        """Number of the template that the coming step has."""
        draw = torch.Generator().manual_seed(int(self.origin) * 65537 + int(self.steps) // self.every)
        return int(torch.randint(len(self.templates), (), generator=draw))

    def __call__(self, step: Step) -> Tensor:
        must(step.head in ("causal-lm", "sequence-classification"), self, "rows with a prompt or a text")
        before, after = self.templates[self.drawn()]
        inside = framed(step, step.tokens(before), step.tokens(after))
        return likelihoods(inside.logits, step).sum() / step.units
