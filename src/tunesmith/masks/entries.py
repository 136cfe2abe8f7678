from __future__ import annotations

from typing import ClassVar, Literal

from ..settings import Count, Roles, Share
from . import EntryMask


class Entries(EntryMask):
    """Some entries of the weights move, those of the highest score: the whole space of fixed hard masks.

    Source: Fu et al. 2022, arXiv:2211.15583, sec. 2 (one view of the sparse ways to tune: by chance, by rule, by score).

    Settings:
        score: what makes an entry worth moving. ``fisher``, ``gradient``, ``saliency`` and ``movement`` are read from
            gradients; ``magnitude``, ``smallest`` and ``random`` need none.
        density: share of the entries that move.
        roles: roles of the modules whose weights are looked at; ``*`` takes all, ``linear`` the layers' matrices.
        scope: what competes: the entries of a tensor, of a layer, or of the whole model.
        unit: whether single entries are taken, or whole rows (neurons).
        samples: training rows whose gradients are read.
    """

    rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        *,
        score: Literal["fisher", "gradient", "saliency", "movement", "magnitude", "smallest", "random"] = "fisher",
        density: Share = 0.01,
        roles: Roles = ["*"],  # noqa: B006
        scope: Literal["tensor", "layer", "model"] = "model",
        unit: Literal["entry", "row"] = "entry",
        samples: Count = 128,
    ):
        super().__init__(score=score, density=density, roles=roles, scope=scope, unit=unit, samples=samples)


class FISH(EntryMask):
    """The entries of largest empirical Fisher information move: the mean square of the gradient of one row's loss.

    Source: Sung, Nair and Raffel 2021, arXiv:2111.09839, eq. 4 and 6.

    Settings:
        density: share of the model's entries that move.
        samples: training rows that the information is estimated from.
    """

    rate: ClassVar[float] = 1e-3

    def __init__(self, *, density: Share = 0.005, samples: Count = 128):
        super().__init__(score="fisher", density=density, scope="model", samples=samples)


class FisherNorms(EntryMask):
    """The entries of the norms with the largest Fisher information move, a fifth of a layer norm being enough.

    Source: ValizadehAslani and Liang 2024, arXiv:2403.20284, sec. 3.3.

    Settings:
        density: share of the norms' gains and biases that move.
        samples: training rows that the information is estimated from.
    """

    rate: ClassVar[float] = 1e-2

    def __init__(self, *, density: Share = 0.2, samples: Count = 128):
        super().__init__(score="fisher", density=density, roles=["norm"], scope="model", samples=samples)


class MagnitudeEntries(EntryMask):
    """The entries of largest magnitude in each tensor move.

    Source: Han et al. 2015, arXiv:1506.02626, sec. 3 (magnitude as the measure of what a connection is worth).

    Settings:
        density: share of each tensor that moves.
    """

    rate: ClassVar[float] = 5e-3

    def __init__(self, *, density: Share = 0.01):
        super().__init__(score="magnitude", density=density)


class RandomEntries(EntryMask):
    """Entries drawn by the run's seed move, the same share of each tensor: what every other choice has to beat.

    Source: Xu and Zhang 2024, arXiv:2405.02596 (random masking, with rates up to 1e-1 the sparser it is).

    Settings:
        density: share of each tensor that moves.
    """

    rate: ClassVar[float] = 5e-3

    def __init__(self, *, density: Share = 0.01):
        super().__init__(score="random", density=density)


class MovementEntries(EntryMask):
    """The entries that the loss pushes away from zero move: the score is the sum of ``-weight x gradient``.

    Source: Sanh, Wolf and Rush 2020, arXiv:2005.07683, eq. 4. Read from the base's gradients before training, where
    the paper adds it up while it trains.

    Settings:
        density: share of each tensor that moves.
        samples: training rows whose gradients are added up.
    """

    rate: ClassVar[float] = 2.2e-3

    def __init__(self, *, density: Share = 0.01, samples: Count = 256):
        super().__init__(score="movement", density=density, samples=samples)
