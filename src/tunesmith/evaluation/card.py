"""The model card of a run, in the hub's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from .report import cost_rows, score_rows

PIPELINE = {
    "classify": "text-classification", "pair": "text-classification", "regress": "text-classification",
    "tag": "token-classification", "generate": "text-generation", "chat": "text-generation", "lm": "text-generation",
}  # fmt: skip


def render_card(report: Mapping[str, Any], recipe: str, *, title: str, licence: str | None) -> str:
    """The card: a YAML head that the hub reads, then what the model is, its scores and its recipe.

    Args:
        report: what ``report.json`` holds.
        recipe: the complete recipe as YAML.
        title: name of the run.
        licence: the base's licence, if it states one.
    """
    adapter = "adapter:" in recipe and "adapter: []" not in recipe
    head: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "base_model": report["base"],
        "base_model_relation": "adapter" if adapter else "finetune",
        "pipeline_tag": PIPELINE[report["task"]],
        "tags": ["tunesmith"],
        "datasets": [report["data"]["source"]],
        "model-index": [{"name": title, "results": [_result(report)]}],
    }
    if licence:
        head["license"] = licence.lower()
    return "\n".join(
        [
            "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---", "", f"# {title}", "",
            f"{report['base']}, fine-tuned with {report['technique']} for the task `{report['task']}` on "
            f"{report['data']['splits']['train']['rows']:,} rows of {report['data']['source']}.", "",
            "## Scores", "", *_table(report), "",
            "Intervals are 95 % bootstrap intervals over the test rows; a difference is called better or worse only where "
            "its interval leaves out zero.", "",
            "## Use", "", "```python", "import tunesmith as ts", "", f'run = ts.open_run("runs/{title}")',
            'run.predict(["..."])', "```", "",
            "## Cost", "", *(f"- {name}: {value}" for name, value in cost_rows(report)), "",
            "## Recipe", "", "```yaml", recipe.strip(), "```", "",
        ]
    )  # fmt: skip


def _result(report: Mapping[str, Any]) -> dict[str, Any]:
    metrics = [
        {
            "type": name,
            "value": round(m["value"], 5),
            "name": f"{name} (95 % interval {m['low']:.4f} to {m['high']:.4f})",
        }
        for name, m in report["tuned"].items()
    ]
    return {
        "task": {"type": PIPELINE[report["task"]]},
        "dataset": {"name": report["data"]["source"], "type": report["data"]["source"], "split": "test"},
        "metrics": metrics,
    }


def _table(report: Mapping[str, Any]) -> list[str]:
    headings = ["", *report["before"], "tuned", f"tuned against {list(report['before'])[-1]}"]
    lines = [headings, ["---"] * len(headings), *score_rows(report)]
    return ["| " + " | ".join(line) + " |" for line in lines]
