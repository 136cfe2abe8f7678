"""Figures and differences in words, the same in the terminal, on the page and on the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PERCENT = frozenset(
    {
        "accuracy", "macro_f1", "micro_f1", "span_f1", "token_macro_f1", "token_accuracy", "exact_match", "rouge_l",
        "accuracy_lost_by_noise", "accuracy_lost_by_casing", "accuracy_under_attack", "other_task_accuracy",
        "worst_group_error_rate", "group_gap_error_rate", "format_kept", "stopped_by_itself", "refused_harmful",
        "refused_harmless",
    }
)  # fmt: skip
"""Metrics that are shares, and are shown in per cent."""


def figure(name: str, value: float) -> str:
    """A figure as people read it: shares in per cent, others with three digits.

    >>> figure("accuracy", 0.912), figure("loss", 1.2345)
    ('91.2 %', '1.234')
    """
    return f"{100 * value:.1f} %" if name in PERCENT else f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3f}"


def interval(name: str, measured: Mapping[str, Any]) -> str:
    """A figure with its interval: ``91.2 % (89.9 to 92.5)``."""
    low, high = (figure(name, measured[k]).removesuffix(" %") for k in ("low", "high"))
    return f"{figure(name, measured['value'])} ({low} to {high})"


def change(name: str, measured: Mapping[str, Any]) -> str:
    """A difference with its interval and what may be said of it; ends of None are no interval."""
    if measured["low"] is None:
        return f"{_signed(name, measured['value'])}, no interval: {measured['verdict']}"
    value, low, high = (_signed(name, measured[k]) for k in ("value", "low", "high"))
    unit = " points" if name in PERCENT else ""
    return f"{value}{unit} ({low} to {high}): {measured['verdict']}"


def sentence(name: str, who: str, measured: Mapping[str, Any]) -> str:
    """What a paired difference allows to say. ``better`` and ``worse`` stand only where its interval leaves out zero.

    >>> found = {"value": 0.05, "low": 0.02, "high": 0.08, "rows": 400, "level": 0.95, "verdict": "better"}
    >>> sentence("accuracy", "the probe", found)
    'Tuned is better than the probe in accuracy: +5.0 points (95 % interval +2.0 to +8.0, 400 rows).'
    """
    if measured["low"] is None:
        return (
            f"Of {name.replace('_', ' ')} no difference can be called: {_signed(name, measured['value'])}, no interval."
        )
    value, low, high = (_signed(name, measured[k]) for k in ("value", "low", "high"))
    unit = " points" if name in PERCENT else ""
    title, sure = name.replace("_", " "), f"{100 * measured['level']:g} % interval {low} to {high}"
    if measured["verdict"] in ("better", "worse", "higher", "lower"):
        return (
            f"Tuned is {measured['verdict']} than {who} in {title}: {value}{unit} ({sure}, {measured['rows']:,} rows)."
        )
    return f"No difference from {who} in {title} seen at {measured['rows']:,} rows: {value}{unit} ({sure})."


def clock(seconds: float) -> str:
    """Seconds as people read them: ``48 s``, ``3 min 20 s``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _signed(name: str, value: float) -> str:
    return f"{100 * value:+.1f}" if name in PERCENT else f"{value:+.3f}"
