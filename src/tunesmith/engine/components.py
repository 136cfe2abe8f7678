"""What each trained parameter is part of, and how deep it lies, from the anatomy of the model and its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from ..host import Host


def components(host: Host, parameters: Mapping[str, nn.Parameter]) -> dict[nn.Parameter, str]:
    """The role of each parameter; see `optimizers.Components`. Terms of the loss and what adapters share have their names."""
    found = {p: name for name, p in parameters.items()}
    for name, parameter, role, _ in _placed(host):
        if parameter in found:
            found[parameter] = f"{role}{name}"
    return found


def layers_above(host: Host, parameters: Mapping[str, nn.Parameter]) -> dict[nn.Parameter, int]:
    """How many layers lie above each parameter: 0 in the top layer and beyond, all of them for embeddings."""
    found = dict.fromkeys(parameters.values(), 0)
    for _, parameter, _, above in _placed(host):
        if parameter in found:
            found[parameter] = above
    return found


def _placed(host: Host) -> Iterator[tuple[str, nn.Parameter, str, int]]:
    """What follows the role in its component's name, the parameter, its role, the layers above it."""
    patches = {w.weight.name: w.values for w in host.patches.values()}
    for weight in host.anatomy.weights:
        above = weight.from_top if weight.from_top is not None else weight.layers * (weight.role == "embedding")
        parameter = patches.get(weight.name, weight.parameter)
        yield ".bias" if weight.is_bias else "", parameter, weight.role, 0 if weight.fresh else above
    for pairs in host.by_module().values():
        for site, adapter in pairs:
            layers = host.anatomy.layers(site.stack)
            above = layers - 1 - site.layer if site.layer is not None else layers * (site.role == "embedding")
            yield from ((f".{name}", p, site.role, above) for name, p in adapter.named_parameters())
