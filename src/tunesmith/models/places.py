"""Sites that are more than one module: sub-layers, layers, attention heads, attentions, and a network's input.

They are found from the leaf modules by role, so no model has a table of its own. What happens at each kind:

=========  ====================================  ===================================================================
kind       x                                     y, which an adapter replaces
=========  ====================================  ===================================================================
sublayer   what goes into attention or MLP       what comes out of it, before it joins the residual stream
layer      the hidden states below a layer       the hidden states above it
heads      the outputs of all heads, joined      the same (rows, length, heads * size)
attention  queries (rows, heads, length, size)   keys and values that all queries see besides their own, none at
                                                 first: (2, 0, width), or (2, rows, 0, width) where rows differ
input      the attention mask (rows, length)     embeddings (rows, length, width); what is added stands in front.
                                                 Fewer places than x has: more of a text is written, nothing is added
=========  ====================================  ===================================================================
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anatomy import Site

FAMILIES = ("attention", "cross_attention", "mlp")
_ENTRIES = {"attention": ("query", "qkv"), "cross_attention": ("query", "qkv"), "mlp": ("gate", "up", "gate_up")}
_LAYER = re.compile(r"^(.*?\.\d+)(?:\.|$)")


def find(model: Any, sites: Sequence[Site], modules: Mapping[str, Any], trunk: str) -> list[Site]:
    """Every such site of a model.

    Args:
        model: a Hugging Face model.
        sites: its leaf sites.
        modules: its modules by path.
        trunk: path of the model without its head; empty where the model is its own trunk.
    """
    grouped: dict[tuple[str, int], dict[str, Site]] = {}
    for site in sites:
        if site.layer is not None:
            grouped.setdefault((site.stack, site.layer), {}).setdefault(site.role, site)
    heads = int(getattr(getattr(model, "config", None), "num_attention_heads", 1))
    found = [place for roles in grouped.values() for place in _of_layer(roles, modules, trunk, heads)]
    return [replace(s, partner=_reader(sites, modules)) if s.place == "attention" else s for s in found] + _input(
        model, sites, modules
    )


def _of_layer(roles: Mapping[str, Site], modules: Mapping[str, Any], trunk: str, heads: int) -> list[Site]:
    found = []
    for family in FAMILIES:
        parts = {r.partition(".")[2]: s for r, s in roles.items() if r.partition(".")[0] == family}
        entry = next((parts[name] for name in _ENTRIES[family] if name in parts), None)
        leave = parts.get("down" if family == "mlp" else "output")
        if entry is None or leave is None:
            continue
        found.append(_place(leave, "sublayer", f"sublayer.{family}", entry.inputs, leave.outputs, parts, heads,
                            partner=entry.module, activation=_activation(modules[entry.path.rpartition(".")[0]])))  # fmt: skip
        if family != "mlp":
            found.append(_place(leave, "heads", f"{family}.heads", leave.inputs, leave.inputs, parts, heads))
            owner = entry.path.rpartition(".")[0]
            width = parts["key"].outputs if "key" in parts else leave.inputs
            found.append(_place(leave, "attention", f"{family}.keys", leave.inputs, width, parts, heads,
                                path=owner, module=modules[owner]))  # fmt: skip
    if (down := roles.get("mlp.down")) and (match := _LAYER.match(down.path[len(trunk) :])):
        path = trunk + match[1]
        found.append(_place(down, "layer", "layer", down.outputs, down.outputs, roles, heads,
                            path=path, module=modules[path]))  # fmt: skip
    return found


def _activation(owner: Any) -> Any:
    """The nonlinearity of the module that holds an MLP's first matrix."""
    names = ("act_fn", "act", "activation", "activation_fn", "intermediate_act_fn")
    return next((f for f in (getattr(owner, name, None) for name in names) if callable(f)), None)


def _place(
    leaf: Site, kind: str, role: str, inputs: int, outputs: int, parts: Mapping[str, Site], heads: int, **changes: Any
) -> Site:
    path = f"{changes.pop('path', leaf.path)}:{kind}"
    return replace(
        leaf, name=path, path=path, role=role, inputs=inputs, outputs=outputs, place=kind, parts=parts, heads=heads,
        **changes,
    )  # fmt: skip


def _input(model: Any, sites: Sequence[Site], modules: Mapping[str, Any]) -> list[Site]:
    """The sequence of embeddings that the trunk reads; of two stacks, the encoder's."""
    embedding = next((s for s in sites if s.role == "embedding"), None)
    if embedding is None:
        return []
    two = bool(getattr(model.config, "is_encoder_decoder", False))
    owner = model.get_encoder() if two else _reader(sites, modules)
    stack = "encoder" if two else ""
    return [
        replace(embedding, name="input", path="input", role="input", stack=stack, place="input", module=owner,
                inputs=embedding.outputs, outputs=embedding.outputs, parts={"embedding": embedding},
                partner=model.get_decoder() if two else None)
    ]  # fmt: skip


def _reader(sites: Sequence[Site], modules: Mapping[str, Any]) -> Any:
    """The smallest module that holds both the table of embeddings and the layers, and can be given embeddings instead."""
    table = next((s.path for s in sites if s.role == "embedding"), "")
    layer = next((s.path for s in sites if s.layer is not None), table)
    paths = zip(table.split("."), layer.split("."), strict=False)
    common = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], paths)]
    while common and "inputs_embeds" not in inspect.signature(modules[".".join(common)].forward).parameters:
        common.pop()
    return modules[".".join(common)]
