"""What goes to the screen: a result, or one line that says what was wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from ..errors import TunesmithError


def outcome(call: Callable[[], Any]) -> int:
    """The exit code of a call. What it raises that a user can mend is one line on stderr."""
    try:
        result = call()
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except TunesmithError as error:
        return fail(str(error), error.exit_code)
    return result if isinstance(result, int) else 0


def fail(message: str, code: int) -> int:
    """Say what was wrong; the exit code."""
    print(f"tunesmith: {' '.join(message.split())}", file=sys.stderr)
    return code


def show_result(value: Any, as_json: bool) -> None:
    """A result on stdout: JSON for machines, else a rich table or text."""
    if as_json:
        print(json.dumps(value, indent=2, default=str, ensure_ascii=False))
    else:
        from rich.console import Console

        Console().print(value)
