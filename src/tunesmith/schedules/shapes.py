from __future__ import annotations

import math

from ..settings import Positive, Share
from . import Schedule


class Constant(Schedule):
    """The highest rate throughout, after the warm-up.

    Source: Goyal et al. 2017, arXiv:1706.02677, sec. 2.2 (the warm-up).
    """

    def shape(self, t: float) -> float:
        return 1.0


class Linear(Schedule):
    """Down to a floor in a straight line.

    Source: Devlin et al. 2019, arXiv:1810.04805, appendix A.2.

    Settings:
        floor: share of the highest rate that is left at the end.
    """

    def __init__(self, *, floor: Share = 0.0):
        self.floor = floor

    def shape(self, t: float) -> float:
        return self.floor + (1 - self.floor) * (1 - t)


class Cosine(Schedule):
    """Down to a floor along half a cosine.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, with one cycle.

    Settings:
        floor: share of the highest rate that is left at the end.
    """

    def __init__(self, *, floor: Share = 0.0):
        self.floor = floor

    def shape(self, t: float) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * t)) / 2


class SlantedTriangular(Schedule):
    """A short rise from ``1/ratio`` and a long way back down to it (ULMFiT).

    Source: Howard and Ruder 2018, arXiv:1801.06146, eq. 3.

    Settings:
        warmup: share of the run over which the rate rises (the paper's ``cut_frac``).
        ratio: how much smaller the lowest rate is than the highest.
    """

    warmup: Share = 0.1

    def __init__(self, *, ratio: Positive = 32.0):
        self.ratio = ratio

    def __call__(self, progress: float) -> float:
        p = progress / self.warmup if progress < self.warmup else 1 - (progress - self.warmup) / (1 - self.warmup)
        return (1 + max(0.0, p) * (self.ratio - 1)) / self.ratio
