"""A comparison in words: scores, differences, costs and what may be said of them, from `Comparison.to_dict`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.wording import PERCENT, clock, figure

SEEN = ("better", "worse", "higher", "lower")
"""Verdicts that call a difference; every other one calls none."""

TURNED = {"better": "worse", "worse": "better", "higher": "lower", "lower": "higher"}

NAMED = 8
"""Differences between recipes that the summary spells out; the others stand in the matrix."""

COST_NAMES = {
    "trainable": "trained weights", "stored_bytes": "stored", "peak_bytes": "peak memory", "training_seconds": "training",
    "seconds": "whole run", "cpu_seconds": "CPU time", "tokens": "tokens", "flops": "operations", "joules": "energy",
}  # fmt: skip


def known(value: Any) -> bool:
    """Whether a figure is there: neither None nor nan."""
    return value is not None and not math.isnan(value)


def score(name: str, measured: Mapping[str, Any]) -> str:
    """A score with its interval, where it has one; no share is more than all.

    >>> score("accuracy", {"value": 0.9, "low": 0.88, "high": 0.92})
    '90.0 % (88.0 to 92.0)'
    >>> score("accuracy", {"value": 0.9, "low": 0.7, "high": 1.1})
    '90.0 % (70.0 to 100.0)'
    """
    value = figure(name, measured["value"])
    if not (known(measured["low"]) and known(measured["high"])):
        return value
    ends = [min(1.0, measured[k]) if name in PERCENT else measured[k] for k in ("low", "high")]
    low, high = (figure(name, end).removesuffix(" %") for end in ends)
    return f"{value} ({low} to {high})"


def signed(name: str, value: float) -> str:
    """A difference with its sign, in points where the metric is a share.

    >>> signed("accuracy", 0.031), signed("loss", -0.25)
    ('+3.1', '-0.250')
    """
    return f"{100 * value:+.1f}" if name in PERCENT else f"{value:+.3f}"


def difference(name: str, measured: Mapping[str, Any]) -> str:
    """A difference with its interval, where it has one."""
    value = signed(name, measured["value"]) + (" points" if name in PERCENT else "")
    if not (known(measured["low"]) and known(measured["high"])):
        return value
    return f"{value} ({signed(name, measured['low'])} to {signed(name, measured['high'])})"


def p_value(p: float | None) -> str:
    """A p-value; nothing where there is none.

    >>> p_value(0.0004), p_value(0.034), p_value(float("nan"))
    ('p < 0.001', 'p = 0.034', '')
    """
    if p is None or not known(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def called(name: str, pair: Mapping[str, Any]) -> str:
    """A difference, its corrected p-value, and its verdict."""
    parts = (difference(name, pair), p_value(pair["p_corrected"]))
    return f"{', '.join(part for part in parts if part)}: {pair['verdict']}"


def cost(key: str, value: float | None) -> str:
    """What a cost of `comparison.COSTS` is, with its unit; nothing where it was not measured.

    >>> cost("trainable", 294912.0), cost("flops", 4.26e12), cost("stored_bytes", 1.5 * 2**20)
    ('294,912', '4.26 TFLOP', '1.5 MB')
    """
    if value is None or not known(value):
        return ""
    if key.endswith("bytes"):
        return f"{value / 2**30:.2f} GB" if value >= 2**30 else f"{value / 2**20:.1f} MB"
    if key.endswith("seconds"):
        return clock(value)
    if key == "flops":
        return _scaled(value, "FLOP")
    return f"{value:,.0f} J" if key == "joules" else f"{value:,.0f}"


def _scaled(value: float, unit: str) -> str:
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}"
    return f"{value:,.0f} {unit}"


# ---------------------------------------------------------------------- pairs


def names(comparison: Mapping[str, Any]) -> list[str]:
    """The recipes, in their order."""
    return [recipe["name"] for recipe in comparison["recipes"]]


def pair(comparison: Mapping[str, Any], ours: str, theirs: str) -> dict[str, Any] | None:
    """Ours against theirs, whichever way round it is kept; None where the two were not compared."""
    for found in comparison["pairs"]:
        if (found["ours"], found["theirs"]) == (ours, theirs):
            return dict(found)
        if (found["ours"], found["theirs"]) == (theirs, ours):
            ends = {"value": "value", "low": "high", "high": "low"}  # one seed gives no interval, so that ends are None
            turned = {end: None if found[other] is None else -found[other] for end, other in ends.items()}
            verdict = TURNED.get(found["verdict"], found["verdict"])
            return {**found, **turned, "ours": ours, "theirs": theirs, "verdict": verdict}
    return None


def against_base(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every recipe against what tuning has to beat."""
    return [p for p in comparison["pairs"] if p["theirs"] == comparison["before"]["name"]]


def between(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every two recipes."""
    return [p for p in comparison["pairs"] if p["theirs"] != comparison["before"]["name"]]


# ---------------------------------------------------------------------- sentences


def summary(comparison: Mapping[str, Any]) -> list[str]:
    """What may be said: recipes against the base, then against each other, largest difference first."""
    metric, base = comparison["metric"], comparison["before"]["name"]
    title = metric.replace("_", " ")
    said = [_grouped(verdict, found, f"{base} in {title}", metric) for verdict, found in _by_verdict(comparison)]
    others = between(comparison)
    seen = sorted((p for p in others if p["verdict"] in SEEN), key=lambda p: -abs(p["value"]))
    said += [f"{p['ours']} is {p['verdict']} than {p['theirs']}: {_measured(metric, p)}." for p in seen[:NAMED]]
    if len(seen) > NAMED:
        said.append(f"{len(seen) - NAMED} more differences between recipes stand in the matrix.")
    if unseen := len(others) - len(seen):
        said.append(_unseen(others, unseen))
    return said


def _by_verdict(comparison: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for found in against_base(comparison):
        groups.setdefault(found["verdict"], []).append(found)
    order = [*SEEN, *(v for v in groups if v not in SEEN)]
    return [(verdict, groups[verdict]) for verdict in order if verdict in groups]


def _grouped(verdict: str, found: Sequence[Mapping[str, Any]], base: str, metric: str) -> str:
    """One sentence for all recipes of which the same may be said."""
    listed = "; ".join(f"{p['ours']} {_measured(metric, p)}" for p in found)
    start = f"{verdict.capitalize()} than {base}" if verdict in SEEN else f"No difference from {base} seen"
    return f"{start}: {listed}."


def _measured(metric: str, found: Mapping[str, Any]) -> str:
    said = p_value(found["p_corrected"])
    return difference(metric, found) + (f", {said}" if said else "")


def _unseen(others: Sequence[Mapping[str, Any]], unseen: int) -> str:
    if unseen == len(others) == 1:
        return f"No difference between {others[0]['ours']} and {others[0]['theirs']} seen."
    if unseen == len(others):
        return f"No difference seen between any two of the {_count(others)} recipes."
    if unseen == 1:
        (left,) = (p for p in others if p["verdict"] not in SEEN)
        return f"No difference between {left['ours']} and {left['theirs']} seen."
    return f"In {unseen} of {len(others)} pairs of recipes no difference was seen."


def _count(pairs: Sequence[Mapping[str, Any]]) -> int:
    return len({p[side] for p in pairs for side in ("ours", "theirs")})


def how(comparison: Mapping[str, Any]) -> str:
    """How the intervals and p-values were made."""
    correction = {"holm": "Holm", "bh": "Benjamini-Hochberg"}.get(comparison["correction"], comparison["correction"])
    return (
        f"Means over {_seeds(comparison)}, {100 * comparison['level']:g} % intervals over seeds and the "
        f"{comparison['rows']:,} held-out rows; differences are paired by seed and by row. p-values are corrected for "
        f"{len(comparison['pairs'])} comparisons ({correction}). A difference is called only where its interval leaves "
        f"out zero and its corrected p-value is below {1 - comparison['level']:.2g}."
    )


def _seeds(comparison: Mapping[str, Any]) -> str:
    many = len(comparison["seeds"])
    return f"{many} seed{'s' if many != 1 else ''} ({', '.join(map(str, comparison['seeds']))})"
