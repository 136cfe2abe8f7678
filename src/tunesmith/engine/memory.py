"""Memory: how much was used, and how an allocation that failed is told from other errors."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of ``mallopt``'s settings in glibc."""


def peak_bytes(device: torch.device) -> int:
    """The most memory that was held at one time: by this process on a CPU, by its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has no getrusage
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that an allocation failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def reuse() -> bool:
    """From here on, memory below 64 MB a piece that is let go is kept for the next tensors, up to 512 MB of it.

    glibc gives most of it back to the system otherwise, and every step begins with asking for it again: up to a
    quarter of a step's time. Larger pieces still go back, so that the peak stays where it was. False where there is
    no glibc.
    """
    return _keep(pieces=2**26, in_all=2**29)


def give_back() -> bool:
    """From here on, memory of 64 KB or more that is let go goes back to the system at once.

    glibc keeps it otherwise, in pieces that the next tensors do not fit: a process grows to several times what its
    tensors take. It costs up to a quarter more time, as every piece is new to the system. False where there is no glibc.
    """
    return _keep(pieces=2**16, in_all=2**16)


def few_kernels() -> None:
    """Have a CPU keep the kernels that multiply in bf16 for the last 64 shapes, in place of 1,024.

    Rows have many lengths, each length makes new kernels of oneDNN's, of up to half a megabyte, and those of lengths
    long past are rarely asked for again. PyTorch keeps them beside oneDNN, hence two settings. It counts where the
    process has not multiplied in bf16 yet; what the environment says wins.
    """
    for setting in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(setting, "64")


def _keep(pieces: int, in_all: int) -> bool:
    """Let glibc keep free memory in pieces below so many bytes, and so many bytes in all; whether it could be told."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(name, size) for name, size in ((_MMAP_THRESHOLD, pieces), (_TRIM_THRESHOLD, in_all)))
