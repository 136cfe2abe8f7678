"""Adapters: what is added to the model. One technique a file; the folder is the registry."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Layers, Roles


class Adapter(nn.Module):
    """Added to one site of a frozen model: a site's input and output become its new output.

    A subclass is one technique. It holds its own parameters, and knows neither how it is attached, switched off,
    folded, saved nor trained: the host does that for all.

    Attributes:
        folds: whether the adapted site is an affine map of its input, so that the host can fold the adapter into
            the site's own weight. One that is not says ``folds = False``.
        accepts: the kinds of site that it can act on: ``linear``, ``embedding``, ``norm``.
        rate: the learning rate that passed the recorded learning test; used where a recipe names none.
        peft: PEFT's name of the technique (``peft_type``) where PEFT has it, for export in its format.

    Settings:
        targets: roles of the sites that get an adapter; ``linear`` is every linear layer inside the layers.
        layers: indices of the layers that get one.
    """

    targets: Roles = ["linear"]  # noqa: RUF012
    layers: Layers = "all"
    folds: ClassVar[bool] = True
    accepts: ClassVar[tuple[str, ...]] = ("linear",)
    rate: ClassVar[float] = 1e-3
    peft: ClassVar[str] = ""

    def __init__(self, site: Site):
        super().__init__()
        self.site = site

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The site's new output, of the shape of ``y`` (..., outputs), from its input ``x`` (..., inputs)."""
        raise NotImplementedError
