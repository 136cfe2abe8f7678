"""Rows packed end to end while they are inside the trunk, so that no time goes into padding.

The trunk gets all tokens of a batch as one sequence, and positions that begin again with each row; what comes out is put
back to (rows, length, size). So heads, pooling, losses and virtual tokens see what they always see. Every layer but the
attention looks at one token at a time; the attention takes the sequence apart into blocks of rows of like length, and each
block gets the mask that the model makes for it alone: no token ever sees another row's, whatever the mask (causal, sliding,
both ways). It needs a model that computes attention through transformers' interface and takes positions as an input;
`check` in `tunesmith.engine.packed` holds the two ways against each other before a run begins.

A mask function and an attention function are registered with transformers (`tunesmith.models.attention`). The mask that
they hand each other through the layers is an empty tensor that carries the blocks: so a layer that is computed again for
its gradient finds the same ones.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .anatomy import Site

NEAR = 0.75
"""Rows go into one block with the longest of it down to this share of its length: a few blocks, and little padding in each."""

Inner = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""Attention of padded rows: queries, keys and values (rows, heads, length, size), a mask -> (rows, length, heads, size)."""


@dataclass(frozen=True)
class Block:
    """Rows of like length.

    Attributes:
        rows: how many.
        length: of the longest.
        tokens: their tokens in the packed sequence, row by row, shape (n,).
        places: where these stand in the block's padded rows, laid end to end, shape (n,).
        first: the first of these tokens where they follow one another, else None.
    """

    rows: int
    length: int
    tokens: Tensor
    places: Tensor
    first: int | None

    @property
    def full(self) -> bool:
        """Whether all its rows have the same length."""
        return len(self.tokens) == self.rows * self.length

    def padded(self, x: Tensor) -> Tensor:
        """Its rows out of a packed (1, heads, tokens, size): (rows, heads, length, size), 0 at padding."""
        laid = x[0].transpose(0, 1)
        count = len(self.tokens)
        picked = laid.index_select(0, self.tokens) if self.first is None else laid.narrow(0, self.first, count)
        if not self.full:
            empty = picked.new_zeros(self.rows * self.length, *picked.shape[1:])
            picked = empty.index_copy(0, self.places, picked)
        return picked.unflatten(0, (self.rows, self.length)).transpose(1, 2)


class Packing:
    """How the rows of one batch lie end to end.

    Args:
        lengths: tokens of each row.
        width: places of the padded batch.
        device: where the batch is.
    """

    def __init__(self, lengths: Sequence[int], width: int, device: torch.device):
        self.lengths, self.width = list(lengths), width
        self.starts = [0]
        for length in self.lengths:
            self.starts.append(self.starts[-1] + length)
        self.places = _joined([(r * width, n) for r, n in enumerate(self.lengths)], device)
        groups = _alike(self.lengths)
        self.blocks = [self._block(rows, device) for rows in groups]
        order = [row for rows in groups for row in rows]
        self.ordered = order == list(range(len(order)))

    def _block(self, rows: list[int], device: torch.device) -> Block:
        length = self.lengths[rows[0]]
        tokens = _joined([(self.starts[r], self.lengths[r]) for r in rows], device)
        places = _joined([(i * length, self.lengths[r]) for i, r in enumerate(rows)], device)
        following = rows == list(range(rows[0], rows[0] + len(rows)))
        return Block(len(rows), length, tokens, places, self.starts[rows[0]] if following else None)

    @classmethod
    def of(cls, mask: Tensor) -> Packing | None:
        """The packing of a batch with this attention mask, (rows, length); None where no row is padded on the right only."""
        known = _TOLD.get()
        if known is not None and len(known[0]) == len(mask):
            lengths = [n + mask.shape[1] - known[1] for n in known[0]]
        else:
            counts = mask.bool().sum(1)
            places = torch.arange(mask.shape[1], device=mask.device)
            if not bool(((places < counts[:, None]) == mask.bool()).all()):
                return None
            lengths = counts.tolist()
        return cls(lengths, mask.shape[1], mask.device) if sum(lengths) < mask.numel() else None

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.starts[-1]

    def pack(self, x: Tensor) -> Tensor:
        """(rows, length, ...) -> (1, tokens, ...)."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def spread(self, x: Tensor) -> Tensor:
        """(1, tokens, ...) -> (rows, length, ...), 0 at padding."""
        empty = x.new_zeros(len(self.lengths) * self.width, *x.shape[2:])
        return empty.index_copy(0, self.places, x[0]).unflatten(0, (len(self.lengths), self.width))

    def carrier(
        self, make: Callable[..., Tensor | None], mask_function: Callable[..., Any], named: dict[str, Any]
    ) -> Tensor:
        """What the layers pass on to the attention in the place of a mask.

        Args:
            make: makes a mask (rows, 1, length, length), or None where there is nothing to hide.
            mask_function: says which token sees which, by places within a row.
            named: what else ``make`` takes.
        """
        device = self.places.device
        causal = named.get("allow_is_causal_skip", True)  # what comes later is hidden then, and so is the padding
        masks = []
        for block in self.blocks:
            sizes = {"batch_size": block.rows, "q_length": block.length, "kv_length": block.length}
            filled = None if causal or block.full else _filled(block)
            options = {**named, **sizes, "q_offset": 0, "kv_offset": 0, "attention_mask": filled, "device": device}
            masks.append(make(mask_function=mask_function, **options))
        made: Any = torch.empty(0, dtype=torch.bool, device=device)
        made.packed = (self, masks)
        return made


def _filled(block: Block) -> Tensor:
    """Which places of a block's padded rows hold a token, bool of shape (rows, length)."""
    empty = torch.zeros(block.rows * block.length, dtype=torch.bool, device=block.places.device)
    return empty.index_fill(0, block.places, True).unflatten(0, (block.rows, block.length))


def _joined(pieces: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Runs of numbers, (first, how many) each, one after the other."""
    runs = [torch.arange(first, first + count) for first, count in pieces]
    return (torch.cat(runs) if runs else torch.zeros(0, dtype=torch.long)).to(device)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows grouped by length, the longest first; rows without a token are in no group.

    >>> _alike([4, 100, 0, 90, 5])
    [[1, 3], [4, 0]]
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if not lengths[row]:
            continue
        if groups and lengths[row] >= NEAR * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


# ---------------------------------------------------------------------- while the trunk runs

_CURRENT: ContextVar[Packing | None] = ContextVar("packing", default=None)
_TOLD: ContextVar[tuple[list[int], int] | None] = ContextVar("lengths", default=None)


def current() -> Packing | None:
    """How the batch that is inside a trunk at the moment is packed; None where it is not."""
    return _CURRENT.get()


def spread(x: Tensor) -> Tensor:
    """What a layer inside the trunk gives, as (rows, length, size) whether the batch is packed or not."""
    packing = current()
    return x if packing is None else packing.spread(x)


@contextlib.contextmanager
def told(lengths: Sequence[int], width: int) -> Iterator[None]:
    """Inside this block batches of as many rows have these lengths: for masks that have shapes and no values."""
    token = _TOLD.set((list(lengths), width))
    try:
        yield
    finally:
        _TOLD.reset(token)


def blocks_of(mask: Any) -> tuple[Packing, list[Tensor | None]] | None:
    """The packing and the mask of each of its blocks that a mask carries; None for an ordinary mask."""
    found: tuple[Packing, list[Tensor | None]] | None = getattr(mask, "packed", None)
    return found


def attend(
    packing: Packing, masks: Sequence[Tensor | None], query: Tensor, key: Tensor, value: Tensor, inner: Inner
) -> Tensor:
    """Attention within each row of a packed sequence.

    Args:
        packing: how the rows lie.
        masks: of each block.
        query, key, value: (1, heads, tokens, size); keys and values may have fewer heads.
        inner: attention of padded rows.

    Returns:
        (1, tokens, heads, size).
    """
    found = []
    for block, mask in zip(packing.blocks, masks, strict=True):
        said = inner(block.padded(query), block.padded(key), block.padded(value), mask).flatten(0, 1)
        found.append(said if block.full else said.index_select(0, block.places))
    joined = torch.cat(found)
    if not packing.ordered:
        places = torch.cat([block.tokens for block in packing.blocks])
        joined = torch.zeros_like(joined).index_copy(0, places, joined)
    return joined[None]


class Packer:
    """Packs every batch that a model's trunk reads without a cache, and spreads what comes out.

    Args:
        model: a Hugging Face model.
        site: the input of its trunk (`tunesmith.models.places`).

    Raises:
        InputError: the trunk takes no positions, or computes attention in a way of its own.
    """

    def __init__(self, model: Any, site: Site | None):
        from .attention import switch

        self.config: Any = model.config
        if site is None or getattr(self.config, "is_encoder_decoder", False):
            raise InputError(f"packing does not fit {type(model).__name__}", expected="a model of one stack",
                             fix="leave packing out")  # fmt: skip
        self.on, self._filling = True, False
        self.trunk, self.table = site.module, site.parts["embedding"].module
        self.signature = inspect.signature(self.trunk.forward)
        if missing := {"position_ids", "inputs_embeds", "attention_mask"} - self.signature.parameters.keys():
            raise InputError(f"{type(self.trunk).__name__} takes no {sorted(missing)[0]}", where="packing",
                             fix="leave packing out")  # fmt: skip
        switch(model, "cannot pack rows", "leave packing out")
        modules = self.trunk.modules()
        self._numbered: Any = next((m for m in modules if hasattr(m, "create_position_ids_from_input_ids")), None)
        self._token: Any = None
        self.trunk.register_forward_pre_hook(self._enter, with_kwargs=True)
        self.trunk.register_forward_hook(self._leave, prepend=True, always_call=True)
        if (pooler := getattr(self.trunk, "pooler", None)) is not None:
            pooler.register_forward_pre_hook(lambda m, a: (spread(a[0]), *a[1:]), prepend=True)

    @property
    def ready(self) -> bool:
        """Whether batches are packed: nobody has switched that off, or the model's attention to another implementation."""
        from .attention import NAME

        return self.on and self.config._attn_implementation == NAME

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside this block batches are read with their padding."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def fill(self, ids: Tensor, mask: Tensor) -> Any:
        """The keys and values of prompts, computed without padding, in a cache that is padded on the left.

        Args:
            ids: prompts padded on the right, (rows, length); one may be empty.
            mask: 1 at their tokens.

        Source: prepacking, Zhao et al. 2024, arXiv:2404.09529; here prompts lie in one sequence instead of several bins.
        """
        from transformers import DynamicCache

        cache, packing = DynamicCache(), Packing(mask.sum(1).tolist(), mask.shape[1], mask.device)
        self._filling = True
        try:
            self._run(ids, packing, cache)
        finally:
            self._filling = False
        shift = [packing.width - n for n in packing.lengths]
        places = _joined([(r * packing.width + s, n) for r, (s, n) in enumerate(zip(shift, packing.lengths, strict=True))],
                         mask.device)  # fmt: skip
        for layer in cache.layers:
            layer.keys, layer.values = (_moved(t, places, packing) for t in (layer.keys, layer.values))
        return cache

    def _run(self, ids: Tensor, packing: Packing, cache: Any) -> None:
        embeddings = self.table(ids)
        given = {"past_key_values": cache, "use_cache": True}
        token = _CURRENT.set(packing)
        try:
            self.trunk(**given, **self._packed(ids, embeddings, packing, {}))
        finally:
            _CURRENT.reset(token)

    # ------------------------------------------------------------------ hooks

    def _enter(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self.ready or self._filling:
            return None
        given = self.signature.bind_partial(*inputs, **named).arguments
        given |= given.pop("kwargs", {})
        mask = given.get("attention_mask")
        if given.get("past_key_values") is not None or not isinstance(mask, Tensor) or mask.ndim != 2:
            return None
        packing = Packing.of(mask)
        if packing is None:
            return None
        ids = given.pop("input_ids", None)
        embeddings = given["inputs_embeds"] if ids is None else self.table(ids)
        changed = self._packed(ids, embeddings, packing, given)
        if "use_cache" in self.signature.parameters:
            changed["use_cache"] = False
        self._token = _CURRENT.set(packing)
        return (), given | changed

    def _packed(
        self, ids: Tensor | None, embeddings: Tensor, packing: Packing, given: dict[str, Any]
    ) -> dict[str, Any]:
        """The trunk's inputs as one sequence; a mask of ones keeps transformers from looking for packed rows itself."""
        positions = given.get("position_ids")
        if positions is None:
            positions = self._positions(ids, embeddings)
        changed = {
            "inputs_embeds": packing.pack(embeddings),
            "position_ids": packing.pack(positions.expand(len(embeddings), -1)),
            "attention_mask": torch.ones(1, packing.tokens, dtype=torch.long, device=embeddings.device),
        }
        if given.get("token_type_ids") is not None:
            changed["token_type_ids"] = packing.pack(given["token_type_ids"])
        return changed

    def _positions(self, ids: Tensor | None, embeddings: Tensor) -> Tensor:
        """The positions that the trunk would count by itself."""
        if self._numbered is not None and ids is not None:
            made: Tensor = self._numbered.create_position_ids_from_input_ids(ids, self._numbered.padding_idx)
            return made
        first = 0 if self._numbered is None else self._numbered.padding_idx + 1
        return torch.arange(first, first + embeddings.shape[1], device=embeddings.device)[None]

    def _leave(self, module: Any, inputs: Any, output: Any) -> Any:
        packing, token = current(), self._token
        if token is None or packing is None:
            return None
        self._token = None
        _CURRENT.reset(token)
        if output is None:  # the pass has failed
            return None
        if isinstance(output, tuple):
            return (packing.spread(output[0]), *output[1:])
        output["last_hidden_state"] = packing.spread(output["last_hidden_state"])
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(packing.spread(h) for h in output["hidden_states"])
        return output


def _moved(x: Tensor, places: Tensor, packing: Packing) -> Tensor:
    """Keys or values (1, heads, tokens, size) at these places of padded rows: (rows, heads, width, size)."""
    tokens = x[0].transpose(0, 1)
    empty = tokens.new_zeros(len(packing.lengths) * packing.width, *tokens.shape[1:])
    rows = empty.index_copy(0, places, tokens).unflatten(0, (len(packing.lengths), packing.width))
    return rows.transpose(1, 2).contiguous()
