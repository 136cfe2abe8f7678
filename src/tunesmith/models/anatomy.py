"""The anatomy of a network: each of its sites and weights by role and by layer, for any Hugging Face model.

A technique asks for ``attention.query`` or for the norms of the upper half, and never for ``encoder.layer.3...``. Roles
are derived from the words that authors of models use for their modules; no model has a table of its own.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError, unknown
from . import places

_NAMES = {
    "attention.query": "q_proj query query_proj q q_lin wq q_attn",
    "attention.key": "k_proj key key_proj k k_lin wk",
    "attention.value": "v_proj value value_proj v v_lin wv",
    "attention.qkv": "c_attn wqkv query_key_value qkv_proj qkv in_proj",
    "attention.position": "pos_key_proj pos_query_proj pos_proj linear_pos",
    "attention.output": "o_proj out_proj out_lin o c_proj wo dense",
    "mlp.gate": "gate_proj wi_0 w1",
    "mlp.up": "up_proj fc1 lin1 c_fc wi wi_1 w3 fc_in dense_h_to_4h intermediate.dense",
    "mlp.gate_up": "gate_up_proj",
    "mlp.down": "down_proj fc2 lin2 c_proj wo w2 fc_out dense_4h_to_h output.dense",
}
_ROLE = {
    family: {name: role for role, names in _NAMES.items() if role.startswith(family) for name in names.split()}
    for family in ("attention", "mlp")
}
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_CROSS = re.compile(r"encdec|encoder_attn|cross", re.IGNORECASE)


@dataclass(frozen=True)
class Site:
    """A place where an adapter can act: a module, or the rows of a fused module that belong to one role.

    Attributes:
        name: path of the module in the model, with the role added where the module is fused.
        path: path of the module in the model.
        role: what it does, e.g. ``attention.query``, ``mlp.down``, ``norm``, ``embedding``, ``head``.
        layer: index of its layer from 0, or None outside the layers.
        stack: ``encoder`` or ``decoder``; empty for a model with one stack.
        inputs: size of the last dimension of what comes in (for an embedding: number of ids).
        outputs: size of the last dimension of what goes out.
        rows: the outputs of a fused module that belong to this site; None for all.
        shared: what the sites of one technique have in common (`Adapter.share`), or None.
        place: for a site that is more than one module its kind (`tunesmith.models.places`); empty for a leaf.
        partner: of such a site the other module: where a sub-layer begins, what reads an attention's text, a network's decoder.
        parts: of such a site the leaves it consists of, by role within it.
        heads: of such a site the number of attention heads (of queries).
        activation: of an MLP its nonlinearity, where the model has it as a part; else None.
    """

    name: str
    path: str
    role: str
    layer: int | None
    stack: str
    module: Any
    inputs: int
    outputs: int
    rows: slice | None = None
    shared: Any = None
    place: str = ""
    partner: Any = None
    parts: Mapping[str, Site] = field(default_factory=dict, compare=False, repr=False)
    heads: int = 1
    activation: Any = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """``linear`` has a weight for each pair of in- and outputs, ``embedding`` for each id, ``norm`` for each output;
        ``sublayer``, ``layer``, ``heads``, ``attention`` and ``input`` are more than a module."""
        if self.place:
            return self.place
        if isinstance(self.module, nn.Embedding):
            return "embedding"
        return "linear" if self.module.weight.ndim == 2 else "norm"

    @property
    def weight(self) -> Tensor:
        """The site's weight as (outputs, inputs), whatever its layout in the module; a view where possible."""
        weight = self.module.weight
        dense = weight.T if _transposed(self.module) else weight
        return dense if self.rows is None else dense[self.rows]

    @property
    def bias(self) -> Tensor | None:
        """The site's bias of shape (outputs,), or None."""
        bias = getattr(self.module, "bias", None)
        return bias if bias is None or self.rows is None else bias[self.rows]


@dataclass(frozen=True)
class Weight:
    """One of the model's own tensors: where it sits, whether it was newly made, and whether the head shares it.

    ``transposed`` says that it is kept as (inputs, outputs), as GPT-2 does.
    """

    name: str
    role: str
    layer: int | None
    stack: str
    layers: int
    is_bias: bool
    parameter: nn.Parameter
    fresh: bool = False
    tied: bool = False
    transposed: bool = False

    @property
    def from_top(self) -> int | None:
        """How many layers lie above its own: 0 in the top layer, None outside the layers."""
        return None if self.layer is None else self.layers - 1 - self.layer


class Anatomy:
    """The sites and weights of a model.

    Args:
        model: any Hugging Face model, with or without a head.
        fresh: names of tensors that were newly made for the task rather than pretrained.
    """

    def __init__(self, model: Any, fresh: Iterable[str] = ()):
        self.model = model
        self.fresh = frozenset(fresh)
        self.modules: dict[str, Any] = dict(model.named_modules())
        prefix = getattr(model, "base_model_prefix", "")
        self.trunk = prefix if prefix and prefix in self.modules else ""
        self._embeddings = _module_or_none(model, "get_input_embeddings")
        self._logits = _module_or_none(model, "get_output_embeddings")
        self._two_stacks = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))

    @cached_property
    def sites(self) -> list[Site]:
        """Every leaf module with a weight, in the order of the model, each fused one followed by its parts."""
        found: list[Site] = []
        for path, module in self.modules.items():
            if size := _size(module):
                whole = Site(path, path, self.role(path), self.layer(path), self.stack(path), module, *size)
                found.append(whole)
                found.extend(_fused(whole, getattr(self.model, "config", None)))
        return found

    @cached_property
    def places(self) -> list[Site]:
        """Every site that is more than one module (`tunesmith.models.places`)."""
        return places.find(self.model, self.sites, self.modules, self.trunk)

    @cached_property
    def weights(self) -> list[Weight]:
        """Every tensor of the model, a tied one once."""
        depth = {stack: self.layers(stack) for stack in ("", "encoder", "decoder")}
        head = getattr(self._logits, "weight", None)
        found = []
        for name, parameter in self.model.named_parameters():
            path, _, leaf = name.rpartition(".")
            stack = self.stack(path)
            found.append(
                Weight(
                    name, self.role(path), self.layer(path), stack, depth[stack],
                    leaf.endswith("bias"), parameter, name in self.fresh, parameter is head,
                    parameter.ndim == 2 and _transposed(self.modules[path]),
                )
            )  # fmt: skip
        return found

    def layers(self, stack: str = "") -> int:
        """Number of layers, of one stack where the model has two."""
        indices = [s.layer for s in self.sites if s.layer is not None and s.stack == stack]
        return max(indices, default=-1) + 1

    def role(self, path: str) -> str:
        """The role of the module at ``path``: what it does, in words that all models share."""
        module = self.modules[path]
        if module is self._embeddings:
            return "embedding"
        if module is self._logits or not self._in_trunk(path):
            return "head"
        if isinstance(module, nn.Embedding):
            if _ATTENTION.search(path):
                return "attention.position"
            return "embedding.position" if re.search(r"pos|wpe", path.lower()) else "embedding.other"
        if "norm" in type(module).__name__.lower():
            return "norm"
        if self.layer(path) is None:
            return _outside_layers(path)
        role = _inside_layer(path, module)
        down = self.modules.get(path.rpartition(".")[0] + ".Wo")
        if role == "mlp.up" and isinstance(down, nn.Linear) and isinstance(module, nn.Linear):
            return "mlp.gate_up" if module.out_features == 2 * down.in_features else role
        return role

    def layer(self, path: str) -> int | None:
        """Index of the layer that holds the module, from 0, or None."""
        match = re.search(r"\.(\d+)(?:\.|$)", path[len(self.trunk) :])
        return int(match[1]) if match and self._in_trunk(path) else None

    def stack(self, path: str) -> Literal["", "encoder", "decoder"]:
        """``encoder`` or ``decoder`` in a model that has both, else empty."""
        if not self._two_stacks:
            return ""
        return "decoder" if re.search(r"(^|\.)decoder(\.|$)", path) or not self._in_trunk(path) else "encoder"

    def select(self, roles: Sequence[str], layers: Sequence[int] | Literal["all"] = "all") -> list[Site]:
        """The sites with one of these roles in one of these layers.

        Args:
            roles: names or patterns (``attention.*``, ``cross_attention.value``); ``linear`` is every linear layer
                inside the layers, fused ones whole; the end of a module's path (``q_proj``) names it directly.
            layers: indices from 0, negative ones from the top; sites outside the layers are taken only by "all".

        Raises:
            InputError: a role or a layer that this model does not have, with those it has.
        """
        chosen: dict[str, Site] = {}
        for role in roles:
            matching = [s for s in self.sites if _matches(role, s)]
            matching += [s for s in self.places if s.role == role or s.name == role]
            if not matching:
                raise self._no_role(role)
            chosen |= {s.name: s for s in matching}
        kept = [s for s in chosen.values() if layers == "all" or s.layer in self._resolve(layers, s.stack)]
        if not kept:
            raise InputError(f"layers {list(layers)} hold none of {', '.join(roles)}", where=self._name)
        return kept

    def _no_role(self, role: str) -> InputError:
        family, _, part = role.rpartition(".")
        fused = [s for s in self.sites if s.role == f"{family}.qkv"]
        if part in ("query", "key", "value") and fused:
            return InputError(
                f"{self._name} mixes query, key and value head by head in {fused[0].path}",
                expected="a whole module", fix=f"target {family}.qkv",
            )  # fmt: skip
        return unknown("role", role, {"linear", *(s.role for s in (*self.sites, *self.places))}, where=self._name)

    def _resolve(self, layers: Sequence[int], stack: str) -> set[int]:
        count = self.layers(stack)
        if wrong := [i for i in layers if not -count <= i < count]:
            raise InputError(f"layer {wrong[0]} does not exist", where=self._name, expected=f"-{count} to {count - 1}")
        return {i % count for i in layers}

    def _in_trunk(self, path: str) -> bool:
        return not self.trunk or path == self.trunk or path.startswith(self.trunk + ".")

    @property
    def _name(self) -> str:
        return type(self.model).__name__


def _outside_layers(path: str) -> str:
    leaf = path.rpartition(".")[2].lower()
    if "pooler" in path.lower():
        return "pooler"
    return "embedding.projection" if "proj" in leaf or "embed" in path.lower() else "other"


def _inside_layer(path: str, module: nn.Module) -> str:
    inner = re.split(r"\.\d+\.", path, maxsplit=1)[-1]
    last = inner.rpartition(".")[2].lower()
    last_two = ".".join(inner.split(".")[-2:]).lower()
    if _ATTENTION.search(inner):
        role = _ROLE["attention"].get(last, "attention.other")
        return "cross_" + role if _CROSS.search(inner) else role
    role = _ROLE["mlp"].get(last_two) or _ROLE["mlp"].get(last, "")
    return role or ("mlp.other" if isinstance(module, nn.Linear) else "other")


def _fused(site: Site, config: Any) -> Iterator[Site]:
    """The parts of a fused projection whose outputs lie one after the other."""
    family, _, part = site.role.rpartition(".")
    leaf = site.path.rpartition(".")[2].lower()
    if part == "qkv" and leaf in ("c_attn", "wqkv", "qkv_proj", "in_proj", "qkv"):
        heads = getattr(config, "num_attention_heads", 1)
        shared = getattr(config, "num_key_value_heads", None) or heads
        unit = site.outputs / (heads + 2 * shared)
        sizes = {"query": int(unit * heads), "key": int(unit * shared), "value": int(unit * shared)}
    elif part == "gate_up":
        sizes = {"gate": site.outputs // 2, "up": site.outputs // 2}
    else:
        return
    start = 0
    for name, size in sizes.items():
        role = f"{family}.{name}"
        rows = slice(start, start + size)
        yield Site(f"{site.path}:{name}", site.path, role, site.layer, site.stack, site.module, site.inputs, size, rows)
        start += size


def _matches(role: str, site: Site) -> bool:
    if role == "linear":
        return site.rows is None and site.layer is not None and site.kind == "linear"
    if site.rows is None and f".{site.path}".endswith(f".{role}"):
        return True
    return fnmatch.fnmatchcase(site.role, role) and not (site.rows is not None and "*" in role)


def _size(module: nn.Module) -> tuple[int, int] | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if weight.ndim == 1:
        return weight.shape[0], weight.shape[0]
    if weight.ndim != 2:
        return None
    rows, columns = weight.shape
    return (rows, columns) if _transposed(module) else (columns, rows)


def _transposed(module: nn.Module) -> bool:
    """GPT-2's Conv1D keeps its weight as (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def _module_or_none(model: Any, getter: str) -> nn.Module | None:
    try:
        return getattr(model, getter)() if hasattr(model, getter) else None
    except (NotImplementedError, AttributeError):
        return None


@torch.no_grad()
def untie(model: Any, parameter: nn.Parameter) -> bool:
    """Give each further owner of a shared tensor a copy of its own; True if there was one.

    A fold changes one module's weight; without this it would change the tied one too. ``config.json`` is kept true.
    """
    owners = [(m, n) for m in model.modules() for n, p in m._parameters.items() if p is parameter]
    for module, name in owners[1:]:
        setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    if len(owners) > 1 and hasattr(model, "config"):
        model.config.tie_word_embeddings = False
    return len(owners) > 1
