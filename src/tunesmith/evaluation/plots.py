"""Plots of a run's report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .drawing import BEFORE, FLOOR, INK, TUNED, figure, style, svg
from .wording import PERCENT

MOST_CLASSES = 30
"""Above this a confusion table is not drawn: nobody could read it."""


def all_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Caption and SVG of every plot that the report has figures for."""
    plots: list[tuple[str, Callable[[], Any]]] = []
    if report["metric"] in report["tuned"]:
        title = report["metric"].replace("_", " ")
        plots.append((f"{title.capitalize()} on the test rows, with 95 % intervals.", lambda: _scores(report)))
    if report["curve"].get("step"):
        plots.append(("Loss over the steps, and on the validation rows.", lambda: _curve(report["curve"])))
    if "calibration" in report:
        ece = ", ".join(f"{who} {value:.3f}" for who, value in report["calibration"]["ece"].items())
        caption = f"Accuracy by confidence; calibration error: {ece}."
        plots.append((caption, lambda: _reliability(report["calibration"])))
    if "confusion" in report and len(report["confusion"]["labels"]) <= MOST_CLASSES:
        caption = "Rows of each true class (down) by the class that was said (across)."
        plots.append((caption, lambda: _confusion(report["confusion"])))
    with style():
        return [(caption, svg(draw(), f"plot{i}-", caption)) for i, (caption, draw) in enumerate(plots)]


def _scores(report: Mapping[str, Any]) -> Any:
    name = report["metric"]
    every = {**{who: found[name] for who, found in report["before"].items() if name in found}}
    every["tuned"] = report["tuned"][name]
    scale = 100 if name in PERCENT else 1
    made, axes = figure(5.2, 0.9 + 0.45 * len(every))
    colors = [*[FLOOR, BEFORE][-(len(every) - 1) :], TUNED] if 1 < len(every) <= 3 else [BEFORE] * len(every)
    for place, (m, color) in enumerate(zip(every.values(), [*colors[:-1], TUNED], strict=True)):
        axes.plot([scale * m["low"], scale * m["high"]], [place, place], color=color, linewidth=2)
        axes.plot(scale * m["value"], place, "o", color=color, markersize=7)
    axes.set_yticks(range(len(every)), list(every))
    axes.set_ylim(len(every) - 0.5, -0.5)
    axes.set_xlabel(name.replace("_", " ") + (" (%)" if name in PERCENT else ""))
    axes.grid(axis="x", color=FLOOR, alpha=0.25)
    return made


def _curve(curve: Mapping[str, Any]) -> Any:
    made, axes = figure()
    axes.plot(curve["step"], curve["loss"], color=TUNED, alpha=0.25, linewidth=1)
    axes.plot(curve["step"], _smooth(curve["loss"]), color=TUNED, linewidth=1.6, label="training")
    if curve.get("validation_step"):
        axes.plot(
            curve["validation_step"], curve["validation_loss"], "o-", color=BEFORE, markersize=4, label="validation"
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    return made


def _smooth(values: list[float]) -> list[float]:
    """The mean over a window around each step, which at the ends is cut: no lag behind a falling loss."""
    reach = len(values) // 50
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(w) / len(w) for w in windows]


def _reliability(calibration: Mapping[str, Any]) -> Any:
    made, axes = figure()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for (who, groups), color in zip(calibration["reliability"].items(), (TUNED, FLOOR, BEFORE), strict=False):
        x, y, rows = ([g[k] for g in groups] for k in ("confidence", "accuracy", "rows"))
        axes.plot(x, y, "-", color=color, label=who)
        axes.scatter(x, y, [6 + 60 * n / sum(rows) for n in rows], color=color)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (larger dots: more rows)", ylabel="accuracy")
    axes.legend()
    return made


def _confusion(confusion: Mapping[str, Any]) -> Any:
    from matplotlib.colors import to_rgb

    labels, table = [label[:24] for label in confusion["labels"]], confusion["table"]
    size = max(3.2, 0.42 * len(labels) + 1.4)
    made, axes = figure(size + 0.6, size)
    shares = [[v / max(1, sum(row)) for v in row] for row in table]
    axes.imshow([[(*to_rgb(TUNED), share) for share in row] for row in shares], interpolation="none")
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 6 else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.spines[["left", "bottom"]].set_visible(False)
    if len(labels) <= 15:
        for y, row in enumerate(table):
            for x, value in enumerate(row):
                if value:
                    color = "white" if shares[y][x] > 0.6 else INK
                    axes.text(x, y, str(value), ha="center", va="center", fontsize=7, color=color)
    return made
