"""A run's report: what was measured before and after, handed to the evaluation, and the files that say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.answers import Answers
from ..evaluation.results import build_report, written_section
from ..parts import find
from ..storage import atomic_file, write_json
from .prepare import Prepared


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
    return build_report(
        prepared.task.name,
        after["answers"],
        before["answers"],
        base=prepared.base.name,
        technique=technique(prepared),
        texts=after["texts_of_rows"],
        data=prepared.facts,
        curve=_curve(events),
        cost={**cost, **_training_cost(events)},
        warnings=[e["text"] for e in events if e["event"] == "warning"],
        written=_written(before["texts"], after["texts"], prepared) if "texts" in after else None,
        seed=prepared.recipe.seed,
    )


def technique(prepared: Prepared) -> str:
    """What trained, in a few words: ``lora (rank 8)``."""
    return technique_of(prepared.recipe.to_dict())


def technique_of(recipe: Mapping[str, Any]) -> str:
    """The same of a plain recipe, every default written out."""
    parts = [*recipe["adapter"], *([recipe["mask"]] if recipe["mask"] else [])]
    named = []
    for kind, part in zip(["adapter"] * len(recipe["adapter"]) + ["mask"], parts, strict=False):
        ((name, settings),) = part.items()
        own = [(k, v) for k, v in settings.items() if find(kind, name).settings[k].own]
        named.append(name + (f" ({', '.join(f'{k} {v}' for k, v in own[:1])})" if own else ""))
    return " + ".join(named)


def _written(before: dict[str, Any], after: dict[str, Any], prepared: Prepared) -> dict[str, Any]:
    tuned: Answers = after["answers"]
    return written_section(
        [_prompt(prepared, row) for row in after["rows"]],
        tuned,
        before["answers"],
        stopped={"base": before["stopped"], "tuned": after["stopped"]},
        seed=prepared.recipe.seed,
    )


def _prompt(prepared: Prepared, row: dict[str, Any]) -> str:
    task: Any = prepared.task
    if task.name == "chat":
        return "\n".join(m["content"] for m in task.messages(row)[:-1])[-400:]
    return str(task.prompt(row))[:400]


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

    source = str(prepared.recipe.rows.train)
    hub = [source.removeprefix("hub:").split("#")[0]] if source.startswith("hub:") else []
    write_json(folder / "report.json", report)
    with atomic_file(folder / "report.html") as file:
        file.write(render_html(report, title=folder.name))
    with atomic_file(folder / "card.md") as file:
        recipe = prepared.recipe.to_yaml()
        file.write(render_card(report, recipe, title=folder.name, licence=prepared.base.licence, datasets=hub))
