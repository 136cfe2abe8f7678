"""The inner process: it gives up what it could do harm with, and then runs ``program.py`` in its folder.

It runs by itself (``python -I -S inside.py FD``) and imports the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import linecache
import os
import platform
import resource
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
READ, WRITE = 0b1101, 0b1110111111111110010
"""Rights of Landlock: execute, read a file, read a folder; and all that changes something (of ABI 5)."""

SYSCALLS = {
    "x86_64": (0xC000003E, {
        "network": (41, 42, 49, 53, 425),
        "processes": (56, 57, 58, 59, 322, 435, 101, 165, 272, 308, 310, 311, 321, 438),
        "signals": (62, 129, 200, 234, 297, 424),
        "owners": (90, 91, 92, 93, 94, 260, 268, 452),
    }),
    "aarch64": (0xC00000B7, {
        "network": (198, 199, 200, 203, 425),
        "processes": (220, 221, 281, 435, 117, 40, 97, 268, 270, 271, 280, 438),
        "signals": (129, 130, 131, 138, 240, 424),
        "owners": (52, 53, 54, 55, 452),
    }),
}  # fmt: skip
"""Machine -> its mark, and the numbers of the calls that are refused.

network: socket, connect, bind, socketpair, io_uring_setup. processes: clone, fork, vfork, execve, execveat, clone3,
ptrace, mount, unshare, setns, process_vm_readv and _writev, bpf, pidfd_getfd. signals: kill, tkill, tgkill and their
queued forms, pidfd_send_signal. owners: chmod and chown, which Landlock leaves alone.
"""


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def limit(limits: dict[str, float]) -> None:
    """CPU, memory, file size, open files, processes, no core file."""
    seconds, memory, written = int(limits["seconds"] + 0.999), int(limits["memory"]) << 20, int(limits["written"]) << 20
    wanted = {"CPU": seconds, "AS": memory, "FSIZE": written, "CORE": 0, "NOFILE": 64, "NPROC": 64}
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))


def own_network(libc: Any) -> None:
    """A network namespace that holds nothing, where the system lets one be made; seccomp holds without it, too."""
    if libc.unshare(NEW_NETWORK) != 0:
        libc.unshare(NEW_USER | NEW_NETWORK)


def own_folder(libc: Any, folder: str) -> None:
    """Landlock: write in the folder, read there and in Python's own, and nowhere else."""
    version = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        raise OSError("no Landlock")
    known = (1 << 13 if version == 1 else 1 << 14 if version == 2 else 1 << 15 if version < 5 else 1 << 16) - 1
    rules = _Ruleset((READ | WRITE) & known, 0, 0)
    ruleset = libc.syscall(LANDLOCK_CREATE, ctypes.byref(rules), 8, 0)
    readable = {sys.base_prefix, sys.base_exec_prefix, "/usr/lib", "/usr/lib64", "/lib", "/lib64"}
    for path, rights in [*((p, READ) for p in sorted(readable)), (folder, READ | WRITE)]:
        if os.path.isdir(path):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = _Beneath(rights & known, handle)
            if libc.syscall(LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0) != 0:
                raise OSError("Landlock took no rule")
            os.close(handle)
    if libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) != 0:
        raise OSError("Landlock does not hold")
    os.close(ruleset)


def refuse_calls(libc: Any) -> None:
    """seccomp: the calls of `SYSCALLS` fail with EPERM; clone3 is unknown, so that a C library falls back to clone."""
    mark, kinds = SYSCALLS[platform.machine()]
    refused = sorted({n for numbers in kinds.values() for n in numbers})
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, fail, unknown, allow = 0x80000000, 0x50001, 0x50026, 0x7FFF0000
    lines = [(load, 0, 0, 4), (equal, 1, 0, mark), (end, 0, 0, kill), (load, 0, 0, 0)]
    lines += [(at_least, 0, 1, 0x40000000), (end, 0, 0, kill)]  # another way of calling, with numbers of its own
    for number in refused:
        lines += [(equal, 0, 1, number), (end, 0, 0, unknown if number == 435 else fail)]
    lines.append((end, 0, 0, allow))
    filters = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), filters)
    if libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError("seccomp does not hold")


def confine(settings: dict[str, Any]) -> list[str]:
    """Take every measure that there is; their names."""
    held: list[str] = []

    def take(names: tuple[str, ...], measure: Callable[[], None]) -> None:
        try:
            measure()
            held.extend(names)
        except (OSError, ValueError, KeyError, AttributeError):
            return

    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        own_network(libc)
        if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0:
            take(("files",), lambda: own_folder(libc, settings["folder"]))
            take(("limits",), lambda: limit(settings["limits"]))
            take(("network", "processes", "signals"), lambda: refuse_calls(libc))
            return held
    take(("limits",), lambda: limit(settings["limits"]))
    return held


def main() -> None:
    """Read the settings, report what holds, run the program, and report that it came to its end."""
    settings, report = json.loads(sys.stdin.buffer.read()), int(sys.argv[1])
    nonce = settings.pop("nonce")
    path = os.path.join(settings["folder"], "program.py")
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    linecache.cache[path] = (sum(map(len, lines)), None, lines, path)
    held = confine(settings)
    os.write(report, (json.dumps(held) + "\n").encode())
    if not set(settings["must"]) <= set(held):
        os._exit(1)
    sys.argv = [path]
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception:
        kind, value, trace = sys.exc_info()
        while trace is not None and trace.tb_frame.f_code.co_filename != path:
            trace = trace.tb_next
        traceback.print_exception(kind, value, trace)
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os.write(report, f"{nonce}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
