"""A report as a table for the terminal, and as one self-contained page. ``results`` says what a report holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import plots
from .page import render
from .wording import change, clock, figure, interval, sentence

__all__ = [
    "AUDITED", "AUDIT_HEADINGS", "audit_notes", "audit_rows", "audit_summary", "change",
    "confused", "cost_rows", "headings", "interval", "notes", "render_html", "render_terminal", "row_count",
    "score_rows", "summary", "written_rows",
]  # fmt: skip

AUDITED = "What tuning changed besides"
AUDIT_HEADINGS = ("audit", "figure", "base", "tuned", "tuned against base")

MOST_CONFUSED = 10
"""Pairs of classes that the page lists."""


def score_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of scores: metric, every baseline, tuned, and tuned against the last baseline."""
    last = list(report["before"])[-1]
    lines = []
    for name in report["tuned"]:
        baselines = [interval(name, s[name]) if name in s else "" for s in report["before"].values()]
        against = report["difference"][last]
        said = change(name, against[name]) if name in against else ""
        lines.append([name, *baselines, interval(name, report["tuned"][name]), said])
    return lines


def headings(report: Mapping[str, Any]) -> list[str]:
    """What stands above the columns of `score_rows`, but for the first."""
    return [*report["before"], "tuned", f"tuned against {list(report['before'])[-1]}"]


def summary(report: Mapping[str, Any]) -> list[str]:
    """What may be said of the metric that counts most: a sentence for each of what the tuned model has to beat."""
    name = report["metric"]
    return [sentence(name, who, found[name]) for who, found in report["difference"].items() if name in found]


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the figures: metrics that are absent, and intervals that say nothing."""
    absent = list(report.get("notes", ()))
    return absent + [f"{name}: {m['note']}" for name, m in report["tuned"].items() if m.get("note")]


def cost_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run cost, as pairs of words and figures; what was not measured is left out."""
    cost = report["cost"]
    rows = []
    if "trainable" in cost:
        share = 100 * cost["trainable"] / cost["parameters"]
        rows.append(("trained", f"{cost['trainable']:,} of {cost['parameters']:,} weights ({share:.2f} %)"))
    if "stored_bytes" in cost:
        rows.append(("stored", f"{cost['stored_bytes'] / 2**20:.1f} MB"))
    if "steps" in cost:
        rows += [
            ("training", f"{cost['steps']:,} steps in {clock(cost['training_seconds'])}"),
            ("speed", f"{cost['tokens_per_second']:,.0f} tokens/s"),
            ("peak memory", f"{cost['peak_bytes'] / 2**30:.2f} GB"),
        ]
    return [*rows, ("whole run", clock(cost["seconds"]))] if "seconds" in cost else rows


def confused(report: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """The commonest mistakes: true class, class that was said, rows."""
    labels, table = report["confusion"]["labels"], report["confusion"]["table"]
    cells = [(labels[y], labels[x], n) for y, row in enumerate(table) for x, n in enumerate(row) if n and x != y]
    return sorted(cells, key=lambda cell: -cell[2])[:MOST_CONFUSED]


def row_count(report: Mapping[str, Any]) -> int:
    """Number of rows that the scores stand on."""
    return max((m["rows"] for m in report["tuned"].values()), default=0)


def audit_rows(audit: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of audits: what was asked, figure, base, tuned, tuned against base."""
    return [
        [f["audit"].replace("_", " "), f["figure"].replace("_", " "), figure(f["figure"], f["base"]),
         figure(f["figure"], f["tuned"]), change(f["figure"], f["change"])]
        for f in audit["findings"]
    ]  # fmt: skip


def audit_summary(audit: Mapping[str, Any]) -> list[str]:
    """The sentences that say that something changed, or one that says that nothing was seen to."""
    said = [f["words"] for f in audit["findings"] if f["change"]["verdict"] != "no difference seen"]
    return said or ["No audit saw a difference between base and tuned model."]


def audit_notes(audit: Mapping[str, Any]) -> list[str]:
    """Which audits have no answer for this run, and why."""
    return [f"{name.replace('_', ' ')}: {reason}" for name, reason in audit["left_out"].items()]


# ---------------------------------------------------------------------- the terminal


def render_audit(audit: Mapping[str, Any]) -> Any:
    """Audits as a table of rich."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=AUDITED, box=box.SIMPLE)
    for heading in AUDIT_HEADINGS:
        table.add_column(heading)
    for line in audit_rows(audit):
        table.add_row(*map(Text, line))
    return Group(table, *(Text(f"not audited: {n}", style="dim") for n in audit_notes(audit)))


def render_terminal(report: Mapping[str, Any]) -> Any:
    """The report as tables of rich."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{report['base']}, {report['technique']}: {row_count(report):,} test rows, 95 % intervals"
    scores = Table(title=Text(title), box=box.SIMPLE)
    for heading in ("", *headings(report)):
        scores.add_column(Text(heading))
    for line in score_rows(report):
        scores.add_row(*map(Text, line))
    parts: list[Any] = [scores, *map(Text, summary(report))]
    if "written" in report:
        parts.append(_written_table(report["written"]))
    if "audit" in report:
        parts.append(render_audit(report["audit"]))
    parts.append(Text("   ".join(f"{k}: {v}" for k, v in cost_rows(report)), style="dim"))
    parts += [Text(f"note: {n}", style="dim") for n in notes(report)]
    parts += [Text(f"warning: {w}", style="yellow") for w in report["warnings"]]
    return Group(*parts)


def _written_table(written: Mapping[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=f"texts written for {written['rows']} test rows", box=box.SIMPLE)
    for heading in ("", "base", "tuned", "tuned against base"):
        table.add_column(heading)
    for line in written_rows(written):
        table.add_row(*line)
    return table


def written_rows(written: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of generated texts: metric, base, tuned, tuned against base."""
    lines = [
        [name, interval(name, written["base"][name]), interval(name, m), change(name, written["difference"][name])]
        for name, m in written["tuned"].items()
    ]
    stopped = written["stopped_by_itself"]
    return [*lines, ["stopped by itself", f"{100 * stopped['base']:.0f} %", f"{100 * stopped['tuned']:.0f} %", ""]]


# ---------------------------------------------------------------------- the page


def render_html(report: Mapping[str, Any], *, title: str) -> str:
    """The report as one page that needs nothing else: tables, and plots as inline SVG.

    It loads nothing and runs no script (its content policy forbids both), and follows the reader's light or dark scheme.
    """
    return render(
        Path(__file__).parent / "templates" / "report.html",
        report=report,
        title=title,
        headings=headings(report),
        scores=score_rows(report),
        summary=summary(report),
        notes=notes(report),
        rows=row_count(report),
        written=written_rows(report["written"]) if "written" in report else [],
        audited=AUDITED,
        audit_headings=AUDIT_HEADINGS,
        audits=audit_rows(report["audit"]) if "audit" in report else [],
        audit_summary=audit_summary(report["audit"]) if "audit" in report else [],
        audit_notes=audit_notes(report["audit"]) if "audit" in report else [],
        confused=confused(report) if "confusion" in report else [],
        costs=cost_rows(report),
        plots=plots.all_of(report),
    )
