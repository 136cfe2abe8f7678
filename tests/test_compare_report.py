"""The report of a comparison: what it says, what it must not say, and that it needs nothing else."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tunesmith.comparing.plots import MOST_PAIRS, drawn_pairs
from tunesmith.comparing.report import render_html, render_terminal, score_rows
from tunesmith.comparing.statistics import adjusted, combine, power_statement, verdict
from tunesmith.comparing.wording import pair, summary

BASE = "base (linear probe)"
SEEDS = [0, 1, 2, 3, 4]


def planted(
    means: dict[str, float], spread: float = 0.004, metric: str = "accuracy", audit: Any = None
) -> dict[str, Any]:
    """What `Comparison.to_dict` gives, of scores that are drawn around these means; the base has 0.7."""
    draw = np.random.default_rng(0)
    values = {name: mean + spread * draw.normal(size=len(SEEDS)) for name, mean in means.items()}
    greater = metric != "loss"
    named = [(n, BASE, v - 0.7) for n, v in values.items()]
    order = list(values)
    named += [(b, a, values[b] - values[a]) for i, a in enumerate(order) for b in order[i + 1 :]]
    effects = [combine(v, 1e-5, 400, greater=greater) for _, _, v in named]
    corrected = adjusted([e.p for e in effects])
    return {
        "schema": 1, "task": "classify", "base": "minilm-l6", "metric": metric, "greater": greater, "seeds": SEEDS,
        "level": 0.95, "correction": "holm", "rows": 400, "source": "reviews <all>.csv",
        "before": {"name": BASE, "score": {**vars(combine(np.array([0.7]), 1e-5, 400))}},
        "recipes": [_recipe(i, name, v, audit) for i, (name, v) in enumerate(values.items())],
        "pairs": [
            {"ours": a, "theirs": b, **vars(e), "p_corrected": p, "verdict": verdict(e, p)}
            for (a, b, _), e, p in zip(named, effects, corrected, strict=True)
        ],
        "front": {c: order[:1] for c in ("training_seconds", "trainable", "peak_bytes")},
        "power": power_statement(effects[-1], lambda v: f"{100 * v:.1f} points"),
        "environment": {"python": "3.11", "packages": {"torch": "2.13"}, "threads": 1, "processor": "EPYC", "commit": "abc"},
        "fingerprints": {name: [{"seed": s, "name": name} for s in SEEDS] for name in order},
    }  # fmt: skip


def _recipe(i: int, name: str, values: np.ndarray, audit: Any) -> dict[str, Any]:
    cost = {
        "trainable": 10.0 ** (i % 5 + 3), "stored_bytes": 1e6, "peak_bytes": 1e9 + 1e8 * i, "seconds": 60.0,
        "training_seconds": 20.0 + 3 * i, "cpu_seconds": 50.0, "tokens": 9000.0, "flops": 3.2e12, "joules": None,
    }  # fmt: skip
    return {
        "name": name, "technique": "lora (rank 8)", "score": vars(combine(values, 1e-5, 400)), "values": list(values),
        "scores": [], "cost": cost, "recipe": {"adapter": [{"lora": {"rank": 8}}], "seed": 0}, "audit": [audit] * 5,
    }  # fmt: skip


FINDING = {
    "audit": "character_noise", "figure": "accuracy", "base": 0.7, "tuned": 0.6, "words": "It fell.",
    "change": {"value": -0.1, "low": -0.15, "high": -0.05, "rows": 400, "level": 0.95, "verdict": "worse"},
}  # fmt: skip
SURE = planted({"lora": 0.9, "full": 0.85})
UNSURE = planted({"lora": 0.7, "full": 0.701})
MIXED = planted({"lora": 0.9, "head": 0.7, "full": 0.9005})
FALLEN = planted({"lora": 0.6, "full": 0.6})


class Page(HTMLParser):
    """The visible text, and everything that could make a browser ask for something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.asks: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.hidden = False
        self.kind: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.hidden = tag == "style"
        self.kind = dict(attributes).get("class") if tag == "td" else None
        if tag in ("script", "link", "iframe", "img", "object"):
            self.asks.append(tag)
        self.asks += [v for k, v in attributes if k in ("href", "xlink:href", "src") and v and not v.startswith("#")]

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)
            if self.kind:
                self.cells.append((self.kind, data))

    @property
    def text(self) -> str:
        return " ".join(self.words)


def terminal(comparison: dict[str, Any], width: int = 200) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    console.print(render_terminal(comparison))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_page_says_what_was_found() -> None:
    text = Page(render_html(SURE, "a comparison")).text
    assert f"Better than {BASE} in accuracy: lora +20.0 points" in text
    assert "full is worse than lora: -" in text and "5 seeds on 400 rows see" in text
    for word in ("10,000", "953.7 MB", "3.2 TFLOP", "20 s", "torch 2.13", "Holm", "seed 4", "rank: 8"):
        assert word in text
    assert "energy" not in text.replace("energy is what the machine tells", "")


@pytest.mark.parametrize("comparison", [UNSURE, FALLEN])
def test_better_is_never_said_without_its_verdict(comparison: dict[str, Any]) -> None:
    assert all(p["verdict"] != "better" for p in comparison["pairs"])
    assert not re.search("better|best", Page(render_html(comparison, "x")).text + terminal(comparison), re.IGNORECASE)


def test_better_stands_beside_the_recipes_that_are() -> None:
    page = Page(render_html(MIXED, "x"))
    good = " ".join(s for s in summary(MIXED) if s.startswith("Better"))
    assert "lora" in good and "full" in good and "head" not in good
    assert any(s.startswith(f"No difference from {BASE} in accuracy seen: head") for s in summary(MIXED))
    seen = {p["verdict"] for p in MIXED["pairs"]}
    assert {"better", "worse", "no difference seen"} == seen
    assert all(data.endswith(": better") or "▲" in data for kind, data in page.cells if kind == "better")


def test_a_pair_turns_with_its_sides() -> None:
    ours, theirs = pair(MIXED, "lora", "head"), pair(MIXED, "head", "lora")
    assert ours and theirs and (ours["verdict"], theirs["verdict"]) == ("better", "worse")
    assert (ours["value"], ours["low"]) == (-theirs["value"], -theirs["high"])


def test_nasty_names_are_escaped_and_nothing_is_asked_for() -> None:
    nasty = "<script>alert(1)</script> & $x"
    page = render_html(planted({nasty: 0.9, 'b"c': 0.8}), "<i>title</i>")
    parsed = Page(page)
    assert not parsed.asks
    assert "<script" not in page and "<i>" not in page and "<all>" not in page
    assert nasty in parsed.text
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page)


def test_a_dozen_recipes_are_drawn_and_told_apart() -> None:
    many = planted({f"recipe-{i}": 0.7 + 0.01 * i for i in range(12)})
    page = render_html(many, "x")
    assert page.count("<figure>") == 5 and "mathdefault" not in page
    assert len(many["pairs"]) > MOST_PAIRS and len(drawn_pairs(many)) == 12 + 11
    assert sum(s.count(" is better than ") for s in summary(many)) <= 8
    assert "more differences between recipes stand in the matrix" in Page(page).text


def test_a_single_seed_has_no_interval_and_no_verdict() -> None:
    alone = planted({"lora": 0.9, "full": 0.8})
    for found in [*alone["pairs"], *(r["score"] for r in alone["recipes"])]:
        found.update(low=math.nan, high=math.nan, p=math.nan, spread=math.nan)
    for found in alone["pairs"]:
        found.update(p_corrected=math.nan, verdict="no difference seen")
    assert not re.search(r"\bnan\b", Page(render_html(alone, "x")).text + terminal(alone))
    assert score_rows(alone)[1][1] == "90.0 %"


def test_audits_are_counted_over_the_seeds() -> None:
    audited = planted({"lora": 0.9, "full": 0.8}, audit=[FINDING])
    assert "-10.0: worse with 5 of 5 seeds" in Page(render_html(audited, "x")).text
    assert "character noise" in terminal(audited)
    assert "changed besides" not in render_html(SURE, "x")


def test_less_is_better_for_a_loss() -> None:
    text = terminal(planted({"lora": 0.5, "full": 0.5}, metric="loss"))
    assert f"Better than {BASE} in loss: lora -0.200 " in text


def test_rendering_imports_no_torch() -> None:
    script = "import sys, tunesmith.comparing.report as r, tunesmith.comparing.plots; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
