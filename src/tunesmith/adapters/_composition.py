"""How adapters that stand on one site are combined, instead of each acting on what the one before it gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..models.anatomy import Site
from . import Adapter


class Composition(Adapter):
    """Combines the adapters that a site has already; each of them sees the site as it is without any.

    Attributes:
        freezes: whether the adapters that it combines stop learning.
        members: those adapters, the first attached first; the host says which.
    """

    targets = ["adapted"]  # noqa: RUF012
    accepts = ("linear", "embedding", "norm", "sublayer", "layer", "heads")
    composes = True
    freezes: ClassVar[bool] = False

    def __init__(self, site: Site):
        super().__init__(site)
        self.members: Sequence[Adapter] = ()

    def outputs(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """What each member would make of the site's output."""
        return [member(x, y) for member in self.members]
