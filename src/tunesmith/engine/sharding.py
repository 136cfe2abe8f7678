"""A model that is shared out between processes by PyTorch's FSDP2: each keeps its part of every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..host import Host
from .processes import Processes


def shard(host: Host, together: Processes) -> None:
    """Share the model out, layer by layer: weights, and with them gradients and the optimizer's state.

    A layer's weights are whole in every process only while it computes. With adapters these and what else trains, a new
    head, stay whole in each process, as they are small, and the frozen base is shared out. Gradients are added up, not
    averaged, as the loss of each process is its share of the step's.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    device = next(host.model.parameters()).device.type
    mesh = init_device_mesh(device, (together.count,))
    small = {p for p in host.model.parameters() if p.requires_grad} if host.adapters else set()
    layers = [s.module for s in host.anatomy.places if s.kind == "layer"]
    for module in (*layers, host.model):
        fully_shard(module, mesh=mesh, ignored_params=small)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo can only add
    host.look_again()


def is_shared_out(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor alone."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Any:
    """A tensor as a whole; every process has to ask for it. What is no tensor stays."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def wholes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`whole` of several, by name."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def parted(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, shared out as another one of its shape is."""
    if not is_shared_out(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there: Any = like
    return distribute_tensor(tensor.to(like.device), there.device_mesh, there.placements)


class Gathered:
    """An optimizer's state as a whole, for a checkpoint; every process has to make one."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        known = optimizer.state_dict()
        self._known = {**known, "state": {i: {n: whole(v) for n, v in s.items()} for i, s in known["state"].items()}}

    def state_dict(self) -> dict[str, Any]:
        """As the optimizer's own."""
        return self._known


class Parting:
    """An optimizer that takes up the state of whole tensors, shared out as its own tensors are."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer

    def load_state_dict(self, known: Mapping[str, Any]) -> None:
        """As the optimizer's own."""
        parameters: list[nn.Parameter] = [p for g in self._optimizer.param_groups for p in g["params"]]
        state = {
            i: {n: parted(v, parameters[i]) if isinstance(v, Tensor) else v for n, v in entries.items()}
            for i, entries in known["state"].items()
        }
        self._optimizer.load_state_dict({**known, "state": state})


def own(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those whose gradients FSDP does not add up."""
    return [p for p in parameters if not is_shared_out(p)]
