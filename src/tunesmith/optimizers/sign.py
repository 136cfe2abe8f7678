from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import Transform


class Sign(Transform):
    """The sign of each entry of the gradients in place of its value.

    Source: Bernstein et al. 2018, arXiv:1802.04434, algorithm 1; with gradient ``zeroth_order`` the sign variant of Zhang et
    al. 2024, arXiv:2402.11592.
    """

    each = True

    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        torch._foreach_sign_([p.grad for p in parameters if p.grad is not None])
        return {}
