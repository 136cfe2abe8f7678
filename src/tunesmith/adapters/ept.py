from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Count, Start
from ._prompt import Prompt, beginning, born


class EPT(Prompt):
    """A short prompt beside a low-rank change of the input's embeddings, joined by attention and read in several spaces.

    With ``U = B A`` the change of the embeddings by place: the prompt becomes ``P + softmax(P U' / sqrt(d)) U``, is sent
    through ``spaces`` bottlenecks, and these are mixed by a gate that looks at the mean embedding of the row's first tokens.

    Source: Lan et al. 2024, arXiv:2405.11464, sec. 3; the low-rank part is DePT's (Shi and Lipani 2023,
    arXiv:2309.05173); widths of the spaces and the gate's input are ours.

    Settings:
        length: number of virtual tokens.
        rank: rank of the change of the embeddings.
        places: places of a row whose embeddings change, from its first.
        spaces: number of spaces.
        size: width of each space.
        asking: tokens of a row, from its first, that the gate sees.
        start: where the vectors begin: embeddings of frequent words, or noise.
    """

    rate = 2.5e-2

    def __init__(
        self,
        site: Site,
        *,
        length: Count = 10,
        rank: Count = 8,
        places: Count = 256,
        spaces: Count = 4,
        size: Count = 16,
        asking: Count = 16,
        start: Start = "vocabulary",
    ):
        super().__init__(site)
        width = site.outputs
        self.prompt = nn.Parameter(born(site, length, start))
        self.A = nn.Parameter(torch.randn(rank, width) * width**-0.5)
        self.B = nn.Parameter(torch.zeros(places, rank))
        self.down = nn.Parameter(torch.randn(spaces, width, size) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(spaces, size, width))
        self.gate = nn.Linear(width, spaces)
        self.asking = asking

    def changed(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        place = (mask.cumsum(1) - 1)[:, -embeddings.shape[1] :].clamp(min=0)
        inside = ((place < len(self.B)) & mask[:, -embeddings.shape[1] :].bool()).unsqueeze(-1)
        change = (self.B @ self.A)[place.clamp(max=len(self.B) - 1)]
        return embeddings + (change * inside).to(embeddings.dtype)

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        keys = self.B @ self.A
        fused = self.prompt + (self.prompt @ keys.T * keys.shape[1] ** -0.5).softmax(-1) @ keys
        spaces = fused + torch.relu(fused @ self.down) @ self.up
        gates = self.gate(beginning(mask, embeddings, self.asking)).softmax(-1)
        return torch.einsum("rs,slw->rlw", gates, spaces.to(gates.dtype))
