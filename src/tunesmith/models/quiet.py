"""Loading and saving without transformers' own messages: what they would say, tunesmith reports itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log and progress bars."""
    from transformers.utils import logging

    log: Any = logging  # transformers gives it no types
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
