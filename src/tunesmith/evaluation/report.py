"""A report as a table for the terminal, and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import plots

PERCENT = frozenset({"accuracy", "macro_f1", "micro_f1", "span_f1", "token_accuracy", "exact_match"})


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
    """A difference with its interval and what may be said of it."""
    unit = " points" if name in PERCENT else ""
    scale = 100 if name in PERCENT else 1
    value, low, high = (scale * measured[k] for k in ("value", "low", "high"))
    digits = 1 if name in PERCENT else 3
    return f"{value:+.{digits}f}{unit} ({low:+.{digits}f} to {high:+.{digits}f}): {measured['verdict']}"


def score_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of scores: metric, every baseline, tuned, and tuned against the last baseline."""
    last = list(report["before"])[-1]
    lines = []
    for name in report["tuned"]:
        baselines = [interval(name, s[name]) if name in s else "" for s in report["before"].values()]
        against = report["difference"][last]
        lines.append(
            [
                name,
                *baselines,
                interval(name, report["tuned"][name]),
                change(name, against[name]) if name in against else "",
            ]
        )
    return lines


def cost_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run cost, as pairs of words and figures."""
    cost = report["cost"]
    rows = [
        (
            "trained",
            f"{cost['trainable']:,} of {cost['parameters']:,} weights ({100 * cost['trainable'] / cost['parameters']:.2f} %)",
        ),
        ("stored", f"{cost['stored_bytes'] / 2**20:.1f} MB"),
    ]
    if "steps" in cost:
        rows += [
            ("training", f"{cost['steps']:,} steps in {clock(cost['training_seconds'])}"),
            ("speed", f"{cost['tokens_per_second']:,.0f} tokens/s"),
            ("peak memory", f"{cost['peak_bytes'] / 2**30:.2f} GB"),
        ]
    return [*rows, ("whole run", clock(cost["seconds"]))]


def clock(seconds: float) -> str:
    """Seconds as people read them: ``48 s``, ``3 min 20 s``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def render_terminal(report: Mapping[str, Any]) -> Any:
    """The report as tables of rich."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = report["data"]["splits"]["test"]["rows"]
    scores = Table(title=f"{report['base']}, {report['technique']}: {rows:,} test rows, 95 % intervals", box=box.SIMPLE)
    last = list(report["before"])[-1]
    for heading in ("", *report["before"], "tuned", f"tuned against {last}"):
        scores.add_column(heading)
    for line in score_rows(report):
        scores.add_row(*line)
    parts: list[Any] = [scores]
    if "written" in report:
        parts.append(_written_table(report["written"]))
    parts.append(Text("   ".join(f"{k}: {v}" for k, v in cost_rows(report)), style="dim"))
    parts += [Text(f"warning: {w}", style="yellow") for w in report["warnings"]]
    return Group(*parts)


def _written_table(written: Mapping[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=f"texts written for {written['rows']} test rows", box=box.SIMPLE)
    for heading in ("", "base", "tuned", "tuned against base"):
        table.add_column(heading)
    for name, measured in written["tuned"].items():
        table.add_row(
            name,
            interval(name, written["base"][name]),
            interval(name, measured),
            change(name, written["difference"][name]),
        )
    stopped = written["stopped_by_itself"]
    table.add_row("stopped by itself", f"{100 * stopped['base']:.0f} %", f"{100 * stopped['tuned']:.0f} %", "")
    return table


def render_html(report: Mapping[str, Any], *, title: str) -> str:
    """The report as one page that needs nothing else: tables, and plots as inline SVG."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        report=report,
        title=title,
        headings=[*report["before"], "tuned", f"tuned against {list(report['before'])[-1]}"],
        scores=score_rows(report),
        costs=cost_rows(report),
        plots=plots.all_of(report),
        interval=interval,
        change=change,
    )
