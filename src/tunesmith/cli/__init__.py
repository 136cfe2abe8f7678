"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run a command; end with 0 when done, 1 when the run failed, 2 for wrong input, 130 or 143 when interrupted."""
    gc.set_threshold(50_000)  # collecting while modules load is a tenth of a short command's time
    from .commands import run

    code = run(sys.argv[1:])
    gc.freeze()  # a last collection of all that was loaded is a fifth of a short command's time
    sys.exit(code)
