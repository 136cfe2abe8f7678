from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Start
from ._prompt import Prompt, born


class PromptTuning(Prompt):
    """Put learned vectors in front of the input's embeddings, and train nothing else.

    Source: Lester, Al-Rfou and Constant 2021, arXiv:2104.08691, sec. 2.

    Settings:
        length: number of virtual tokens.
        start: where the vectors begin: embeddings of frequent words, or noise.
    """

    rate = 1.25e-1
    peft = "PROMPT_TUNING"
    peft_names: ClassVar[dict[str, str]] = {"prompt": "prompt_embeddings"}
    peft_prompts = ("PROMPT_TUNING", "P_TUNING")

    def __init__(self, site: Site, *, length: Count = 20, start: Start = "vocabulary"):
        super().__init__(site)
        self.prompt = nn.Parameter(born(site, length, start))

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        return self.prompt

    def peft_prompt(self) -> Tensor:
        return self.prompt
