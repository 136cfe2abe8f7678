from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from ..settings import Count
from . import Loss, Replayable, Take
from ._directions import normals


class ForwardGradient(Replayable):
    """The exact slope along a random direction by forward-mode differentiation, times the direction.

    One pass of about twice the cost gives ``(g . z) z``, without the rounding of a finite difference and without a
    backward pass. The direction is held while the pass runs: twice the memory of the weights that train. Models with
    an operation that has no forward derivative are refused; attention is computed plainly. Needs a chain without a
    joint norm, such as ``[sgd]``.

    Source: Baydin et al. 2022, arXiv:2202.08587, algorithm 1; as in Zhang et al. 2024, arXiv:2402.11592.

    Settings:
        queries: directions that are averaged in each step; each costs a pass.
    """

    entries = "it needs a derivative by each whole tensor"

    def __init__(self, *, queries: Count = 1):
        self.queries = queries

    @torch.no_grad()
    def stream(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter], take: Take) -> Tensor:
        moving, seed = [p for p in parameters if p.requires_grad], torch.initial_seed()
        found = [_slope(losses, moving, seed, q) for q in range(self.queries)]
        self.scalars = tuple(float(slope) for _, slope in found)
        loss = torch.stack([loss for loss, _ in found]).mean()
        if all(slope.isfinite() for _, slope in found):
            self.replay(seed, self.scalars, moving, take)
        return loss

    @torch.no_grad()
    def replay(self, seed: int, scalars: Sequence[float], parameters: Sequence[nn.Parameter], take: Take) -> None:
        moving = [p for p in parameters if p.requires_grad]
        directions = zip(*(normals(moving, seed, q) for q in range(self.queries)), strict=True)
        for p, drawn in zip(moving, directions, strict=True):
            p.grad = torch.zeros_like(p)
            for slope, z in zip(scalars, drawn, strict=True):
                p.grad.add_(z, alpha=slope / self.queries)
            take(p)


def _slope(losses: Sequence[Loss], parameters: Sequence[nn.Parameter], seed: int, number: int) -> tuple[Tensor, Tensor]:
    """The loss of the step, and its derivative along a direction."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.manual_seed(torch.initial_seed())
    loss, slope = torch.zeros((), device=parameters[0].device), torch.zeros((), device=parameters[0].device)
    try:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            duals = {
                id(p): forward_ad.make_dual(p.detach(), z)
                for p, z in zip(parameters, normals(parameters, seed, number), strict=True)
            }
            for part in losses:
                with _Swapped(duals):
                    primal, tangent = forward_ad.unpack_dual(part())
                loss += primal
                slope += 0.0 if tangent is None else tangent
    except (NotImplementedError, RuntimeError) as error:
        if not isinstance(error, NotImplementedError) and "forward AD" not in str(error):
            raise
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"gradient forward_gradient cannot differentiate this model forwards ({reason})",
            fix="take gradient zeroth_order",
        ) from error
    return loss, slope


class _Swapped(TorchFunctionMode):
    """Inside this block every operation sees dual numbers in place of the parameters."""

    def __init__(self, duals: dict[int, Tensor]):
        super().__init__()
        self.duals = duals

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*(self._swap(a) for a in args), **{k: self._swap(v) for k, v in (kwargs or {}).items()})

    def _swap(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(v, nn.Parameter) for v in value):
            return type(value)(self._swap(v) for v in value)
        return self.duals.get(id(value), value) if isinstance(value, Tensor) else value
