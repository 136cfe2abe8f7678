"""The precision of a run's arithmetic, picked by what the device does fastest and safely."""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Literal

import torch

from ..errors import InputError
from .memory import few_kernels

Precision = Literal["auto", "fp32", "bf16"]


def pick(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; weights that train, and everything that needs range, stay in fp32.

    ``auto`` takes bf16 where a CPU or CUDA device multiplies matrices faster in it, as measured here in a few
    milliseconds; elsewhere it takes fp32.

    Raises:
        InputError: bf16 was asked for on a device that does not have it.
    """
    few_kernels()
    if precision == "fp32" or (precision == "auto" and device.type not in ("cpu", "cuda")):
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        if precision == "bf16":
            raise InputError(f"{torch.cuda.get_device_name(device)} has no bf16", expected="precision fp32 or auto")
        return torch.float32
    return torch.bfloat16 if precision == "bf16" or bf16_gain(device.type) > 1.2 else torch.float32


@functools.cache
def bf16_gain(device: str) -> float:
    """How many times faster this device multiplies matrices in bf16 than in fp32: the median of interleaved runs.

    A product or two of each are enough where bf16 takes many times as long, as on a processor that has no units for it.
    """
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    size = 4096 if device == "cuda" else 384
    matrices = {dtype: torch.ones(size, size, dtype=dtype, device=device) for dtype in times}
    for products in (1, 1, 4, 4, 4, 4, 4, 4, 4):
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            for _ in range(products):
                matrix @ matrix
            if device == "cuda":
                torch.cuda.synchronize()
            times[dtype].append((time.perf_counter() - start) / products)
        if min(times[torch.bfloat16]) > 5 * min(times[torch.float32]):
            break
    middle = {dtype: sorted(t)[len(t) // 2] for dtype, t in times.items()}
    return middle[torch.float32] / middle[torch.bfloat16]


def arithmetic(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
