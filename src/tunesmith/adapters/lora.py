from __future__ import annotations

from ._low_rank import LowRank


class LoRA(LowRank):
    """Add a low-rank matrix: ``y + alpha/rank * B A x``.

    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
    """

    rate = 1e-3
