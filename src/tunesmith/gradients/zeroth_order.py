from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..settings import Count, Positive
from . import Loss, Plan, Replayable, Take
from ._directions import normals, shift, shifted, split, value


class ZerothOrder(Replayable):
    """The loss at weights moved along random directions, in place of backpropagation: memory of inference.

    The estimate is ``(L(w + eps z) - L(w - eps z)) / (2 eps) * z`` with ``z`` standard normal, or with one side
    ``(L(w + eps z) - L(w)) / eps * z``. Each ``z`` is drawn again from the step's seed and never kept, one tensor at a
    time. Entries that a mask leaves out are not moved, so the sparse variant is any mask of entries; the sign variant
    is the transform ``sign``, momentum and Adam are optimizers. Needs a chain without a joint norm, such as ``[sgd]``.

    Source: Zhang et al. 2024, arXiv:2402.11592 (the variants); Malladi et al. 2023, arXiv:2305.17333, algorithm 1.

    Settings:
        eps: how far the weights are moved, in standard deviations of ``z``.
        queries: directions that are averaged in each step.
        sides: ``two`` compares both ways along a direction; ``one`` compares with the unmoved weights, and needs
            one pass a direction and one more a step.
        blocks: moves the tensors in so many consecutive groups, one group at a time; each costs the passes of its own.
        conservative: tries the step, the opposite step and none on the same rows and keeps the best of the three.
            Needs ``sgd`` without momentum and decay.
    """

    def __init__(
        self,
        *,
        eps: Positive = 1e-3,
        queries: Count = 1,
        sides: Literal["one", "two"] = "two",
        blocks: Count = 1,
        conservative: bool = False,
    ):
        self.eps, self.queries, self.sides = eps, queries, sides
        self.blocks, self.conservative = blocks, conservative

    def begin(self, model: nn.Module, plan: Plan) -> list[str]:
        if self.conservative and not plan.reversible:
            raise InputError(
                "a conservative step may be taken back, and this optimizer cannot", where="gradient.conservative",
                expected="optimizer: [{sgd: {momentum: 0, weight_decay: 0}}]",
            )  # fmt: skip
        return []

    @torch.no_grad()
    def stream(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter], take: Take) -> Tensor:
        groups, seed = self._groups(parameters), torch.initial_seed()
        unmoved = value(losses) if self.sides == "one" or self.conservative else None
        seen: list[Tensor] = []
        slopes: list[float] = []
        for number, group in self._numbered(groups):
            with shifted(group, seed, number, self.eps):
                seen.append(value(losses))
            if self.sides == "two":
                with shifted(group, seed, number, -self.eps):
                    seen.append(value(losses))
            ahead, behind = seen[-2:] if self.sides == "two" else (seen[-1], unmoved)
            apart = 2 * self.eps if self.sides == "two" else self.eps
            slopes.append((float(ahead) - float(behind)) / apart)  # type: ignore[arg-type]
        loss = torch.stack(seen).mean() if unmoved is None else unmoved
        self.scalars = tuple(slopes)
        if not all(math.isfinite(s) for s in slopes):
            return loss + math.nan
        self._move(groups, seed, slopes, take)
        if self.conservative and unmoved is not None:
            self.scalars += self._reconsider(losses, groups, seed, take, float(unmoved))
        return loss

    def _groups(self, parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
        return split([p for p in parameters if p.requires_grad], self.blocks)

    def _numbered(self, groups: list[list[nn.Parameter]]) -> list[tuple[int, list[nn.Parameter]]]:
        """Each direction's number and the group that it moves."""
        return [(b * self.queries + q, group) for b, group in enumerate(groups) for q in range(self.queries)]

    def _move(
        self, groups: list[list[nn.Parameter]], seed: int, slopes: Sequence[float], take: Take, factor: float = 1.0
    ) -> None:
        for b, group in enumerate(groups):
            numbers = range(b * self.queries, (b + 1) * self.queries)
            directions = zip(*(normals(group, seed, n) for n in numbers), strict=True)
            for p, drawn in zip(group, directions, strict=True):
                p.grad = drawn[0].mul_(factor * slopes[numbers[0]] / self.queries)
                for n, z in zip(numbers[1:], drawn[1:], strict=True):
                    p.grad.add_(z, alpha=factor * slopes[n] / self.queries)
                take(p)

    def _reconsider(
        self, losses: Sequence[Loss], groups: list[list[nn.Parameter]], seed: int, take: Take, unmoved: float
    ) -> tuple[float]:
        """After the step: look at the opposite one too and go to the best place; the last move as a factor."""
        slopes = self.scalars
        after = float(value(losses))
        self._move(groups, seed, slopes, take, -2.0)
        opposite = float(value(losses))
        best = min((after, 2.0), (unmoved, 1.0), (opposite, 0.0))[1]
        if best:
            self._move(groups, seed, slopes, take, best)
        return (best,)

    @torch.no_grad()
    def replay(self, seed: int, scalars: Sequence[float], parameters: Sequence[nn.Parameter], take: Take) -> None:
        groups = self._groups(parameters)
        for number, group in self._numbered(groups):
            sides = (1, -1, -1, 1) if self.sides == "two" else (1, -1)
            for side in sides:  # going there and back rounds, so it is done again
                shift(group, seed, number, side * self.eps)
        slopes = scalars[: len(scalars) - self.conservative]
        self._move(groups, seed, slopes, take)
        if self.conservative:
            self._move(groups, seed, slopes, take, -2.0)
            if scalars[-1]:
                self._move(groups, seed, slopes, take, scalars[-1])
