"""A comparison as a table for the terminal, and as one self-contained page. ``Comparison.to_dict`` says what it holds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.page import render
from ..storage import hash_json
from . import plots
from .wording import COST_NAMES, SEEN, called, cost, how, known, names, pair, score, signed, summary

SIGNS = {"better": "▲", "worse": "▼", "higher": "▲", "lower": "▼"}

IN_TERMINAL = ("trainable", "stored_bytes", "peak_bytes", "training_seconds")
"""Costs of the terminal's table; the page has all."""


# ---------------------------------------------------------------------- tables


def score_headings(comparison: Mapping[str, Any]) -> list[str]:
    """What stands above the columns of `score_rows`."""
    first = names(comparison)[0]
    return ["recipe", comparison["metric"].replace("_", " "), "spread over seeds",
            f"against {comparison['before']['name']}", f"against {first}"]  # fmt: skip


def score_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of scores: the base, then each recipe with its differences from base and first recipe."""
    metric, before = comparison["metric"], comparison["before"]
    lines = [[before["name"], score(metric, before["score"]), "", "", ""]]
    for recipe in comparison["recipes"]:
        others = (before["name"], names(comparison)[0])
        pairs = [pair(comparison, recipe["name"], other) for other in others]
        spread = recipe["score"]["spread"]
        lines.append([
            recipe["name"], score(metric, recipe["score"]), signed(metric, spread)[1:] if known(spread) else "",
            *(called(metric, p) if p else "" for p in pairs),
        ])  # fmt: skip
    return lines


def cost_keys(comparison: Mapping[str, Any]) -> list[str]:
    """The costs that at least one recipe has a figure of."""
    return [k for k in COST_NAMES if any(known(r["cost"].get(k)) for r in comparison["recipes"])]


def cost_rows(comparison: Mapping[str, Any], keys: Sequence[str]) -> list[list[str]]:
    """Lines of the table of costs: recipe, technique, then the median over the seeds of each cost."""
    return [
        [r["name"], r["technique"] or "", *(cost(k, r["cost"].get(k)) for k in keys)] for r in comparison["recipes"]
    ]


def matrix(comparison: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each recipe against each, row minus column: name, then text and verdict of every cell."""
    every = names(comparison)
    return [(ours, [_cell(comparison, ours, theirs) for theirs in every]) for ours in every]


def _cell(comparison: Mapping[str, Any], ours: str, theirs: str) -> tuple[str, str]:
    found = pair(comparison, ours, theirs)
    if found is None:
        return "", ""
    sign = SIGNS.get(found["verdict"], "")
    return f"{signed(comparison['metric'], found['value'])} {sign}".strip(), found["verdict"]


def signs(comparison: Mapping[str, Any]) -> str:
    """What the signs of the matrix mean; only those that stand in it."""
    found = {verdict for _, cells in matrix(comparison) for _, verdict in cells}
    said = [f"{sign} {verdict}" for verdict, sign in SIGNS.items() if verdict in found]
    return ", ".join([*said, *(["without a sign: no difference seen"] if found - {*SEEN, ""} else [])])


# ---------------------------------------------------------------------- audits


def audit_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table of audits: what was asked, figure, and for each recipe the mean change over its seeds."""
    findings = {recipe["name"]: _findings(recipe["audit"]) for recipe in comparison["recipes"]}
    asked = dict.fromkeys(key for found in findings.values() for key in found)
    return [
        [key[0].replace("_", " "), key[1].replace("_", " "), *(_change(key[1], f.get(key, ())) for f in findings.values())]
        for key in asked
    ]  # fmt: skip


def _findings(audits: Sequence[Any]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """(audit, figure) -> the change with each seed."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for audit in audits or ():
        for finding in audit.get("findings", ()) if isinstance(audit, Mapping) else audit or ():
            found.setdefault((finding["audit"], finding["figure"]), []).append(finding["change"])
    return found


def _change(name: str, changes: Sequence[Mapping[str, Any]]) -> str:
    if not changes:
        return ""
    if len(changes) == 1:
        return f"{signed(name, changes[0]['value'])}: {changes[0]['verdict']}"
    called_so = [c["verdict"] for c in changes if c["verdict"] in SEEN]
    counts = [f"{v} with {called_so.count(v)} of {len(changes)} seeds" for v in dict.fromkeys(called_so)]
    mean = signed(name, statistics.fmean(c["value"] for c in changes))
    return f"{mean}: {', '.join(counts) or 'no difference seen'}"


# ---------------------------------------------------------------------- where it comes from


def environment_rows(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Machine, versions and commit of the first result, as pairs of words."""
    about = comparison["environment"]
    packages = ", ".join(f"{k} {v}" for k, v in about.get("packages", {}).items())
    threads = f"{about['threads']} thread{'s' if about['threads'] != 1 else ''}" if about.get("threads") else ""
    machine = ", ".join(str(v) for v in (about.get("processor"), about.get("device"), threads) if v)
    rows = [
        ("machine", machine), ("platform", about.get("platform")), ("precision", about.get("precision")),
        ("Python", about.get("python")), ("packages", packages), ("tunesmith", about.get("tunesmith")),
        ("commit", about.get("commit")), ("date", about.get("date")),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value]


def fingerprint_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Each recipe and the fingerprint of its result with each seed: the names of the files in the store."""
    return [[name, *(hash_json(facts)[:24] for facts in found)] for name, found in comparison["fingerprints"].items()]


# ---------------------------------------------------------------------- the terminal


def render_terminal(comparison: Mapping[str, Any]) -> Any:
    """The comparison as tables of rich: scores with differences, costs, and what may be said."""
    from rich.console import Group
    from rich.text import Text

    title = f"{comparison['base']}, {comparison['task']}: {comparison['rows']:,} held-out rows, " + (
        f"{len(comparison['seeds'])} seeds, {100 * comparison['level']:g} % intervals"
    )
    keys = [k for k in IN_TERMINAL if k in cost_keys(comparison)]
    costs = [[line[0], *line[2:]] for line in cost_rows(comparison, keys)]
    parts: list[Any] = [_table(title, score_headings(comparison), score_rows(comparison))]
    parts.append(_table("", ["recipe", *(COST_NAMES[k] for k in keys)], costs))
    if audits := audit_rows(comparison):
        parts.append(_table("what tuning changed besides", ["audit", "figure", *names(comparison)], audits))
    return Group(*parts, *map(Text, summary(comparison)), Text(comparison["power"], style="dim"))


def _table(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, box=box.SIMPLE)
    for heading in headings:
        table.add_column(Text(heading))
    for line in lines:
        table.add_row(*map(Text, line))
    return table


# ---------------------------------------------------------------------- the page


def render_html(comparison: Mapping[str, Any], title: str) -> str:
    """The comparison as one page that needs nothing else: tables, and plots as inline SVG.

    It loads nothing and runs no script (its content policy forbids both), and follows the reader's light or dark scheme.

    Args:
        comparison: what ``Comparison.to_dict`` gives, or ``comparison.json`` holds.
        title: above the page.
    """
    keys = cost_keys(comparison)
    return render(
        Path(__file__).parent / "templates" / "comparison.html", comparison=comparison, title=title,
        summary=summary(comparison), how=how(comparison),
        score_headings=score_headings(comparison), scores=score_rows(comparison),
        cost_headings=["recipe", "technique", *(COST_NAMES[k] for k in keys)], costs=cost_rows(comparison, keys),
        names=names(comparison), matrix=matrix(comparison), signs=signs(comparison), audits=audit_rows(comparison),
        plots=plots.all_of(comparison), environment=environment_rows(comparison),
        fingerprints=fingerprint_rows(comparison), seeds=[f"seed {s}" for s in comparison["seeds"]],
        recipes=[(r["name"], _yaml(r["recipe"])) for r in comparison["recipes"]],
    )  # fmt: skip


def _yaml(recipe: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
