"""Cross-entropy over a large vocabulary without the logits of all places at one time.

A language model's logits, their probabilities and their gradient are each (places, vocabulary): more than the rest of a small
model together. Here the head is applied to a few places at a time, and the loss's gradient in what the head reads, and in the
head where it learns, is made at once; then what it said is let go of. Nothing is computed twice. The loss and its gradients are
the same, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..losses import Loss
from ..parts import part_name

if TYPE_CHECKING:
    from ..host import Host
    from .step import Step

CHUNK = 2**26
"""Bytes of logits of one chunk, in single precision: with a quarter of it a step on a CPU takes longer."""

LARGEST = CHUNK
"""Bytes of logits, in single precision, that are made whole."""

WRITES = ("causal-lm", "seq2seq-lm")
"""The heads whose logits go over a vocabulary."""


@dataclass
class Part:
    """Some of a step's places, as far as cross-entropy asks; it is a mean over the units of the whole step."""

    logits: Tensor
    targets: Tensor
    units: int


def fits(losses: Sequence[Loss], head: str) -> bool:
    """Whether what is asked is the cross-entropy of a language model's tokens, and nothing else."""
    return head in WRITES and len(losses) == 1 and part_name(type(losses[0]).__name__) == "cross_entropy"


def too_large(host: Host, places: int) -> bool:
    """Whether the logits at so many places are more than are made whole unasked."""
    return places * vocabulary(host) * 4 > LARGEST


def vocabulary(host: Host) -> int:
    """Number of logits at each place."""
    return int(host.model.get_output_embeddings().weight.shape[0])


@torch.no_grad()
def is_plain(step: Step) -> bool:
    """Whether the model's logits are what its head says, with nothing done to them afterwards (scaled, squashed)."""
    return _is_plain(step, *step.before_head())


def _is_plain(step: Step, read: Tensor, first: Tensor) -> bool:
    said: Tensor = step.host.model.get_output_embeddings()(read[:1])
    return torch.allclose(said.float(), first.float(), rtol=1e-3, atol=1e-5)


def mean_loss(step: Step, term: Loss) -> Tensor:
    """The value of cross-entropy ``term`` for a step, as ``term(step)`` gives it.

    Args:
        step: of a language model whose head `is_plain`.
        term: cross-entropy.
    """
    read, _ = step.before_head()
    head: Any = step.host.model.get_output_embeddings()
    bare = torch.is_grad_enabled() and _is_bare(head)
    # Hooks that watch all modules, as those of PyTorch's counter of operations, fail where gradients are made by the way.
    says = head.forward if bare else head

    def of(hidden: Tensor, targets: Tensor) -> Tensor:
        part: Any = Part(says(hidden), targets, step.units)
        return term(part)

    chunks = list(_chunks(len(read), vocabulary(step.host)))
    if bare:
        moving = [p for p in head.parameters() if p.requires_grad]
        made: Tensor = _WithGradients.apply(of, chunks, step.targets, read, *moving)
        return made
    total = read.new_zeros((), dtype=torch.float32)
    for chunk in chunks:
        if torch.is_grad_enabled():
            drawn = not isinstance(read, FakeTensor)  # random numbers have no state where nothing has a value
            value: Any = checkpoint(of, read[chunk], step.targets[chunk], use_reentrant=False, preserve_rng_state=drawn)
        else:
            value = of(read[chunk], step.targets[chunk])
        total = total + value
    return total


def _is_bare(head: Any) -> bool:
    """Whether a head is nothing but its own tensors: what acts on it by hooks (an adapter, FSDP) expects a backward pass."""
    plain = all(p.is_leaf and type(p.data) in (Tensor, FakeTensor) for p in head.parameters())
    return plain and not (head._forward_hooks or head._forward_pre_hooks)


class _WithGradients(torch.autograd.Function):
    """The sum of a loss over chunks of places; its gradients are made with it, chunk by chunk, and kept for the way back.

    ``of`` says the loss of hidden states (places, size) and targets (places,) of a chunk; ``read`` is (places, size) of all;
    ``moving`` are the head's tensors that learn. It can be differentiated once.

    Source: Hsu et al. 2024, Liger Kernel, arXiv:2410.10989 (fused linear cross-entropy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        of: Callable[[Tensor, Tensor], Tensor],
        chunks: Sequence[slice],
        targets: Tensor,
        read: Tensor,
        *moving: Tensor,
    ) -> Tensor:
        total = read.new_zeros((), dtype=torch.float32)
        below = ctx.needs_input_grad[3]
        ctx.read = torch.empty_like(read) if below else None
        ctx.moving = [torch.zeros_like(p) for p in moving]
        for chunk in chunks:
            with torch.enable_grad():
                hidden = read[chunk].detach().requires_grad_(below)
                value = of(hidden, targets[chunk])
            slopes = torch.autograd.grad(value, [*moving, *([hidden] if below else [])])
            for found, slope in zip(ctx.moving, slopes, strict=False):
                found.add_(slope)
            if below:
                ctx.read[chunk] = slopes[-1]
            total += value.detach()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        read, moving, ctx.read, ctx.moving = ctx.read, ctx.moving, None, None
        return None, None, None, read if read is None else read.mul_(slope), *(each.mul_(slope) for each in moving)


def token_losses(step: Step) -> Tensor:
    """The negative log-likelihood of each supervised token in single precision, (units,), without a gradient.

    Where a model does more with its logits than its head says, they are made whole after all.
    """
    read, first = step.before_head()
    if not isinstance(read, FakeTensor) and not _is_plain(step, read, first):
        return F.cross_entropy(step.logits.float(), step.targets, reduction="none")
    head: Any = step.host.model.get_output_embeddings()
    found = [
        F.cross_entropy(head(read[chunk]).float(), step.targets[chunk], reduction="none")
        for chunk in _chunks(len(read), vocabulary(step.host))
    ]
    return torch.cat(found)


def _chunks(places: int, vocabulary: int) -> Iterator[slice]:
    """At least one."""
    size = max(1, CHUNK // (4 * vocabulary))
    yield from (slice(start, start + size) for start in range(0, max(1, places), size))
