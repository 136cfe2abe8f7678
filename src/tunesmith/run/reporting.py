"""A run's report: base against tuned with intervals, what it cost, and the files that say so."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluation.calibration import confusion, expected_calibration_error, reliability, worst
from ..evaluation.intervals import difference, measure, verdict
from ..evaluation.metrics import Answers, names_for
from ..storage import atomic_file, write_json
from .prepare import Prepared

SCHEMA = 1


def make_report(
    prepared: Prepared,
    before: dict[str, Any],
    after: dict[str, Any],
    events: list[dict[str, Any]],
    *,
    cost: dict[str, Any],
) -> dict[str, Any]:
    """Everything that ``report.json`` holds.

    Args:
        prepared: the run.
        before: answers of the base and of the baselines.
        after: answers of the tuned model on the same rows.
        events: the run's events.
        cost: time, tensors and bytes.
    """
    task, tuned = prepared.task, after["answers"]
    names = names_for(task.name, multi=bool(getattr(task, "multi", False)))
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "task": task.name,
        "base": prepared.base.name,
        "technique": technique(prepared),
        "metric": names[0],
        "data": prepared.facts,
        "tuned": {n: asdict(measure(n, tuned)) for n in names},
        "before": {who: _scores(said, names) for who, said in before["answers"].items()},
        "difference": {who: _differences(tuned, said, names) for who, said in before["answers"].items()},
        "worst": worst(tuned, after["texts_of_rows"]) if len(tuned) == len(after["texts_of_rows"]) else [],
        "curve": _curve(events),
        "cost": {**cost, **_training_cost(events)},
        "warnings": [e["text"] for e in events if e["event"] == "warning"],
    }
    if tuned.probabilities is not None and not tuned.multi:
        report["calibration"] = _calibration(tuned, before["answers"])
        report["confusion"] = {"labels": list(tuned.labels), "table": confusion(tuned)}
    if "texts" in after:
        report["written"] = _written(before["texts"], after["texts"], prepared)
    return report


def technique(prepared: Prepared) -> str:
    """What trained, in a few words: ``lora (rank 8)``."""
    recipe = prepared.recipe
    parts = [*recipe.adapter, *([recipe.mask] if recipe.mask else [])]
    return " + ".join(
        p.name + (f" ({', '.join(f'{k} {v}' for k, v in list(p.own.items())[:1])})" if p.own else "") for p in parts
    )


def _scores(said: Answers, names: tuple[str, ...]) -> dict[str, Any]:
    return {n: asdict(measure(n, said)) for n in names if _can(n, said)}


def _differences(tuned: Answers, said: Answers, names: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for name in names:
        if _can(name, said):
            change = difference(name, tuned, said)
            found[name] = {**asdict(change), "verdict": verdict(change)}
    return found


def _can(name: str, said: Answers) -> bool:
    """A baseline without probabilities has no loss."""
    return not (name in ("log_loss", "loss", "perplexity") and said.probabilities is None and said.loss is None)


def _calibration(tuned: Answers, before: dict[str, Answers]) -> dict[str, Any]:
    every = {"tuned": tuned, **{w: a for w, a in before.items() if a.probabilities is not None}}
    return {
        "ece": {who: expected_calibration_error(a) for who, a in every.items()},
        "reliability": {who: reliability(a) for who, a in every.items()},
    }


def _written(before: dict[str, Any], after: dict[str, Any], prepared: Prepared) -> dict[str, Any]:
    from importlib.util import find_spec

    missing = [p for p in ("sacrebleu", "rouge_score") if find_spec(p) is None]
    names = [n for n in names_for("text") if not missing or n == "exact_match"]
    tuned, base = after["answers"], before["answers"]
    found: dict[str, Any] = {
        "rows": len(tuned),
        "stopped_by_itself": {"base": _share(before["stopped"]), "tuned": _share(after["stopped"])},
        "tuned": {n: asdict(measure(n, tuned)) for n in names},
        "base": {n: asdict(measure(n, base)) for n in names},
        "difference": _differences(tuned, base, tuple(names)),
        "samples": [
            {"prompt": _prompt(prepared, row), "reference": r, "base": b, "tuned": t}
            for row, r, b, t in zip(after["rows"], tuned.references, base.predictions, tuned.predictions, strict=True)
        ][:8],
    }
    if missing:
        found["note"] = (
            f"rouge_l and chrf were not measured: pip install 'tunesmith[metrics]' ({', '.join(missing)} missing)"
        )
    return found


def _prompt(prepared: Prepared, row: dict[str, Any]) -> str:
    task: Any = prepared.task
    if task.name == "chat":
        return str(task.messages(row)[-2]["content"])[:400]
    return str(task.prompt(row))[:400]


def _share(flags: list[bool]) -> float:
    return sum(flags) / max(1, len(flags))


def _curve(events: list[dict[str, Any]]) -> dict[str, Any]:
    steps = [e for e in events if e["event"] == "step"]
    held = [e for e in events if e["event"] == "validation"]
    return {
        "step": [e["step"] for e in steps], "loss": [e["loss"] for e in steps], "rate": [e["rate"] for e in steps],
        "validation_step": [e["step"] for e in held], "validation_loss": [e["loss"] for e in held],
    }  # fmt: skip


def _training_cost(events: list[dict[str, Any]]) -> dict[str, Any]:
    ends = [e for e in events if e["event"] == "end"]
    steps = [e for e in events if e["event"] == "step"]
    if not ends or not steps:
        return {}
    end = ends[-1]
    return {
        "steps": end["step"], "training_seconds": end["seconds"], "tokens": end["tokens"], "stopped": end["stopped"],
        "tokens_per_second": end["tokens"] / max(end["seconds"], 1e-9), "peak_bytes": max(e["memory"] for e in steps),
    }  # fmt: skip


def write_report(report: dict[str, Any], prepared: Prepared, folder: Path) -> None:
    """``report.json``, ``report.html`` and ``card.md``."""
    from ..evaluation.card import render_card
    from ..evaluation.report import render_html

    write_json(folder / "report.json", report)
    with atomic_file(folder / "report.html") as file:
        file.write(render_html(report, title=folder.name))
    with atomic_file(folder / "card.md") as file:
        file.write(render_card(report, prepared.recipe.to_yaml(), title=folder.name, licence=prepared.base.licence))
