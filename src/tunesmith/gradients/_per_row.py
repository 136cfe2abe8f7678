"""What each row's gradient is made of, from one forward and one backward pass over all rows.

A linear layer's gradient for a row is a sum of outer products of what went in and the gradient of what came out, so its
norm follows without the gradient itself. Everything else, adapters above all, is run again for each row by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


@dataclass
class Outer:
    """A matrix's gradient as a sum over places: row by row ``sum_s u_s v_s^T``.

    Attributes:
        parameter: the matrix, (first, second); a bias is one with a single row.
        u: (rows, places, first), or ids (rows, places) that stand for one-hot vectors.
        v: (rows, places, second).
    """

    parameter: nn.Parameter
    u: Tensor
    v: Tensor

    def dense(self) -> Tensor:
        """Each row's gradient, (rows, first, second)."""
        if self.u.is_floating_point():
            return torch.einsum("nsa,nsb->nab", self.u, self.v)
        made = self.v.new_zeros(len(self.u), *self.parameter.shape)
        rows = torch.arange(len(self.u), device=self.u.device)[:, None].expand_as(self.u)
        return made.index_put_((rows, self.u), self.v, accumulate=True)

    def inner(self, other: Outer) -> Tensor:
        """Each row's inner product with another gradient of the same matrix, (rows,)."""
        places = self.u.shape[1]
        if other is self and self.u.is_floating_point() and 2 * places**2 > self.parameter.numel():
            return self.dense().square().sum((1, 2))
        return (_gram(self.u, other.u) * _gram(self.v, other.v)).sum((1, 2))

    def weighted(self, factors: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The sum of the rows' gradients, each with its factor."""
        v = (self.v * factors[:, None, None]).flatten(0, 1)
        if self.u.is_floating_point():
            yield self.parameter, (self.u.flatten(0, 1).T @ v).view_as(self.parameter)
        else:
            yield self.parameter, torch.zeros_like(self.parameter, dtype=v.dtype).index_add_(0, self.u.flatten(), v)


@dataclass
class Again:
    """A module that is run again, for its tensors' gradients.

    Attributes:
        module: the module.
        parameters: those of the tensors that it may use that train.
        inputs: what went in, each with the rows first.
        grad: the gradient of what came out.
        autocast: device, dtype and whether it was on.
    """

    module: nn.Module
    parameters: list[nn.Parameter]
    inputs: tuple[Any, ...]
    grad: Tensor
    autocast: tuple[str, torch.dtype, bool]

    def _run(self, rows: slice, grad: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype, on = self.autocast
        with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=on):
            out = self.module.forward(*(x[rows] if isinstance(x, Tensor) else x for x in self.inputs))
        return torch.autograd.grad(out, self.parameters, grad[rows].to(out.dtype), allow_unused=True)

    def dense(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter that was used, with each row's gradient: (rows, ...)."""
        each = [self._run(slice(i, i + 1), self.grad) for i in range(len(self.grad))]
        for p, grads in zip(self.parameters, zip(*each, strict=True), strict=True):
            if grads[0] is not None:
                yield p, torch.stack([g for g in grads if g is not None])

    def weighted(self, factors: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """See `Outer.weighted`."""
        scaled = self.grad * factors.view(-1, *[1] * (self.grad.ndim - 1)).to(self.grad.dtype)
        found = zip(self.parameters, self._run(slice(None), scaled), strict=True)
        yield from ((p, g) for p, g in found if g is not None)


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of all pairs of places, (rows, places of a, places of b)."""
    if a.is_floating_point() and b.is_floating_point():
        return a @ b.mT
    if not a.is_floating_point() and not b.is_floating_point():
        return (a[:, :, None] == b[:, None, :]).float()
    if a.is_floating_point():
        return _gram(b, a).mT
    return b.mT.gather(1, a[:, :, None].expand(-1, -1, b.shape[1]))


def norms(calls: Sequence[Outer | Again]) -> Tensor:
    """The joint L2 norm of each row's gradient, (rows,)."""
    outer: dict[nn.Parameter, list[Outer]] = defaultdict(list)
    dense: dict[nn.Parameter, Tensor] = {}
    for call in calls:
        if isinstance(call, Outer):
            outer[call.parameter].append(call)
            continue
        for p, rows in call.dense():
            dense[p] = dense[p] + rows if p in dense else rows
    squares = []
    for p, products in outer.items():
        if p in dense:
            dense[p] = dense[p] + sum(o.dense() for o in products)
        else:
            squares += [a.inner(b) for a in products for b in products]
    squares += [rows.flatten(1).square().sum(1) for rows in dense.values()]
    return torch.stack([s.float() for s in squares]).sum(0).clamp(min=0).sqrt()


@dataclass
class _Seen:
    """A call of a module: which of its tensors train, what went in and came out, whose the places are where it is flat."""

    module: nn.Module
    mine: list[nn.Parameter]
    inputs: tuple[Any, ...]
    output: Tensor
    owners: Tensor | None
    autocast: tuple[str, torch.dtype, bool]


class Recorder:
    """Follows every module that owns something that trains, while a loss is computed.

    Args:
        model: the model with its ``adapters`` (a host); an adapter is one unit, with what it shares.
        parameters: what trains.
    """

    def __init__(self, model: Any, parameters: Iterable[nn.Parameter]):
        self.model, self.rows, self.on = model, 0, False
        self.names = {p: n for n, p in model.named_parameters()}
        self._trained = set(parameters)
        self._seen: list[_Seen] = []
        model.register_forward_pre_hook(self._enter, with_kwargs=True)
        units = {a: [a, a.site.shared] for a in getattr(model, "adapters", {}).values()}
        inside = {m for a, more in units.items() for root in more if root is not None for m in root.modules()}
        for module in [*units, *(m for m in model.modules() if m not in inside)]:
            whole = [p for m in units.get(module, ()) if m is not None for p in m.parameters()]
            mine = [p for p in whole or module._parameters.values() if p in self._trained]
            if mine:
                self._follow(module, mine)

    def _follow(self, module: nn.Module, mine: list[nn.Parameter]) -> None:
        if any(isinstance(m, nn.Dropout) and m.p for m in module.modules()):
            raise InputError("gradient private runs adapters again, and one has drop-out", fix="set its dropout to 0")
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(self._spread)
        # before any adapter of the site: the gradient has to be that of the module's own output
        module.register_forward_hook(lambda m, x, y: self._note(m, mine, x, y), prepend=True)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        self.rows = len(ids) if ids is not None else self.rows

    def _spread(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Positions come once for all rows; each row gets its own, so that their gradients stay apart."""
        ids = inputs[0]
        return (ids.expand(self.rows, *ids.shape[1:]),) if self.on and ids.ndim == 2 and len(ids) == 1 else None

    def _note(self, module: nn.Module, mine: list[nn.Parameter], inputs: tuple[Any, ...], output: Any) -> None:
        if not self.on or not isinstance(output, Tensor) or not output.requires_grad:
            return
        device = output.device.type
        state = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        kept = tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)
        self._seen.append(_Seen(module, mine, kept, output, getattr(self.model, "head_rows", None), state))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside this block the modules' calls are kept."""
        self.on, self._seen = True, []
        try:
            yield
        finally:
            self.on = False

    def calls(self, loss: Tensor, *, check: bool) -> list[Outer | Again]:
        """What the gradients of a recorded loss, the sum of the rows' losses, are made of.

        Args:
            loss: the loss that was computed while recording.
            check: compare the sum over the rows with the ordinary gradient.

        Raises:
            InputError: a tensor's gradient cannot be told apart by rows.
        """
        outputs, trained = [s.output for s in self._seen], list(self._trained) if check else []
        grads = torch.autograd.grad(loss, [*outputs, *trained], allow_unused=True)
        seen, self._seen = self._seen, []
        made = [c for s, g in zip(seen, grads, strict=False) if g is not None for c in self._of(s, g)]
        if check:
            self._compare(made, dict(zip(trained, grads[len(outputs) :], strict=True)))
        return made

    def _of(self, seen: _Seen, grad: Tensor) -> Iterator[Outer | Again]:
        """The gradients of one call's tensors from that of what came out."""
        x, kind, mine = seen.inputs[0], type(seen.module).__name__, seen.mine
        if kind in ("Linear", "Conv1D") and seen.owners is not None and len(seen.owners) == len(x) and x.ndim == 2:
            x, grad = _by_row(x, seen.owners, self.rows), _by_row(grad, seen.owners, self.rows)
        if len(x) != self.rows or len(grad) != self.rows:
            raise self._mixed(mine[0])
        if kind not in ("Linear", "Conv1D", "Embedding"):
            yield Again(seen.module, mine, seen.inputs, grad, seen.autocast)
            return
        grad = grad.reshape(self.rows, -1, grad.shape[-1]).float()
        for p in mine:
            if p is not getattr(seen.module, "weight", None):
                yield Outer(p, torch.ones_like(grad[..., :1]), grad)  # a bias: a matrix of one row
            elif kind == "Embedding":
                ids = x.reshape(self.rows, -1)
                padding: Any = seen.module.padding_idx
                yield Outer(p, ids, grad if padding is None else grad * (ids != padding)[..., None])
            else:
                a = x.reshape(self.rows, -1, x.shape[-1]).float()
                yield Outer(p, a, grad) if kind == "Conv1D" else Outer(p, grad, a)

    def _compare(self, calls: Sequence[Outer | Again], expected: dict[nn.Parameter, Tensor | None]) -> None:
        """A gradient that goes past the modules that are followed would not be clipped."""
        found: dict[nn.Parameter, Tensor] = {}
        ones = torch.ones(self.rows, device=next(iter(expected)).device)
        for call in calls:
            for p, g in call.weighted(ones):
                found[p] = found[p] + g if p in found else g
        wanted = {p: g for p, g in expected.items() if g is not None}
        largest = max(float(g.abs().max()) for g in wanted.values())
        for p, want in wanted.items():
            far = (found[p] - want).abs().max() if p in found else want.abs().max()
            if far > 0.02 * want.abs().max() + 1e-5 * largest:  # a key's bias has no gradient but rounding
                raise self._mixed(p)

    def _mixed(self, parameter: nn.Parameter) -> InputError:
        return InputError(
            f"gradient private cannot tell apart each row's gradient of {self.names.get(parameter, 'a tensor')}",
            fix="train other weights, for example by an adapter on linear layers",
        )


def _by_row(places: Tensor, owners: Tensor, rows: int) -> Tensor:
    """Places in the order of their rows, (places, size), as (rows, most places of a row, size); zero beyond."""
    counts = torch.bincount(owners, minlength=rows)
    within = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    made = places.new_zeros(rows, int(counts.max()), places.shape[-1])
    made[owners, within] = places
    return made
