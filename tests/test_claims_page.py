"""Claims in the terminal and on the page of evidence: verdicts as stored, every figure, plots that are their own files."""

from __future__ import annotations

import importlib
import io
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from test_compare_report import planted
from tunesmith.claims import plots
from tunesmith.claims.claim import Claim, every, find, of_paper
from tunesmith.claims.evidence import evidence_page, readme_block
from tunesmith.claims.page import claims_table, render_claim
from tunesmith.claims.settle import stored
from tunesmith.claims.wording import bar
from tunesmith.errors import InputError
from tunesmith.experiments import Figure

ABOUT = {"paper": "Ann 2024, arXiv:0000.00000", "claim": "A | beats <B>.", "setting": "here", "distance": "far"}
RATES = {
    "rates": {"lm": {"full": 0.1}},
    "trials": [["lm", "full", 0.1, "news", 1.5], ["lm", "full", 0.2, "news", 1.75]],
}
GAIN = Figure(0.02, 0.01, 0.03, (0.01, 0.02, 0.03), "points", "accuracy gained")
LOST = Figure(-0.02, -0.03, -0.01, (-0.02, -0.02), "points", "accuracy gained")


def claim(number: str, testable: bool = True) -> Claim:
    """A claim that expects a gain; its experiment is left out, for nothing here carries it out."""
    made = Claim(id=number, name="tried", expect=[{"figure": "gain", "above": 0.0}], not_testable="no machine", **ABOUT)  # type: ignore[arg-type]
    return made.model_copy(update={"not_testable": None}) if testable else made


def result(of: Claim, figure: Figure, **more: Any) -> dict[str, Any]:
    return {
        "verdict": of.verdict({"gain": figure}), "figures": {"gain": asdict(figure)}, "axes": ["rows", "loss"],
        "series": {"lora <8>": [[10, 1.0, 0.9, 1.1], [1000, 0.5, 0.4, 0.6]], "full": [[10, 2.0], [1000, 1.0]]},
        "notes": ["one note"], "seeds": [0, 1, 2], "cost": {"trainings": 6, "seconds": 120.0}, "commits": ["abc"],
        "environment": {"processor": "EPYC", "threads": 1}, "date": "2026-01-02", **more,
    }  # fmt: skip


GOOD, BAD, OPEN, CLOSED = claim("001"), claim("002"), claim("003"), claim("004", testable=False)
CLAIMS = {c.stem: c for c in (GOOD, BAD, OPEN, CLOSED)}
RESULTS = {GOOD.stem: result(GOOD, GAIN), BAD.stem: result(BAD, LOST), OPEN.stem: None, CLOSED.stem: None}


def shown(what: Any) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_every_verdict() -> None:
    lines = shown(claims_table(CLAIMS, RESULTS)).splitlines()
    said = {line.split()[0]: line for line in lines if line.strip()[:3].isdigit()}
    assert "reproduced" in said["001"] and "gain 2.00 points" in said["001"] and "1.00 to 3.00" in said["001"]
    assert "not reproduced" in said["002"] and "not run yet" in said["003"] and "not testable here" in said["004"]
    assert "6 trainings, 2 min 0 s" in said["001"] and "2026-01-02" in said["001"] and "EPYC, 1 thread" in said["001"]


def test_a_claim_shows_every_figure_and_what_was_expected() -> None:
    text = shown(render_claim(BAD, RESULTS[BAD.stem]))
    for word in (
        "A | beats <B>.",
        "gain above 0.00: contradicted",
        "-2.00 -2.00",
        "one note",
        "not reproduced",
        "commit abc",
    ):
        assert word in text
    assert "tunesmith claims run 003" in shown(render_claim(OPEN, None))
    assert "no machine" in shown(render_claim(CLOSED, None))


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_the_plot_is_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plot{ending}"
    assert str(path.name) in shown(render_claim(GOOD, RESULTS[GOOD.stem], plot=path)).replace("\n", "")
    assert path.stat().st_size > 1000


def test_a_plot_needs_a_result_and_an_ending(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result to draw"):
        render_claim(OPEN, None, plot=tmp_path / "a.svg")
    with pytest.raises(InputError, match="svg or .png"):
        render_claim(GOOD, RESULTS[GOOD.stem], plot=tmp_path / "a.pdf")


def test_a_plot_is_the_same_twice_and_tells_other_figures_apart() -> None:
    first = plots.as_svg(GOOD, result(GOOD, GAIN))
    assert first == plots.as_svg(GOOD, result(GOOD, GAIN))
    assert plots.drawn_from(GOOD, result(GOOD, GAIN)) in first
    assert plots.drawn_from(GOOD, result(GOOD, GAIN)) != plots.drawn_from(GOOD, result(GOOD, LOST))


def test_a_bar_has_value_interval_and_threshold() -> None:
    assert bar(Figure(2, 1, 3), 0.0).startswith("┃ ") and bar(Figure(2, 1, 3), 0.0).count("●") == 1
    assert bar(Figure(2, math.nan, math.nan), 0.0) == ""


def test_the_page_has_tasks_rates_and_claims() -> None:
    page = evidence_page({"topic": planted({"lora": 0.9, "full": 0.7})}, RATES, CLAIMS, RESULTS)
    assert "| topic | lora | accuracy | 90.0 % (" in page and page.count(": better |") == 1
    assert "| lm | full | 0.1 | 0.1: news 1.500; 0.2: news 1.750 |" in page
    assert "4 claims: 1 reproduced, 1 not reproduced, 1 not testable here, 1 not run yet." in page
    assert "![Plot of tried](evidence/002-tried.svg)" in page and "evidence/003-tried.svg" not in page
    assert "**Verdict: not reproduced.**" in page and "tests/" not in page


def test_a_page_of_nothing_says_so() -> None:
    page = evidence_page({}, RATES, {}, {})
    assert "No task has been run" in page and "No claim has been written yet." in page
    assert readme_block({}, {}) == "No claim has been written yet."


def test_the_short_table_stands_by_negative_verdicts() -> None:
    block = readme_block(CLAIMS, RESULTS)
    assert "| 002 tried | not reproduced | gain -2.00 points | -3.00 to -1.00 |" in block
    assert "1 not run yet" in block and "003" not in block and "| 004 tried | not testable here |" in block


# ---------------------------------------------------------------------- the project's own claims

OURS = Path(__file__).parent.parent / "claims"


def test_every_stored_verdict_follows_from_its_figures_and_its_claim() -> None:
    claims = every(OURS)
    kept = sorted(path.stem for path in (OURS / "results").glob("*.json"))
    assert set(kept) <= set(claims)
    for stem in kept:  # `stored` refuses a verdict that its figures do not give, and knows none of an earlier claim
        assert stored(OURS, claims[stem]) is not None, f"{stem} was changed since: run `tunesmith claims run {stem}`"
    assert any(c.quick and c.stem in kept for c in claims.values())


def test_a_verdict_written_by_hand_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for path in (OURS / "227-lora-cost.yaml", OURS / "results" / "227-lora-cost.json"):
        target = tmp_path / path.relative_to(OURS)
        target.write_text(path.read_text().replace('"verdict": "reproduced"', '"verdict": "not reproduced"'))
    with pytest.raises(InputError, match="but its figures say 'reproduced'"):
        stored(tmp_path, find(tmp_path, "lora-cost"))


def test_a_number_names_all_claims_of_its_paper() -> None:
    assert [c.stem for c in of_paper(OURS, "227")] == ["227-lora", "227-lora-cost"]
    assert [c.stem for c in of_paper(OURS, "lora")] == ["227-lora"]
    with pytest.raises(InputError, match="227-lora or 227-lora-cost"):
        find(OURS, "227")
    with pytest.raises(InputError, match="lora"):
        of_paper(OURS, "lara")


PAGES = ["evidence.py", "adapters_page.py", "planning_page.py", "performance.py", "robust.py", "few_shot.py --render"]


@pytest.mark.parametrize("script", PAGES)
def test_pages_say_what_the_files_say(script: str) -> None:
    """The README's table and the pages of figures are those that the stored results give."""
    root = OURS.parent
    name, *options = script.split()
    command = [sys.executable, str(root / "bench" / name), *options, "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_way_wins_by_seeds_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lead over the next way, seed by seed; in context is measured at the fewest labels and stands for all."""
    monkeypatch.syspath_prepend(str(OURS.parent / "bench"))
    page = importlib.import_module("few_shot")

    def cells(*accuracies: float) -> list[dict[str, Any]]:
        return [{"seed": seed, "accuracy": value} for seed, value in enumerate(accuracies)]

    found = {
        ("trec", "in context", 8): cells(0.5, 0.6, 0.7), ("trec", "head", 8): cells(0.4, 0.5, 0.61),
        ("trec", "head", 16): cells(0.5, 0.7, 0.6), ("trec", "cloze", 16): cells(0.3), ("sms-spam", "head", 16): cells(0.9, 0.9),
    }  # fmt: skip
    table = page.winners(found)
    assert [line for line in table if line.startswith(("| 8 |", "| 16 |"))] == [
        "| 8 | in context, 9.7 ± 1.4 before head |  |  |  |",
        "| 16 | undecided: in context, 0.0 ± 24.8 before head |  |  |  |",
    ]
    assert page.winners({}) == []


def test_claims_run_goes_on_when_one_cannot_be_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.cli import commands, evidence
    from tunesmith.errors import InputError

    def run(stem: str, *_: object, **__: object) -> tuple[None, dict[str, str], str]:
        if stem == "227-lora":
            raise InputError("rows are missing")
        return None, {"ran": stem}, ""

    monkeypatch.setattr(evidence, "run_claim", run)
    with pytest.raises(InputError, match="^227-lora: rows are missing$"):
        commands.claims_run(["227", "011"], folder=OURS, json_=True)
    said = capsys.readouterr().out
    assert "227-lora-cost" in said and "011-layernorm" in said
