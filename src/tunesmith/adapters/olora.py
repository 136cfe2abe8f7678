from __future__ import annotations

import torch

from ._low_rank import Anchored, dense


class OLoRA(Anchored):
    """LoRA that starts from the first columns of the weight's QR decomposition: an orthonormal ``B``.

    Source: Büyükakyüz 2024, arXiv:2406.01775, algorithm 1.
    """

    rate = 1e-3

    def begin(self) -> None:
        Q, R = torch.linalg.qr(dense(self.site))
        self.start_from(R[: len(self.A)], Q[:, : len(self.A)])
