"""The machine that a plan is for: its memory, and how fast this one is."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..storage import cache_home, hash_json, write_json

UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}

CONTEXT = 600 * 2**20
"""Bytes that a GPU's context and libraries take; 400 to 800 MB on the ones in use."""


def size_of(text: str, *, where: str) -> int:
    """Bytes: ``2GB``, ``1.5 GiB``, ``800MB``; a unit is 1024 of the one below, as memory is sold.

    Raises:
        InputError: no such size.

    >>> size_of("1.5GB", where="memory")
    1610612736
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])i?B\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise InputError(f"{text!r} is no size", where=where, expected="a number with MB or GB, e.g. 2GB")
    return int(float(match[1]) * UNITS[f"{match[2].upper()}B"])


def told(size: float) -> str:
    """A size for people.

    >>> told(3 * 2**29)
    '1.5 GB'
    """
    for unit in ("GB", "MB"):
        if size >= UNITS[unit]:
            value = size / UNITS[unit]
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{size / 2**10:.0f} KB"


@dataclass(frozen=True)
class Machine:
    """What a run has.

    Attributes:
        name: as it is called in messages.
        memory: bytes of one device.
        devices: how many there are.
        framework: bytes that Python, PyTorch and transformers take themselves, before any tensor.
        gpu: whether it computes on a GPU.
        here: whether it is this machine, whose speed can be measured.
    """

    name: str
    memory: int
    devices: int
    framework: int
    gpu: bool
    here: bool


def named(text: str) -> Machine:
    """A machine by its memory: ``1x24GB`` is one GPU with 24 GB, ``8GB`` a computer without.

    Raises:
        InputError: no such machine.
    """
    match = re.fullmatch(r"\s*(?:(\d+)\s*x)?\s*(.+)", text, re.IGNORECASE)
    assert match is not None or not text
    if match is None or match[1] == "0":
        raise InputError(f"{text!r} is no machine", where="--for", expected="8GB, or 1x24GB for one GPU")
    memory, gpu = size_of(match[2], where="--for"), match[1] is not None
    return Machine(text.strip(), memory, int(match[1] or 1), CONTEXT if gpu else framework(), gpu, False)


def this() -> Machine:
    """This machine: its GPU, else its free memory."""
    import torch

    if torch.cuda.is_available():
        memory, count = torch.cuda.get_device_properties(0).total_memory, torch.cuda.device_count()
        return Machine("this machine", memory, count, CONTEXT, True, True)
    return Machine("this machine", free_memory(), 1, framework(), False, True)


def free_memory() -> int:
    """Bytes that a new process can have here: what is available, or what its control group leaves."""
    found = [_available(), *(limit for limit in (_group_limit(),) if limit is not None)]
    return min(found)


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_limit() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{n}").read_text(encoding="ascii").strip() for n in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used) + int(cached.get("inactive_file", 0))


# ---------------------------------------------------------------------- measured once, and kept

_IMPORTS = (
    "import torch, transformers, sklearn.linear_model, scipy.stats, pyarrow, tunesmith.run.carry_out;"
    "from transformers import AutoModel, PreTrainedModel;"
    "x = torch.ones(64, 64, requires_grad=True); (x @ x).sum().backward();"
    "torch.optim.AdamW([x], fused=True).step();"
    "print(int(open('/proc/self/status').read().split('VmRSS:')[1].split()[0]) * 1024)"
)


def framework() -> int:
    """Bytes of a process that has everything imported and nothing loaded, measured once with these versions."""
    return int(_kept("framework", lambda: _measured_framework()))


def _measured_framework() -> float:
    made = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=False)
    return float(made.stdout.strip() or 500 * UNITS["MB"])  # no /proc on this system


@dataclass(frozen=True)
class Speed:
    """What this machine computes.

    Attributes:
        single, half: floating-point operations a second in products of large matrices in 32 and in 16 bits.
        bandwidth: bytes read and written a second.
        overhead: seconds of one operation on next to nothing.
    """

    single: float
    half: float
    bandwidth: float
    overhead: float


def speed() -> Speed:
    """This machine's speed, measured once with these versions and as many threads."""
    return Speed(*(_kept(name, measure) for name, measure in _SPEEDS.items()))


def _kept(name: str, measure: Callable[[], float]) -> float:
    """A figure of this machine, from the cache or measured now."""
    import torch
    import transformers

    key = hash_json([platform.node(), platform.processor(), torch.__version__, transformers.__version__,
                     torch.get_num_threads(), 2])[:16]  # fmt: skip
    path = cache_home() / "machine" / f"{key}.json"
    try:
        known: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if name not in known:
        known[name] = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    return known[name]


def _seconds(act: Callable[[], object], times: int = 7) -> float:
    act()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        found.append(time.perf_counter() - start)
    return min(found)


def _product(half: bool) -> float:
    """Operations a second of a product that training has: many tokens by a matrix of a layer."""
    import torch

    dtype = torch.bfloat16 if half else torch.float32
    a, b = torch.ones(2048, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    return 2 * 2048 * 768 * 768 / _seconds(lambda: a @ b)


def _bandwidth() -> float:
    import torch

    a = torch.ones(2**22)
    return 3 * a.numel() * 4 / _seconds(lambda: a + a)


def _overhead() -> float:
    import torch

    a = torch.ones(8, requires_grad=True)
    return _seconds(lambda: [a + 1 for _ in range(200)]) / 200


_SPEEDS: dict[str, Callable[[], float]] = {
    "single": lambda: _product(False), "half": lambda: _product(True), "bandwidth": _bandwidth, "overhead": _overhead,
}  # fmt: skip
