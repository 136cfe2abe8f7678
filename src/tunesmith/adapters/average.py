from __future__ import annotations

from torch import Tensor

from ..errors import InputError
from ..models.anatomy import Site
from ._composition import Composition


class Average(Composition):
    """Average what the adapters of each site give: ``sum_i w_i f_i(x, y)`` with weights that add up to one.

    Source: Chronopoulou et al. 2023, arXiv:2302.07027 (there of weights); as a block of outputs: Poth et al. 2023,
    arXiv:2311.11077, sec. 4.

    Settings:
        weights: weight of each adapter, in the order in which they were attached; none means equal ones.
    """

    def __init__(self, site: Site, *, weights: list[float] = []):  # noqa: B006
        super().__init__(site)
        if weights and sum(weights) == 0:
            raise InputError(f"average's weights {weights} add up to zero", expected="positive weights")
        self.weights = [w / sum(weights) for w in weights]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        weights = self.weights or [1 / len(self.members)] * len(self.members)
        if len(weights) != len(self.members):
            raise InputError(
                f"average has {len(weights)} weights for {len(self.members)} adapters at {self.site.name}",
                expected="one weight for each adapter",
            )
        total = y
        for weight, output in zip(weights, self.outputs(x, y), strict=True):
            total = total + weight * (output - y)
        return total
