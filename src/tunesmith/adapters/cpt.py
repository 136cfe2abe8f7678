from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import NonNegative
from ._prompt import Prompt, embedded


class CPT(Prompt):
    """Prompt tuning that starts as examples in the context and stays near them: each token's move is kept in a small ball.

    Without its moves it is in-context learning. The loss is that of the rows; the paper's further term, on the labels
    inside the context, is not part of an adapter.

    Source: Blau et al. 2024, arXiv:2410.17222, sec. 4; the radius is that of its code for a width of 2048, and goes with
    the root of the width.

    Settings:
        context: ids of the tokens of the examples and the instruction.
        fixed: places in ``context`` that never move, such as the examples' labels.
        radius: most that a token moves, at a width of 2048.
    """

    changes_at_birth = "it begins as examples in the context"
    rate = 5e-2
    base: Tensor

    def __init__(self, site: Site, *, context: list[int] = [], fixed: list[int] = [], radius: NonNegative = 0.1):  # noqa: B006
        super().__init__(site)
        vocabulary = site.parts["embedding"].inputs
        if not context or max(context) >= vocabulary or min(context) < 0:
            raise InputError(
                f"cpt's context is {context[:3]}", expected=f"ids of tokens from 0 to {vocabulary - 1}, at least one",
                fix="give the token ids of a few examples",
            )  # fmt: skip
        if wrong := [i for i in fixed if not 0 <= i < len(context)]:
            raise InputError(f"cpt's fixed place {wrong[0]} is not in its context", expected=f"0 to {len(context) - 1}")
        self.register_buffer("base", embedded(site, torch.tensor(context)))
        self.move = nn.Parameter(torch.zeros_like(self.base))
        self.fixed, self.radius = fixed, radius * (site.outputs / 2048) ** 0.5

    def tokens(self, mask: Tensor, embeddings: Tensor) -> Tensor:
        return self.base + self.move

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        for adapter in adapters:
            length = adapter.move.norm(dim=1, keepdim=True).clamp(min=1e-12)
            adapter.move.mul_((adapter.radius / length).clamp(max=1))
            adapter.move[adapter.fixed] = 0
        return ()
