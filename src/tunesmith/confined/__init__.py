"""Programs that nobody has read, run where they can do no harm."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import InputError

INSIDE = Path(__file__).with_name("inside.py")
"""The file that confines itself and then runs a program; it takes the standard library and nothing of this package."""

MEASURES = ("limits", "files", "network", "processes", "signals")
"""What may hold a program: limits of CPU, memory and file size; no file outside its folder; no socket; no process or
thread beside it; no signal to others."""

_SHOWN = 4000
"""Characters of output that are kept, of its end."""


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
        seconds: CPU time, and twice as much wall time with two seconds to start in.
        memory: megabytes of address space.
        written: megabytes of any one file, its output among them.
    """

    seconds: float = 5.0
    memory: int = 512
    written: int = 4


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        done: whether it ran to its last line; a program that leaves early, whatever its exit code, has not.
        output: the end of what it printed.
        error: the end of what stands on its stderr, a traceback as a rule; or why it was stopped.
        held: the measures that were in force.
    """

    done: bool
    output: str
    error: str
    held: tuple[str, ...]


def run(program: str, limits: Limits = Limits(), *, must: tuple[str, ...] = MEASURES) -> Ended:  # noqa: B008
    """Run a Python program, confined, in an empty folder that is deleted afterwards.

    It sees no environment, no installed package and no file but the standard library's. It has no network, may start
    nothing, and is killed when its time is over. The kernel does this (Landlock, seccomp, a network namespace of its
    own), so that it holds whatever the program calls. What shares its process it can look at: a program may find and
    fake the mark of having run to its end, which keeps honest what is careless, not what is hostile.

    Args:
        program: its text.
        limits: what it may take.
        must: measures without which it is not run at all.

    Raises:
        InputError: this system cannot hold it so.
    """
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="confined-") as folder, tempfile.TemporaryDirectory() as outside:
        work = Path(folder).resolve()
        (work / "program.py").write_text(program, encoding="utf-8", errors="replace")
        settings = {"limits": vars(limits), "must": must, "nonce": nonce, "folder": str(work)}
        with open(Path(outside) / "out", "w+b") as out, open(Path(outside) / "err", "w+b") as err:
            said, killed = _carry_out(settings, work, out, err, 2 * limits.seconds + 2)
            output, error = _end_of(out), _end_of(err)
    if not said:
        raise InputError(
            f"the confined process did not start ({(error.splitlines() or ['no message'])[-1]})", expected="Python"
        )
    held = tuple(json.loads(said[0]))
    if lacking := [measure for measure in must if measure not in held]:
        raise InputError(
            f"this system cannot hold a program back from {', '.join(lacking)}",
            expected="a Linux kernel with Landlock (5.13 or newer) and seccomp on x86-64 or arm64",
            fix="use a judge that runs nothing, or allow: limited where the whole machine may be lost",
        )
    done = said[1:] == [nonce]
    if killed:
        error = f"stopped: it took more than {limits.seconds:g} seconds"
    elif not done and not error:
        error = "the program ended before its last line"
    return Ended(done and not killed, output, error, held)


def _carry_out(
    settings: dict[str, Any], work: Path, out: IO[bytes], err: IO[bytes], seconds: float
) -> tuple[list[str], bool]:
    """The lines that the inner process reported, and whether its time, CPU or wall, had to be ended."""
    reads, writes = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(INSIDE), str(writes)],
            cwd=work, env={}, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True, pass_fds=(writes,),
        )  # fmt: skip
        os.close(writes)
        killed = False
        try:
            process.communicate(json.dumps(settings).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            killed = True
        finally:
            ended = process.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        killed |= ended in (-signal.SIGXCPU, -signal.SIGKILL)
        os.set_blocking(reads, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(reads, 4096).decode(errors="replace").split("\n")[:-1], killed
        return [], killed
    finally:
        os.close(reads)


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4 * _SHOWN))
    return file.read().decode("utf-8", errors="replace")[-_SHOWN:]
