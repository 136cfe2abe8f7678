from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..models.anatomy import Site
from ..settings import Count
from ._composition import Composition


class Split(Composition):
    """Give each of a site's adapters its own places of the text, or its own rows of the batch.

    A batch that is repeated once for each adapter and split by rows is AdapterHub's parallel block.

    Source: Pfeiffer et al. 2020, arXiv:2007.07779; Poth et al. 2023, arXiv:2311.11077, sec. 4 (split, batch split).

    Settings:
        along: what is cut: the ``places`` of each text, or the ``rows`` of the batch.
        sizes: how many the adapters get, the last one all the rest; none cuts into equal shares.
    """

    folds = False

    def __init__(self, site: Site, *, along: Literal["places", "rows"] = "places", sizes: list[Count] = []):  # noqa: B006
        super().__init__(site)
        self.dim, self.sizes = 0 if along == "rows" else 1, sizes

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        count, whole = len(self.members), y.shape[self.dim]
        share = -(-whole // count)
        sizes = self.sizes or [share] * (count - 1)
        if len(sizes) not in (count - 1, count):
            raise InputError(
                f"split has {len(sizes)} sizes for {count} adapters at {self.site.name}",
                expected=f"{count - 1} sizes; the last adapter gets the rest",
            )
        cuts = torch.tensor(sizes[: count - 1]).cumsum(0).clamp(max=whole).tolist()
        pieces = zip(x.tensor_split(cuts, self.dim), y.tensor_split(cuts, self.dim), self.members, strict=True)
        return torch.cat([member(*piece) if piece[1].numel() else piece[1] for *piece, member in pieces], self.dim)
