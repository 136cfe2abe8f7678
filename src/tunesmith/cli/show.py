"""What the commands that only look show: as rich tables for people, as plain values for machines."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown


def _table(title: str, headings: Sequence[str], lines: Sequence[Sequence[Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for line in lines:
        table.add_row(*(str(v) for v in line))
    return table


# ---------------------------------------------------------------------- parts


def parts_table(kind: str | None, as_json: bool) -> Any:
    """Every part, or those of one kind (``adapter`` or ``adapters``)."""
    from .. import parts

    singular = {folder: name for name, folder in parts.KINDS.items()}
    kind = singular.get(kind or "", kind)
    if kind is not None and kind not in parts.KINDS:
        raise unknown("kind", kind, parts.KINDS)
    found = [p for p in parts.every() if kind in (None, p.kind)]
    if as_json:
        return [_part_facts(p) for p in found]
    if kind in ("adapter", "mask"):
        from .measured import parts_measured

        return parts_measured(found)
    lines = [(p.kind, p.name, p.summary, p.source) for p in found]
    return _table(f"{len(found)} parts", ("kind", "name", "what it does", "source"), lines)


def part_page(name: str, as_json: bool) -> Any:
    """One part in full."""
    from .. import parts

    found = [p for p in parts.every() if p.name == name.lower()]
    if not found:
        raise unknown("part", name, [p.name for p in parts.every()])
    part = found[0]
    if as_json:
        return _part_facts(part)
    from rich.console import Group
    from rich.text import Text

    from .measured import lines_measured

    lines = [(s.name, _type_name(s.annotation), s.default, s.help) for s in part.settings.values()]
    known = {**part.attributes, **_rate(part.attributes)}
    facts = [f"{k}: {v}" for k, v in known.items() if k in ("rate", "folds", "accepts", "peft") and v != ""]
    use = f"use: --set {part.kind}.{part.name}.SETTING=VALUE" if lines else f"use: --set {part.kind}={part.name}"
    return Group(
        Text(f"{part.kind} {part.name}", style="bold"), Text(part.doc.split("\n\nSettings:")[0]), Text(""),
        _table("settings", ("name", "type", "default", ""), lines) if lines else Text("no settings"),
        Text("; ".join(facts)), *map(Text, lines_measured(part)), Text(use, style="dim"),
    )  # fmt: skip


def _rate(attributes: Mapping[str, Any]) -> dict[str, str]:
    """A part's learning rate in words, if it has one."""
    from ..recipe import TESTED_WIDTH

    if "rate" not in attributes:
        return {}
    power = attributes["width_power"]
    return {
        "rate": f"{attributes['rate']:g} up to width {TESTED_WIDTH}, lower with the power {power:g} of the width above"
    }


def _type_name(annotation: str) -> str:
    """The type of a setting in words."""
    from .. import settings

    doc = {
        "Count": "whole number, 1 or more", "Whole": "whole number, 0 or more", "Positive": "number above 0",
        "NonNegative": "number, 0 or more", "Share": "number from 0 to 1", "Decay": "number from 0 to below 1",
        "Roles": "list of roles", "Layers": "list of layers, or all",
    }  # fmt: skip
    assert all(hasattr(settings, name) for name in doc)
    return " or ".join(doc.get(a.strip(), a.strip()).replace("None", "none") for a in annotation.split("|"))


def _part_facts(part: Any) -> dict[str, Any]:
    settings = {s.name: {"type": s.annotation, "default": s.default, "help": s.help} for s in part.settings.values()}
    facts = {k: v for k, v in part.attributes.items() if k not in ("targets", "layers")}
    from .. import measured

    known = {"measured": measured.facts(part.kind, part.name) or None} if part.kind in ("adapter", "mask") else {}
    return {
        "kind": part.kind, "name": part.name, "doc": part.doc, "source": part.source, "settings": settings, **facts, **known,
    }  # fmt: skip


# ---------------------------------------------------------------------- bases and rows


def packaged_bases(as_json: bool) -> Any:
    """The packaged bases; those that are here already are marked."""
    from dataclasses import asdict

    from ..models.packaged import catalogue

    entries = list(catalogue())
    if as_json:
        return [{**asdict(e), "here": e.folder.exists()} for e in entries]
    lines = [
        (e.alias, e.architecture, f"{e.parameters / 1e6:.1f} M", e.languages, e.licence or "none stated",
         "here" if e.folder.exists() else f"{e.megabytes} MB to fetch", e.about)
        for e in entries
    ]  # fmt: skip
    headings = ("alias", "kind", "weights", "languages", "licence", "", "what it is")
    return _table("packaged bases (any local folder or hub id works too)", headings, lines)


def packaged_rows(as_json: bool) -> Any:
    """The packaged sets of rows."""
    from dataclasses import asdict

    from ..data.packaged import catalogue

    entries = list(catalogue())
    if as_json:
        return [asdict(e) for e in entries]
    lines = [(f"packaged:{e.alias}", e.task, f"{e.rows:,}", e.about) for e in entries]
    return _table("packaged rows", ("name", "task", "rows", "what it is"), lines)


def rows_found(source: str, task: str | None, columns: Mapping[str, str], base: str | None, as_json: bool) -> Any:
    """What is in a file: columns, task, and three rows, with a base token by token."""
    from ..data.detect import detect
    from ..data.rows import read

    rows = read(source)
    found = detect(rows, task, dict(columns) or None)
    reader = _reader(base, rows, found) if base else None
    first = [rows[i] for i in range(min(3, len(rows)))]
    if as_json:
        types = {f.name: str(f.type) for f in rows.table.schema if f.name in rows.columns}
        return {"source": rows.source, "rows": len(rows), "columns": types, "task": found.describe(),
                "notes": found.notes, "fingerprint": rows.fingerprint, "examples": first}  # fmt: skip
    from rich.console import Group
    from rich.text import Text

    schema = [(f.name, f.type) for f in rows.table.schema if f.name in rows.columns]
    return Group(
        Text(f"{rows.source}: {len(rows):,} rows", style="bold"),
        _table("columns", ("name", "type"), schema),
        *(Text(note) for note in found.notes),
        *rendered(found, reader, rows),
    )


def _reader(base: str, rows: Any, task: Any) -> Any:
    import numpy as np

    from ..data.encode import suggest_length
    from ..data.reader import Reader
    from ..models.bases import resolve

    info = resolve(base)
    limit = info.max_length or 1024
    first = Reader(info.tokenizer(), info.architecture, max_length=limit)
    length = suggest_length(rows, np.arange(len(rows)), task, first, limit)
    return Reader(first.tokenizer, info.architecture, max_length=length, policy="truncate")


def rendered(task: Any, reader: Any, rows: Any) -> list[Any]:
    """Three rows as the model sees them; what is supervised is green, and stands in ``[[...]]``."""
    from ..data.render import as_text, render

    return [as_text(row) for row in render(task, reader, rows)]


# ---------------------------------------------------------------------- runs and machine


def scores_table(result: Mapping[str, Any]) -> Any:
    """Scores of `Run.evaluate`."""
    from ..evaluation.wording import change, interval

    base = result.get("base", {})
    lines = [
        (name, *([interval(name, base[name])] if base else []), interval(name, m),
         *([change(name, result["difference"][name])] if base else []))
        for name, m in result["tuned"].items()
    ]  # fmt: skip
    headings = ("", "base", "tuned", "tuned against base") if base else ("", "tuned")
    return _table(f"{result['rows']:,} rows, 95 % intervals", headings, lines)


def report_of(folder: Path, as_json: bool) -> Any:
    """The report of a run; reads nothing but its file."""
    import json

    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except OSError:
        raise InputError("holds no report", where=folder, expected="the folder of a finished run") from None
    from ..evaluation.report import render_terminal

    return report if as_json else render_terminal(report)


EXTRAS = {"metrics": ("sacrebleu", "rouge_score"), "bases": ("gguf",), "hub": ("datasets",), "peft": ("peft",)}


def doctor_table(as_json: bool) -> Any:
    """Versions, device, precision, caches and extras of this machine."""
    import os
    import shutil
    from importlib.util import find_spec

    import torch
    import transformers

    from .. import __version__
    from ..engine.precision import bf16_gain, pick
    from ..run.build import device
    from ..storage import cache_home

    here = device()
    home = cache_home()
    exists = next(p for p in (home, *home.parents) if p.exists())
    facts: dict[str, Any] = {
        "tunesmith": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "device": str(here), "cpu threads": torch.get_num_threads(),
        "precision that auto picks": str(pick("auto", here)).removeprefix("torch."),
        "bf16 matrix products against fp32": f"{bf16_gain(here.type):.1f} times as fast",
        "cache": str(home), "free disk": f"{shutil.disk_usage(exists).free / 2**30:.1f} GB",
        "cache can be written": os.access(exists, os.W_OK),
        "network": "off (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else "only when an input names it",
    }  # fmt: skip
    for extra, modules in EXTRAS.items():
        missing = [m for m in modules if find_spec(m) is None]
        facts[f"extra {extra}"] = f"missing: pip install 'tunesmith[{extra}]'" if missing else "installed"
    return facts if as_json else _table("this machine", ("", ""), list(facts.items()))


def audit_table(found: dict[str, Any]) -> Any:
    """What audits found, in words and as a table."""
    from rich.console import Group
    from rich.text import Text

    from ..evaluation.report import audit_summary, render_audit

    return Group(render_audit(found), *map(Text, audit_summary(found)))
