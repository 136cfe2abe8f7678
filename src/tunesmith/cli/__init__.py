"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run a command; end with 0 when done, 1 when the run failed, 2 for wrong input, 130 or 143 when interrupted."""
    gc.set_threshold(50_000)  # collecting while modules load is a tenth of a short command's time
    code = _carry_out(sys.argv[1:])
    gc.freeze()  # a last collection of all that was loaded is a fifth of a short command's time
    sys.exit(code)


def _carry_out(arguments: list[str]) -> int:
    """``data FILE`` has no options to be understood, and answers before the library of the command line is loaded."""
    if len(arguments) == 2 and arguments[0] == "data" and not arguments[1].startswith("-"):
        from .screen import outcome, show_result
        from .show import rows_found

        return outcome(lambda: show_result(rows_found(arguments[1], None, {}, None, as_json=False), as_json=False))
    from .commands import run

    return run(arguments)
