"""The report as a dictionary, as a page, in the terminal and as a card."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import yaml

from tunesmith.evaluation import baselines
from tunesmith.evaluation.answers import Answers
from tunesmith.evaluation.card import render_card
from tunesmith.evaluation.report import render_html, render_terminal
from tunesmith.evaluation.results import build_report, written_section

NASTY = ["<script>alert(1)</script>", "$5 & $\\frac", "日本語"]
"""Class names that break pages which do not escape, plots which read mathematics, and fonts that lack glyphs."""

DATA = {
    "source": "/home/ann/reviews.csv", "duplicates": 3, "max_length": 128,
    "splits": {n: {"rows": r, "tokens": 9 * r, "supervised": r} for n, r in (("train", 900), ("test", 240))},
}  # fmt: skip
COST = {
    "seconds": 100.0, "trainable": 1000, "parameters": 50_000, "stored_bytes": 4_000_000, "steps": 60,
    "training_seconds": 61.5, "tokens": 9000, "tokens_per_second": 146.3, "peak_bytes": 2**30, "stopped": "epochs",
}  # fmt: skip
CURVE = {
    "step": [1, 2, 3], "loss": [1.1, 0.9, 0.4], "rate": [0.1] * 3, "validation_step": [3], "validation_loss": [0.5]
}  # fmt: skip
RECIPE = "rows: {train: reviews.csv}\nadapter:\n- lora: {rank: 8}\n"


def classified(labels: list[str], skill: float, seed: int = 0) -> Answers:
    draw = np.random.default_rng(seed)
    truth = np.random.default_rng(9).integers(0, len(labels), 240)
    logits = draw.normal(size=(240, len(labels))) + skill * np.eye(len(labels))[truth]
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Answers(truth.tolist(), chance.argmax(1).tolist(), chance, labels)


def classify_report(labels: list[str] = NASTY, **changes: Any) -> dict[str, Any]:
    tuned = classified(labels, 3.0)
    before = {
        "majority class": baselines.constant(tuned.references, tuned.references, labels),
        "base (linear probe)": classified(labels, 1.0, seed=1),
    }
    texts = [f"{labels[t]} row {i}" for i, t in enumerate(tuned.references)]
    settings = {"data": DATA, "cost": COST, "curve": CURVE, "warnings": ["2 tensors <b>sleep</b>"], **changes}
    return build_report("classify", tuned, before, base="minilm-l6", technique="lora (rank 8)", texts=texts, **settings)


def chat_report() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    units = draw.integers(1, 9, 50)
    tuned, base = (Answers([""] * 50, loss=units * draw.random(50) * k, units=units) for k in (1.0, 3.0))
    said, was = (Answers(["yes sir"] * 12, texts) for texts in (["yes sir"] * 9 + ["no"] * 3, ["no | well"] * 12))
    stopped = {"tuned": [True] * 12, "base": [False] * 12}
    written = written_section(["ask <i>"] * 12, said, was, stopped=stopped)
    return build_report(
        "chat", tuned, {"base (zero-shot)": base}, base="org/model", technique="lora (rank 8)", data=DATA, cost=COST,
        curve=CURVE, written=written,
    )  # fmt: skip


def tag_report() -> dict[str, Any]:
    truth = [["O", "B-A", "I-A", "O"]] * 30
    loss, units = np.linspace(0.1, 2, 30), np.full(30, 4)
    before = {"commonest tag": baselines.commonest_tag(truth, truth)}
    texts = ["four words stand here"] * 30
    tuned = Answers(truth, truth[:20] + [["O"] * 4] * 10, loss=loss, units=units)
    return build_report("tag", tuned, before, base="minilm-l6", data=DATA, cost=COST, texts=texts)


def regress_report() -> dict[str, Any]:
    truth = np.random.default_rng(0).normal(size=60)
    before = {"mean": baselines.constant(truth.tolist(), truth.tolist())}
    tuned = Answers(truth.tolist(), (truth + 0.3).tolist())
    return build_report("regress", tuned, before, base="minilm-l6", data=DATA, texts=["a row"] * 60)


REPORTS = {"classify": classify_report, "chat": chat_report, "tag": tag_report, "regress": regress_report}


class Page(HTMLParser):
    """Elements of a page: that they are closed in order, and what they refer to."""

    EMPTY = frozenset({"meta", "br", "path", "use", "image", "link", "img", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self._note(attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action") and v]


# ---------------------------------------------------------------------- the dictionary


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_json_and_survives_it(name: str) -> None:
    report = REPORTS[name]()
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    assert render_html(again, title="run") == render_html(report, title="run")


def test_what_a_report_says() -> None:
    report = classify_report()
    assert report["metric"] == "accuracy" and set(report["tuned"]) == set(report["before"]["base (linear probe)"])
    change = report["difference"]["base (linear probe)"]["accuracy"]
    was, now = report["before"]["base (linear probe)"]["accuracy"]["value"], report["tuned"]["accuracy"]["value"]
    assert change["value"] == pytest.approx(now - was) and change["verdict"] == "better" and change["low"] > 0
    assert report["summary"][1].startswith("Tuned is better than base (linear probe) in accuracy: +")
    assert len(report["worst"]) == 10 and report["worst"][0]["loss"] >= report["worst"][-1]["loss"]
    assert sum(map(sum, report["confusion"]["table"])) == 240


def test_better_is_said_only_where_the_interval_leaves_out_zero() -> None:
    same = classified(["a", "b", "c"], 1.0)
    other = classified(["a", "b", "c"], 1.0, seed=4)
    report = build_report("classify", same, {"base": other}, base="b", data=DATA)
    change = report["difference"]["base"]["accuracy"]
    assert change["low"] <= 0 <= change["high"]
    assert report["summary"][0].startswith("No difference from base in accuracy seen at 240 rows")
    for shown in (
        render_html(report, title="t"),
        terminal(report),
        render_card(report, RECIPE, title="t", licence=None),
    ):
        assert "No difference from base in accuracy seen at 240 rows" in shown
        assert "Tuned is better" not in shown


def test_absent_metrics_reach_every_face() -> None:
    report = classify_report(["n", "y"])
    report["notes"] = ["auroc was not measured: the rows hold one class only"]
    for shown in (
        render_html(report, title="t"),
        terminal(report),
        render_card(report, RECIPE, title="t", licence=None),
    ):
        assert "auroc was not measured: the rows hold one class only" in " ".join(shown.split())


# ---------------------------------------------------------------------- the page


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_whole_and_loads_nothing(name: str) -> None:
    html = render_html(REPORTS[name](), title="my <run>")
    page = Page()
    page.feed(html)
    assert html.lstrip().startswith("<!doctype html>") and page.open == []
    assert all(r.startswith(("#", "data:")) for r in page.references)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "script" not in page.seen and "default-src 'none'" in html
    assert len(page.ids) == len(set(page.ids))
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    assert "<title>my &lt;run&gt;</title>" in html


def test_the_page_escapes_rows_labels_and_warnings() -> None:
    html = render_html(classify_report(), title="t")
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "<b>sleep</b>" not in html
    assert "$5 &amp; $\\frac" in html and "日本語" in html
    drawn = html[html.rindex("<svg") : html.rindex("</svg>")]
    assert "$5 &amp; $\\frac" in drawn and "日本語" in drawn


def test_the_page_is_the_same_twice_and_follows_the_readers_scheme() -> None:
    html = render_html(classify_report(), title="t")
    assert html == render_html(classify_report(), title="t")
    assert "prefers-color-scheme: dark" in html and html.count("<svg") == 4
    assert "currentColor" in html and "#5b6470; stroke" not in html


def test_a_table_of_many_classes_becomes_a_list_of_mistakes() -> None:
    html = render_html(classify_report([f"class {i}" for i in range(40)]), title="t")
    assert html.count("<svg") == 3 and "Commonest mistakes" in html


def test_samples_stand_on_the_page() -> None:
    report = chat_report()
    assert report["written"]["stopped_by_itself"] == {"tuned": 1.0, "base": 0.0}
    assert report["written"]["difference"]["exact_match"]["verdict"] == "better"
    html = render_html(report, title="t")
    assert "ask &lt;i&gt;" in html and "stopped by itself" in html


def test_an_older_report_without_the_newer_entries_is_shown() -> None:
    report = classify_report()
    for key in ("summary", "notes"):
        del report[key]
    assert "Tuned is better than" in render_html(report, title="t")
    terminal(report)


# ---------------------------------------------------------------------- the terminal


def terminal(report: dict[str, Any], width: int = 200) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_terminal(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", REPORTS)
def test_the_terminal(name: str) -> None:
    report = REPORTS[name]()
    shown = terminal(report)
    assert "tuned against" in shown and all(metric in shown for metric in report["tuned"])


def test_the_terminal_shows_text_as_it_is() -> None:
    report = classify_report(warnings=["found [bold]brackets[/nothing]"])
    report["technique"] = "lora [/x]"
    assert "found [bold]brackets[/nothing]" in terminal(report) and "lora [/x]" in terminal(report)


# ---------------------------------------------------------------------- the card


def head(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_hub_reads_the_card() -> None:
    hub = pytest.importorskip("huggingface_hub")
    report = classify_report()
    card = hub.ModelCard(render_card(report, RECIPE, title="my-run", licence="Apache-2.0", language=["en"]))
    assert card.data.license == "apache-2.0" and card.data.base_model == "minilm-l6" and card.data.language == ["en"]
    assert {r.metric_type for r in card.data.eval_results} == set(report["tuned"])
    first = card.data.eval_results[0]
    assert first.metric_value == round(report["tuned"]["accuracy"]["value"], 5) and "95 % interval" in first.metric_name


def test_the_head_of_the_card() -> None:
    found = head(render_card(chat_report(), RECIPE, title="t", licence="MIT; tokenizer Apache-2.0"))
    assert found["library_name"] == "peft" and found["base_model_relation"] == "adapter"
    assert found["pipeline_tag"] == "text-generation" and found["base_model"] == "org/model"
    assert (found["license"], found["license_name"]) == ("other", "mit-tokenizer-apache-2.0")
    whole = head(render_card(chat_report(), "adapter: []\n", title="t", licence=None, library="tunesmith"))
    assert whole["base_model_relation"] == "finetune" and whole["library_name"] == "tunesmith"
    assert "license" not in whole and "datasets" not in whole


def test_the_card_tells_nothing_of_the_machine(tmp_path: Any) -> None:
    report = copy.deepcopy(classify_report())
    report["base"] = str(tmp_path)
    card = render_card(report, RECIPE, title="t", licence=None)
    assert "/home/ann" not in card and str(tmp_path) not in card and "base_model" not in head(card)
    assert f"{tmp_path.name}, fine-tuned" in card and "reviews.csv" in card


def test_the_card_has_no_row_of_the_data() -> None:
    card = render_card(classify_report(), RECIPE, title="t", licence=None)
    assert not re.search(r"row \d+", card) and "<script>" not in card


@pytest.mark.parametrize("name", REPORTS)
def test_the_cards_tables_are_rectangular(name: str) -> None:
    report = REPORTS[name]()
    for part in ("before", "difference"):
        report[part] = {f"{who} | alone": found for who, found in report[part].items()}
    card = render_card(report, RECIPE, title="t", licence="mit")
    assert " \\| alone" in card
    widths: list[int] = []
    for line in card.splitlines():
        if line.startswith("| "):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(widths)) <= 1
            widths = []
    assert "## Limits" in card and "## Recipe" in card and "rank: 8" in card
