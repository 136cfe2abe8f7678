"""Plots of a report, drawn by matplotlib as inline SVG without a date or a random id, so that they can be compared."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

INK, TUNED, BEFORE = "#5b6470", "#2563eb", "#d97706"


def all_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Caption and SVG of every plot that the report has figures for."""
    plots = [("Loss over the steps, and on the validation rows.", _curve(report["curve"]))]
    if "calibration" in report:
        ece = ", ".join(f"{who} {value:.3f}" for who, value in report["calibration"]["ece"].items())
        plots.append((f"Accuracy by confidence; calibration error: {ece}.", _reliability(report["calibration"])))
    if "confusion" in report and len(report["confusion"]["labels"]) <= 30:
        plots.append(
            ("Rows of each true class (down) by the class that was said (across).", _confusion(report["confusion"]))
        )
    return plots


def _figure(width: float = 5.2, height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    return made, axes


def _svg(made: Any) -> str:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "tunesmith", "svg.fonttype": "none", "font.size": 9}):
        made.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _curve(curve: Mapping[str, Any]) -> str:
    made, axes = _figure()
    axes.plot(curve["step"], curve["loss"], color=TUNED, alpha=0.25, linewidth=1)
    axes.plot(curve["step"], _smooth(curve["loss"]), color=TUNED, linewidth=1.6, label="training")
    if curve["validation_step"]:
        axes.plot(
            curve["validation_step"], curve["validation_loss"], "o-", color=BEFORE, markersize=4, label="validation"
        )
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("loss", color=INK)
    axes.legend(frameon=False, fontsize=8)
    return _svg(made)


def _smooth(values: list[float]) -> list[float]:
    smooth, weight, kept = [], 0.0, 0.0
    for value in values:
        kept, weight = 0.95 * kept + 0.05 * value, 0.95 * weight + 0.05
        smooth.append(kept / weight)
    return smooth


def _reliability(calibration: Mapping[str, Any]) -> str:
    made, axes = _figure()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for (who, groups), color in zip(calibration["reliability"].items(), (TUNED, "#9ca3af", BEFORE), strict=False):
        axes.plot(
            [g["confidence"] for g in groups],
            [g["accuracy"] for g in groups],
            "o-",
            color=color,
            markersize=4,
            label=who,
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_xlabel("confidence", color=INK)
    axes.set_ylabel("accuracy", color=INK)
    axes.legend(frameon=False, fontsize=8)
    return _svg(made)


def _confusion(confusion: Mapping[str, Any]) -> str:
    labels, table = confusion["labels"], confusion["table"]
    size = max(3.2, 0.42 * len(labels) + 1.4)
    made, axes = _figure(size + 0.6, size)
    shares = [[v / max(1, sum(row)) for v in row] for row in table]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    if len(labels) <= 15:
        for y, row in enumerate(table):
            for x, value in enumerate(row):
                if value:
                    dark = shares[y][x] > 0.5
                    axes.text(
                        x, y, str(value), ha="center", va="center", fontsize=7, color="white" if dark else "#1f2937"
                    )
    return _svg(made)
