from __future__ import annotations

import math
from typing import ClassVar

from ..models.anatomy import Weight
from ..settings import Count, Share
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

    rate: ClassVar[float] = 2.5e-2

    def trains(self, weight: Weight) -> bool:
        return weight.role == "head" or weight.tied


class TopLayers(Mask):
    """The last layers and the head move; what lies below stays frozen.

    Source: Howard and Ruder 2018, arXiv:1801.06146, sec. 2.3 ("last"); Lee, Tang and Lin 2019, arXiv:1911.03090.

    Settings:
        count: number of layers that train, from the top; in each stack where the model has two.
    """

    rate: ClassVar[float] = 5e-4

    def __init__(self, *, count: Count = 2):
        self.count = count

    def trains(self, weight: Weight) -> bool:
        return (
            weight.tied
            or weight.role in ("head", "pooler")
            or (weight.from_top is not None and weight.from_top < self.count)
        )


class Elsa(Mask):
    """The last quarter of the layers moves, with the head: the cheap default that keeps nine tenths of full tuning.

    Source: Lee, Tang and Lin 2019, arXiv:1911.03090, sec. 4 (What would Elsa do?).

    Settings:
        share: share of the layers that train, from the top and rounded up; in each stack where the model has two.
    """

    rate: ClassVar[float] = 5e-4

    def __init__(self, *, share: Share = 0.25):
        self.share = share

    def trains(self, weight: Weight) -> bool:
        above = weight.role in ("head", "pooler") or weight.tied
        return above or (weight.from_top is not None and weight.from_top < math.ceil(self.share * weight.layers))
