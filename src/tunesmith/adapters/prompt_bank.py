from __future__ import annotations

from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Start
from ._prompt import Prompt, beginning, born


class PromptBank(Prompt):
    """Prompt tuning out of a memory: each row gets the vectors that are nearest to it by inner product (SPT).

    The row asks with the mean embedding of its first tokens: an instruction stands there, and no answer that a language
    model has yet to write. What is found is what is prepended, so the memory learns where it is used.

    Source: Bari et al. 2022, arXiv:2212.10929, sec. 3.

    Settings:
        memories: vectors in the memory.
        length: virtual tokens of a row.
        asking: tokens of a row, from its first, that ask; keep it below the length of what comes before an answer.
        start: where the vectors begin: embeddings of frequent words, or noise.
    """

    def __init__(
        self,
        site: Site,
        *,
        memories: Count = 200,
        length: Count = 20,
        asking: Count = 16,
        start: Start = "vocabulary",
    ):
        super().__init__(site)
        self.memory = nn.Parameter(born(site, max(memories, length), start))
        self.length, self.asking = length, asking

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        scores = beginning(mask, embeddings, self.asking) @ self.memory.detach().to(embeddings.dtype).T
        return self.memory[scores.topk(self.length, dim=-1).indices]
