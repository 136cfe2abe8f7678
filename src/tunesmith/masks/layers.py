from __future__ import annotations

from typing import ClassVar

from ..models.anatomy import Weight
from ..settings import Count
from . import Mask


class Everything(Mask):
    """Every weight moves: full fine-tuning.

    Source: Devlin et al. 2019, arXiv:1810.04805, sec. 3.2.
    """

    def trains(self, weight: Weight) -> bool:
        return True


class Head(Mask):
    """Nothing but the head moves: the classifier, or a language model's output embeddings with what is tied to them.

    Source: Alain and Bengio 2016, arXiv:1610.01644 (a linear probe on a frozen network).
    """

    rate: ClassVar[float] = 5e-3

    def trains(self, weight: Weight) -> bool:
        return weight.role == "head" or weight.tied


class TopLayers(Mask):
    """The last layers and the head move; what lies below stays frozen.

    Source: Lee et al. 2019, arXiv:1911.03090 (a quarter of the layers keeps 90 % of the quality).

    Settings:
        count: number of layers that train, from the top; in each stack where the model has two.
    """

    rate: ClassVar[float] = 1e-4

    def __init__(self, *, count: Count = 2):
        self.count = count

    def trains(self, weight: Weight) -> bool:
        return (
            weight.tied
            or weight.role in ("head", "pooler")
            or (weight.from_top is not None and weight.from_top < self.count)
        )
