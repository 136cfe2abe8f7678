"""Plots of a comparison: differences, every seed's score, and score against cost; legible with a dozen recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..evaluation.drawing import BEFORE, FLOOR, INK, TUNED, figure, logarithmic, style, svg
from ..evaluation.wording import PERCENT
from .wording import COST_NAMES, against_base, between, known, names

COLORS = ("#3b82f6", "#d97706", "#16a34a", "#db2777", "#8b5cf6", "#0d9488", "#dc2626", "#78716c")
MARKERS = "osD^vP"

MOST_PAIRS = 16
"""Above this only differences from the base and from the first recipe are drawn; the matrix has the others."""

UNITS = {"stored_bytes": (2**20, "MB"), "peak_bytes": (2**30, "GB"), "training_seconds": (1, "s")}
FRONTS = ("training_seconds", "trainable", "peak_bytes")

LONGEST_NAME = 28


def all_of(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Caption and SVG of every plot that the comparison has figures for."""
    level = f"{100 * comparison['level']:g} %"
    plots: list[tuple[str, Callable[[], Any]]] = [
        (f"Differences with {level} intervals. Coloured: called; grey: none seen.", lambda: _forest(comparison)),
        ("Every seed's score; the bar is the mean, the broken line what has no tuning.", lambda: _seeds(comparison)),
    ]
    for cost in FRONTS:
        if all(known(r["cost"].get(cost)) for r in comparison["recipes"]):
            caption = (
                f"Score against {COST_NAMES[cost]}; the line is the front: no mean is higher-ranked at less cost. "
                "Where intervals overlap, a step of the line may be chance."
            )
            plots.append((caption, lambda cost=cost: _pareto(comparison, cost)))  # type: ignore[misc]
    with style():
        return [(caption, svg(draw(), f"plot{i}-", caption)) for i, (caption, draw) in enumerate(plots)]


def short(name: str) -> str:
    """A name that leaves room for the plot."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _scale(comparison: Mapping[str, Any]) -> tuple[int, str]:
    name = comparison["metric"]
    return (100, f"{name.replace('_', ' ')} (%)") if name in PERCENT else (1, name.replace("_", " "))


def drawn_pairs(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pairs of the forest plot: all, or of many those with the base or the first recipe."""
    pairs = [*against_base(comparison), *between(comparison)]
    if len(pairs) <= MOST_PAIRS:
        return pairs
    first, base = names(comparison)[0], comparison["before"]["name"]
    return [p for p in pairs if p["theirs"] in (first, base)]


def _forest(comparison: Mapping[str, Any]) -> Any:
    pairs = drawn_pairs(comparison)
    scale, title = _scale(comparison)
    made, axes = figure(5.2, 0.9 + 0.27 * len(pairs))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    for place, pair in enumerate(pairs):
        color = {"better": TUNED, "higher": TUNED, "worse": BEFORE, "lower": BEFORE}.get(pair["verdict"], FLOOR)
        if known(pair["low"]) and known(pair["high"]):
            axes.plot([scale * pair["low"], scale * pair["high"]], [place, place], color=color, linewidth=2)
        axes.plot(scale * pair["value"], place, "o", color=color, markersize=5)
    axes.set_yticks(range(len(pairs)), [f"{short(p['ours'])} − {short(p['theirs'])}" for p in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {title.replace(' (%)', ' (points)')}")
    axes.grid(axis="x", color=FLOOR, alpha=0.25)
    return made


def _seeds(comparison: Mapping[str, Any]) -> Any:
    scale, title = _scale(comparison)
    recipes = comparison["recipes"]
    made, axes = figure(5.2, 0.9 + 0.3 * len(recipes))
    axes.axvline(scale * comparison["before"]["score"]["value"], color=INK, linewidth=0.8, linestyle="--")
    for place, recipe in enumerate(recipes):
        mean = scale * recipe["score"]["value"]
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=TUNED, linewidth=2)
        values = [scale * v for v in recipe["values"]]
        axes.plot(values, _apart(values, place), "o", color=TUNED, alpha=0.45, markersize=5, markeredgewidth=0)
    axes.set_yticks(range(len(recipes)), [short(r["name"]) for r in recipes])
    axes.set_ylim(len(recipes) - 0.5, -0.5)
    axes.set_xlabel(title)
    axes.grid(axis="x", color=FLOOR, alpha=0.25)
    return made


def _apart(values: Sequence[float], place: int) -> list[float]:
    """Heights of a recipe's dots: spread by seed, so that equal scores do not hide each other."""
    step = 0.4 / max(len(values) - 1, 1)
    return [place + (i * step - 0.2 if len(values) > 1 else 0) for i in range(len(values))]


def _pareto(comparison: Mapping[str, Any], cost: str) -> Any:
    scale, title = _scale(comparison)
    divisor, unit = UNITS.get(cost, (1, ""))
    recipes = {r["name"]: r for r in comparison["recipes"]}
    points = {n: (r["cost"][cost] / divisor, scale * r["score"]["value"]) for n, r in recipes.items()}
    made, axes = figure(5.2, 2.9 + 0.2 * ((len(recipes) + 1) // 2))
    front = [points[n] for n in comparison["front"].get(cost, [])]
    axes.step(*zip(*front, strict=True), where="post", color=FLOOR, linewidth=1.2, zorder=1)
    for i, (name, (x, y)) in enumerate(points.items()):
        score = recipes[name]["score"]
        color, marker = COLORS[i % len(COLORS)], MARKERS[i // 2 % len(MARKERS)]
        if known(score["low"]) and known(score["high"]):
            axes.plot([x, x], [scale * score["low"], scale * score["high"]], color=color, linewidth=1, alpha=0.6)
        axes.plot(x, y, marker, color=color, markersize=7, linestyle="none", label=short(name), alpha=0.9)
    costs = [x for x, _ in points.values()]
    if min(costs) > 0 and max(costs) / min(costs) > 8:
        logarithmic(axes)
    axes.set_xlabel(COST_NAMES[cost] + (f" ({unit})" if unit else ""))
    axes.set_ylabel(title)
    axes.grid(color=FLOOR, alpha=0.25)
    made.legend(loc="outside lower center", ncols=2, handletextpad=0.2, columnspacing=1)
    return made
