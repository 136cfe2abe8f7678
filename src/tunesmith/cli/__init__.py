"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; end with 0 when done, 1 when the run failed, 2 for wrong input, 130 or 143 when interrupted."""
    from .commands import run

    sys.exit(run(sys.argv[1:]))
