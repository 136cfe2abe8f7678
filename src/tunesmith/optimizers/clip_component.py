from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor, nn

from ..settings import Positive
from . import Components, Transform


class ClipComponent(Transform):
    """Scale the gradients of each component down by themselves, so that no component's spike slows the others.

    A component is all tensors of one role (the query matrices of all layers, their biases, the head, the embeddings);
    the tensors of an adapter by role of site and name.

    Source: Yang and Ma 2022, arXiv:2210.10325.

    Settings:
        limit: highest joint L2 norm of a component.
    """

    def __init__(self, *, limit: Positive = 1.0):
        self.limit = limit
        self.components: Components = {}

    def begin(self, components: Components) -> None:
        self.components = components

    def __call__(self, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor | float]:
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        for p in parameters:
            if p.grad is not None:
                groups[self.components.get(p, "")].append(p)
        norms = [nn.utils.clip_grad_norm_(group, self.limit) for group in groups.values()]
        return {
            "gradient_norm": sum(float(n) ** 2 for n in norms) ** 0.5,
            "clipped_components": sum(float(n) > self.limit for n in norms),
        }
