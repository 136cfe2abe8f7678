"""How much the loss depends on each entry of a tensor, smoothed over steps."""

from __future__ import annotations

from torch import Tensor, nn

from . import Adapter


def track(adapter: Adapter, *names: str) -> None:
    """Give each of these parameters two running means, as buffers ``<name>_mean`` and ``<name>_spread``."""
    for name in names:
        for kind in ("mean", "spread"):
            adapter.register_buffer(f"{name}_{kind}", getattr(adapter, name).detach().clone().zero_())


def update(adapter: Adapter, *names: str, beta1: float, beta2: float) -> None:
    """Fold this step's ``|w * dL/dw|`` into the means, and its distance from them into the spreads.

    Source: Zhang et al. 2023, arXiv:2303.10512, sec. 3.2.
    """
    for name in names:
        parameter: nn.Parameter = getattr(adapter, name)
        if parameter.grad is None:
            continue
        now = (parameter * parameter.grad).abs()
        mean, spread = getattr(adapter, f"{name}_mean"), getattr(adapter, f"{name}_spread")
        mean.lerp_(now, 1 - beta1)
        spread.lerp_((now - mean).abs(), 1 - beta2)


def score(adapter: Adapter, name: str) -> Tensor:
    """Sensitivity times its uncertainty, entry by entry (Zhang et al. 2023, sec. 3.2)."""
    product: Tensor = getattr(adapter, f"{name}_mean") * getattr(adapter, f"{name}_spread")
    return product


def cubic(progress: float, start: float, end: float) -> float:
    """1 before ``start``, 0 after ``end``, and a falling cubic between them (Zhu and Gupta 2017, arXiv:1710.01878)."""
    return (1 - min(1.0, max(0.0, (progress - start) / max(end - start, 1e-9)))) ** 3
