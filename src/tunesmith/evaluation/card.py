"""The model card of a run, in the hub's format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .report import (
    AUDIT_HEADINGS,
    AUDITED,
    audit_notes,
    audit_rows,
    audit_summary,
    cost_rows,
    headings,
    notes,
    row_count,
    score_rows,
    summary,
    written_rows,
)

PIPELINE = {
    "classify": "text-classification", "pair": "text-classification", "regress": "text-classification",
    "tag": "token-classification", "generate": "text-generation", "chat": "text-generation", "lm": "text-generation",
    "prefer": "text-generation",
}  # fmt: skip

CALL = {
    "generate": 'run.generate(["..."])', "chat": 'run.generate(["..."])', "lm": 'run.generate(["..."])',
    "prefer": 'run.generate(["..."])',
    "pair": 'run.predict([["...", "..."]])', "tag": 'run.predict([["a", "few", "words"]])',
}  # fmt: skip
"""How a finished run is asked, where it is not ``run.predict(["..."])``."""


def render_card(
    report: Mapping[str, Any], recipe: str, *, title: str, licence: str | None, language: Sequence[str] = (),
    datasets: Sequence[str] = (), library: str | None = None,
) -> str:  # fmt: skip
    """The card: a YAML head that the hub reads, then what the model is, its scores, its use, its limits and its recipe.

    Args:
        report: what ``report.json`` holds.
        recipe: the complete recipe as YAML.
        title: name of the run.
        licence: the base's licence, if it states one.
        language: language codes of the rows.
        datasets: hub ids of the data sets; without them none is named, as a file's name is no id.
        library: what loads the artefact; ``peft`` for adapters and ``transformers`` for a whole model by default.
    """
    adapter = bool((yaml.safe_load(recipe) or {}).get("adapter"))
    head: dict[str, Any] = {"library_name": library or ("peft" if adapter else "transformers")}
    if _is_id(report["base"]):
        head |= {"base_model": report["base"], "base_model_relation": "adapter" if adapter else "finetune"}
    head |= {"pipeline_tag": PIPELINE[report["task"]], **_licence(licence)}
    head |= {key: list(values) for key, values in (("datasets", datasets), ("language", language)) if values}
    head |= {"tags": ["tunesmith"], "model-index": [{"name": title, "results": [_result(report)]}]}
    yaml_head = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000).strip()
    return "\n".join(["---", yaml_head, "---", "", f"# {title}", "", *_body(report, recipe, title), ""])


def _body(report: Mapping[str, Any], recipe: str, title: str) -> list[str]:
    split = report["data"]["splits"]["train"]
    technique = f" with {report['technique']}" if report["technique"] else ""
    written = report.get("written")
    return [
        f"{_name(report['base'])}, fine-tuned{technique} for the task `{report['task']}` on {split['rows']:,} rows of "
        f"{_name(report['data']['source'])}.", "",
        "## Scores", "", *_list(summary(report)), "",
        f"{row_count(report):,} test rows, which the model has not been trained on:", "",
        *_table(["", *headings(report)], score_rows(report)), "",
        *(["Texts that the model wrote:", "", *_table(["", "base", "tuned", "tuned against base"],
           written_rows(written)), ""] if written else []),
        "Figures in brackets are 95 % bootstrap intervals over the test rows; a difference is taken row by row, and "
        "called better or worse only where its interval leaves out zero.", "",
        *_list(notes(report)),
        *_audited(report.get("audit")),
        "## Use", "", "```python", "import tunesmith as ts", "", f'run = ts.open_run("runs/{title}")',
        CALL.get(report["task"], 'run.predict(["..."])'), 'run.save_pretrained("out/")  # for other tools', "```", "",
        "## Limits", "", *_list(_limits(report)), "",
        "## Cost", "", *_list(f"{name}: {value}" for name, value in cost_rows(report)), "",
        "## Recipe", "", "```yaml", recipe.strip(), "```",
    ]  # fmt: skip


def _audited(audit: Mapping[str, Any] | None) -> list[str]:
    if not audit:
        return []
    table = _table(AUDIT_HEADINGS, audit_rows(audit))
    left = [f"Not audited: {note}." for note in audit_notes(audit)]
    return [f"## {AUDITED}", "", *_list(audit_summary(audit)), "", *table, "", *_list(left), ""]


def _limits(report: Mapping[str, Any]) -> list[str]:
    """What the scores do not say, and what the run itself saw."""
    length = report["data"]["max_length"]
    return [
        "The scores hold for rows like the test rows, which were drawn from the same source as the training rows or "
        "given with them; other text was not measured, and neither were bias and safety.",
        f"Rows were read up to {length:,} tokens.",
        "The intervals cover the choice of test rows, not that of the seed: this is one run.",
        *report["warnings"],
    ]


def _result(report: Mapping[str, Any]) -> dict[str, Any]:
    metrics = [
        {
            "type": name,
            "value": round(m["value"], 5),
            "name": f"{name} ({100 * m['level']:g} % interval {m['low']:.4f} to {m['high']:.4f}, {m['rows']:,} rows)",
        }
        for name, m in report["tuned"].items()
    ]
    source = _name(report["data"]["source"])
    return {
        "task": {"type": PIPELINE[report["task"]]},
        "dataset": {"name": source, "type": source, "split": "test"},
        "metrics": metrics,
    }


def _licence(licence: str | None) -> dict[str, str]:
    """The hub knows identifiers such as ``apache-2.0``; anything longer is ``other``, with its words beside it."""
    if not licence:
        return {}
    if re.fullmatch(r"[\w.+-]+", licence):
        return {"license": licence.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+-]+", "-", licence.lower()).strip("-")}


def _is_id(base: str) -> bool:
    """Whether a base's name is an alias or a hub id, and not a folder of somebody's machine."""
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", base) is not None and not Path(base).exists()


def _name(source: str) -> str:
    """A source without the folders of the machine that it was read on."""
    absolute = source.startswith(("/", "~", ".", "\\")) or re.match(r"[A-Za-z]:[\\/]", source)
    return re.split(r"[\\/]", source)[-1] if absolute else source


def _table(top: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (top, ["---"] * len(top), *lines)]
    return ["| " + " | ".join(line) + " |" for line in cells]


def _list(lines: Any) -> list[str]:
    return [f"- {' '.join(str(line).split())}" for line in lines]
