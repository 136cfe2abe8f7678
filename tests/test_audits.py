"""Audits: a model against itself shows nothing, a planted break is found, and nobody answers where there is no answer."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tunesmith as ts
from tunesmith import parts, recipe
from tunesmith.audits import Finding, Row
from tunesmith.audits._prompts import FORMATS, HARMFUL, HARMLESS, refuses
from tunesmith.audits._texts import changed
from tunesmith.audits.character_noise import CharacterNoise
from tunesmith.cli.commands import run as run_command
from tunesmith.data import tasks
from tunesmith.data.detect import detect
from tunesmith.engine.predict import Reading
from tunesmith.errors import InputError
from tunesmith.evaluation.answers import Answers
from tunesmith.models.bases import resolve
from tunesmith.run.audit import BaseAndTuned, audit, chosen_audits
from tunesmith.run.carry_out import _begin, held_out_rows
from tunesmith.run.measure import WRITERS
from tunesmith.run.prepare import on_disk, prepare

Say = Callable[..., tuple[int, str, str]]

AUDITS = list(parts.of_kind("audit").values())
NAMES = [part.name for part in AUDITS]
SAME = "no difference seen"
FRUIT, TOOL = ["apple", "pear", "plum", "grape", "melon"], ["hammer", "saw", "drill", "wrench", "file"]


def built(name: str, **settings: Any) -> Any:
    return parts.find("audit", name).choose(settings).build()


def rows_of(task: str, count: int = 120) -> list[dict[str, Any]]:
    draw = random.Random(1)
    made = []
    for i in range(count):
        word, label = draw.choice((FRUIT, TOOL)[i % 2]), ("fruit", "tool")[i % 2]
        row: dict[str, Any] = {"place": ("north", "south")[i // 2 % 2]}
        match task:
            case "classify":
                row |= {"text": f"the quick {word} number {i}", "label": label}
            case "multi":
                row |= {"text": f"the {word} {i}", "label": ["thing", label]}
            case "pair":
                row |= {"sentence1": f"the {word} {i}", "sentence2": f"a {label} {i}", "label": i % 2}
            case "regress":
                row |= {"text": f"the {word} {i}", "score": float(i % 7)}
            case "tag":
                row |= {"tokens": ["the", word, str(i)], "tags": ["O", ("B-F", "B-T")[i % 2], "O"]}
            case "generate":
                row |= {"prompt": f"what is a {word} {i}?", "completion": label}
            case "chat":
                turns = [{"role": "user", "content": f"a {word} {i}?"}, {"role": "assistant", "content": "Hello there"}]
                row |= {"messages": turns}
            case _:
                row |= {"text": f"the quick brown {word} jumps over the lazy dog {i}"}
        made.append(row)
    return made


@pytest.fixture(scope="session")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """General text with a topic that the words decide."""
    path = tmp_path_factory.mktemp("general") / "general.jsonl"
    draw, topics = random.Random(2), {"sea": "ship wave fish sail", "city": "street house shop tram"}
    lines = []
    for i in range(150):
        topic = sorted(topics)[i % 2]
        words = [draw.choice(topics[topic].split()) for _ in range(8)]
        lines.append(json.dumps({"text": f"the {' '.join(words)} {i}", "label": topic}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# ---------------------------------------------------------------------- toys: no model, known answers


Model = Callable[[Sequence[Row]], np.ndarray]
"""From rows to the probability of the second class."""


class Toy:
    """A pair whose two models are functions."""

    architecture, source, group, seed, base_name = "encoder", "toy.csv", None, 0, "base (linear probe)"

    def __init__(self, base: Model, tuned: Model, rows: Sequence[Row] | None = None):
        self.task = tasks.find("classify")({"text": "text", "label": "label"}, labels=["fruit", "tool"])
        self.models, self.rows = (base, tuned), rows_of("classify") if rows is None else rows

    def held_out(self, count: int | None = None) -> list[Row]:
        return list(self.rows[: len(self.rows) // 2][:count])

    def training(self, count: int) -> list[Row]:
        return list(self.rows[len(self.rows) // 2 :][:count])

    def answers(self, rows: Sequence[Row], *, tuned: bool) -> Answers:
        share = self.models[tuned](rows)
        truth = [["fruit", "tool"].index(row["label"]) for row in rows]
        both = np.stack([1 - share, share], axis=1)
        return Answers(truth, both.argmax(1).tolist(), both, ["fruit", "tool"])

    def features(self, texts: Sequence[str], *, tuned: bool) -> np.ndarray:
        turn = np.random.default_rng(5).normal(size=(26, 26)) if tuned and self.models[0] is not self.models[1] else 1
        counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], dtype=float)
        return counts @ turn if tuned and isinstance(turn, np.ndarray) else counts

    def neighbours(self, words: Sequence[str], count: int) -> dict[str, list[str]]:
        return {w: [f"{w}x", f"{w}y"][:count] for w in words}


def _hears(rows: Sequence[Row]) -> np.ndarray:
    """Right wherever the word stands as it was learned, in any case; without it, unsure."""
    words = [set(str(row["text"]).lower().split()) for row in rows]
    return np.array([0.9 if w & set(TOOL) else 0.1 if w & set(FRUIT) else 0.45 for w in words])


def _knows(rows: Sequence[Row]) -> np.ndarray:
    """Always right."""
    return np.array([0.9 if row["label"] == "tool" else 0.1 for row in rows])


def _shouts(rows: Sequence[Row]) -> np.ndarray:
    """Right, but of capitals it understands nothing."""
    return np.where([str(r["text"]).isupper() for r in rows], 0.3, _knows(rows))


def _boasts(rows: Sequence[Row]) -> np.ndarray:
    """As often right as `_wavers`, and always nearly certain."""
    return np.where(
        np.arange(len(rows)) % 4 > 0, np.clip(_knows(rows) * 2 - 0.5, 0.001, 0.999), 1 - _knows(rows) * 0.99
    )


def _recites(rows: Sequence[Row]) -> np.ndarray:
    """Certain of what it was trained on: the second half of the rows."""
    known = {r["text"] for r in rows_of("classify")[60:]}
    return np.array([np.clip(k, 0.001, 0.999) if r["text"] in known else 0.5 + (k - 0.5) / 9
                     for r, k in zip(rows, np.where(_knows(rows) > 0.5, 1, 0), strict=True)])  # fmt: skip


def _favours(rows: Sequence[Row]) -> np.ndarray:
    """Right in the north, wrong in the south."""
    return np.array([k if r["place"] == "north" else 1 - k for r, k in zip(rows, _knows(rows), strict=True)])


def settings_of(name: str, general: Path) -> dict[str, Any]:
    return {"forgetting": {"text": str(general)}, "group_gaps": {"column": "place"}}.get(name, {})


TOYS = ["calibration", "casing", "character_noise", "forgetting", "group_gaps", "memorisation", "substitution"]


@pytest.mark.parametrize("name", TOYS)
def test_a_model_is_no_different_from_itself(name: str, general: Path) -> None:
    asked = built(name, **settings_of(name, general))
    pair = Toy(_hears, _hears)
    assert asked.lacks(pair) == ""
    findings = asked(pair)
    assert findings
    for found in findings:
        assert found.change.value == 0 and found.verdict == SAME, found
        assert math.isfinite(found.base) and found.base == found.tuned


BREAKS = [
    ("calibration", _knows, _boasts, "log_loss", "worse"), ("casing", _knows, _shouts, "accuracy_lost_by_casing", "worse"),
    ("character_noise", _knows, _hears, "accuracy_lost_by_noise", "worse"),
    ("substitution", _knows, _hears, "accuracy_under_attack", "worse"),
    ("memorisation", _knows, _recites, "membership_auc", "worse"), ("memorisation", _knows, _recites, "loss_gap", "worse"),
    ("memorisation", _knows, _recites, "exposure_bits", "worse"),
    ("group_gaps", _knows, _favours, "group_gap_error_rate", "worse"),
    ("group_gaps", _knows, _favours, "worst_group_error_rate", "worse"),
    ("forgetting", _knows, _hears, "cka_drift", "higher"), ("forgetting", _knows, _hears, "cosine_drift", "higher"),
]  # fmt: skip


@pytest.mark.parametrize("name,base,tuned,figure,verdict", BREAKS)
def test_a_planted_break_is_found(
    name: str, base: Model, tuned: Model, figure: str, verdict: str, general: Path
) -> None:
    asked = built(name, **settings_of(name, general))
    found = {f.figure: f for f in asked(Toy(base, tuned))}
    assert found[figure].verdict == verdict, found[figure]
    assert found[figure].change.low <= found[figure].change.value <= found[figure].change.high
    mended = {f.figure: f for f in asked(Toy(tuned, base))}
    if verdict == "worse":
        assert mended[figure].verdict == "better"


def test_an_attack_never_harms_a_model_that_knows() -> None:
    (found,) = built("substitution")(Toy(_knows, _knows))
    assert found.base == found.tuned == 1.0


def test_drift_is_blind_to_turns_and_scales() -> None:
    """Linear CKA is invariant to rotations and isotropic scaling (Kornblith et al. 2019, sec. 2), and sees other maps."""
    from tunesmith.audits.forgetting import _drift

    random_ = np.random.default_rng(0)
    x = random_.normal(size=(40, 8)) * np.arange(1, 9)
    turn = np.linalg.qr(random_.normal(size=(8, 8)))[0]
    ones = np.ones((1, 40))
    assert _drift(x, 3 * x @ turn + 5)(ones)[0] == pytest.approx(0, abs=1e-6)
    assert _drift(x, random_.normal(size=(40, 8)))(ones)[0] > 0.5


def test_group_gaps_leave_out_small_groups() -> None:
    rows = [{**row, "place": "nowhere"} if i == 3 else row for i, row in enumerate(rows_of("classify"))]
    (worst, gap) = built("group_gaps", column="place")(Toy(_knows, _favours, rows))
    assert worst.rows == 59 and gap.tuned == 1.0


# ---------------------------------------------------------------------- where there is no answer


@pytest.mark.parametrize("name", NAMES)
def test_every_audit_says_where_it_applies(name: str) -> None:
    asked = built(name)
    assert asked.tasks and set(asked.tasks) <= set(tasks.every())
    pair = Toy(_knows, _knows)
    for task in tasks.every().values():
        pair.task = task({})
        applies = asked.applies(pair.task)
        assert applies == (task.name in asked.tasks)
        if not applies:
            assert task.name in asked.lacks(pair)


def test_several_labels_and_missing_columns_are_told() -> None:
    pair = Toy(_knows, _knows)
    assert "rows.group" in built("group_gaps").lacks(pair)
    assert "no column 'colour'" in built("group_gaps", column="colour").lacks(pair)
    assert "no two groups of 500" in built("group_gaps", column="place", least=500).lacks(pair)
    pair.task = tasks.find("classify")({"text": "text", "label": "label"}, labels=["a", "b"], options={"multi": True})
    assert "several labels" in built("calibration").lacks(pair) and "several labels" in built("substitution").lacks(
        pair
    )


# ---------------------------------------------------------------------- rules that judge texts


GOOD = ["Rome", "cold", "Dog.", "7", "19", "1945", "Yes.", "no", "Yes", "- apple\n- pear\n- plum", "- saw\n- axe",
        "1. Boil water.\n2. Pour it.", "red, blue, green", "Rhine, Nile, Po, Elbe", "HELLO!", "MARS",
        "The sea is wide and deep.", "It is a house of books.", '{"name": "Ann", "age": 3}', "```json\n[2, 4, 6]\n```"]  # fmt: skip


def test_forms_are_told_from_other_forms() -> None:
    wordy = "Well, that is a good question. Let me think about it for a while. Then I shall tell you."
    assert len(GOOD) == len(FORMATS)
    for (prompt, keeps), answer in zip(FORMATS, GOOD, strict=True):
        assert keeps(answer), prompt
        assert not keeps("") and (not keeps(wordy) or "commas" in prompt), prompt


def test_refusals_are_told_from_answers() -> None:
    assert (
        refuses("I’m sorry, I can’t do that.") and refuses("As an AI, I do not.") and not refuses("First, boil water.")
    )
    assert len(HARMFUL) == len(set(HARMFUL)) == len(HARMLESS) == len(set(HARMLESS))


@pytest.mark.parametrize("task", ["classify", "pair", "regress", "tag", "generate", "chat"])
def test_changes_reach_what_goes_in_and_nothing_else(task: str) -> None:
    rows = rows_of(task, 4)
    kind = detect(_table(rows), task=task)
    row = changed(kind, rows[0], str.upper)
    assert row != rows[0] and kind.target(row) == kind.target(rows[0]) and row["place"] == rows[0]["place"]
    assert changed(kind, rows[0], str) == rows[0]


def _table(rows: list[dict[str, Any]]) -> Any:
    from tunesmith.data.rows import read

    return read(rows)


def test_sensitivity_is_that_of_the_paper() -> None:
    """The index of two layouts, by hand: the mean over both answers of the distance a token after the other layout."""

    class Told(Toy):
        task = tasks.find("generate")({"prompt": "prompt", "completion": "completion"})

        def __init__(self) -> None:
            self.rows = [{"prompt": "a", "completion": "b"}] * 12

        def write(self, prompts: Sequence[str], *, tuned: bool, tokens: int) -> list[tuple[str, bool]]:
            return [("x" if prompt == "a" else "y", True) for prompt in prompts]

        def answers(self, rows: Sequence[Row], *, tuned: bool) -> Answers:
            loss = {(True, "x"): 1.0, (True, "y"): 5.0, (False, "x"): 4.0, (False, "y"): 3.0 if tuned else 5.0}
            each = np.array([loss[r["prompt"] == "a", r["completion"]] for r in rows])
            return Answers([""] * len(rows), loss=2 * each, units=np.full(len(rows), 2))

    (found,) = built("prompt_sensitivity", formats=2, rows=6)(Told())
    assert found.base == (abs(4 - 1) + abs(5 - 5)) / 2 and found.tuned == (abs(4 - 1) + abs(5 - 3)) / 2
    assert found.verdict == "worse"


def test_typing_mistakes_keep_most_of_a_text() -> None:
    noise, text = CharacterNoise(share=0.5), "seven quick brown foxes jump over nine lazy dogs today"
    found = noise.mistyped(text, random.Random(0))
    same = [a == b for a, b in zip(text.split(), found.split(), strict=True)]
    assert found == noise.mistyped(text, random.Random(0)) and 2 <= sum(same) <= 8
    assert all(a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in zip(text.split(), found.split(), strict=True))
    assert CharacterNoise(share=0.0).mistyped(text, random.Random(0)) == text


# ---------------------------------------------------------------------- real models, tiny


@pytest.fixture
def _home(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield


def at_birth(task: str, base: Path, folder: Path, **options: Any) -> BaseAndTuned:
    """A run before its first step: whatever is attached changes nothing yet."""
    made = _begin(prepare(on_disk(recipe.make({"rows": {"train": rows_of(task)}, "base": str(base), "task": {"multi": "classify"}.get(task, task),
                                               **options}))), folder)  # fmt: skip
    return BaseAndTuned(made.prepared, made.reading, held_out_rows(made.prepared))


def small(general: Path) -> list[Any]:
    """Every audit, with few rows."""
    given: dict[str, dict[str, Any]] = {
        "forgetting": {"text": str(general), "rows": 30, "fitted": 40}, "group_gaps": {"column": "place", "least": 4},
        "format_drift": {"tokens": 4}, "refusal_drift": {"tokens": 4}, "format_spread": {"rows": 4, "formats": 3},
        "substitution": {"rows": 8}, "prompt_sensitivity": {"rows": 4, "formats": 2, "tokens": 3},
    }  # fmt: skip
    return [part.choose(given.get(part.name, {})) for part in AUDITS]


PAIRS = [("generate", "llama", {}), ("chat", "llama", {}), ("lm", "llama", {}), ("generate", "t5", {}),
         ("chat", "llama", {"mask": "everything"}), ("generate", "llama", {"adapter": "lora", "mask": "norms"})]  # fmt: skip


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("task,family,options", PAIRS)
def test_a_language_model_at_birth_is_its_base(
    task: str, family: str, options: dict[str, Any], bases: dict[str, Path], general: Path, tmp_path: Path
) -> None:
    """With adapters at birth, and with a mask before the first step, every audit finds nothing at all."""
    pair = at_birth(task, bases[family], tmp_path, **options)
    found = audit(pair, small(general))
    assert {f["audit"] for f in found["findings"]} | found["left_out"].keys() == set(NAMES)
    assert {"forgetting", "group_gaps", "memorisation"} <= {f["audit"] for f in found["findings"]}
    for finding in found["findings"]:
        assert finding["change"]["value"] == 0 and finding["change"]["verdict"] == SAME, finding
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize(
    "family,options", [("bert", {}), ("bert", {"mask": "everything"}), ("llama", {}), ("t5", {"mask": "everything"})]
)
def test_a_classifier_at_birth_has_forgotten_nothing(
    family: str, options: dict[str, Any], bases: dict[str, Path], general: Path, tmp_path: Path
) -> None:
    pair = at_birth("classify", bases[family], tmp_path, **options)
    for finding in built("forgetting", text=str(general), rows=30, fitted=40)(pair):
        assert finding.change.value == 0 and finding.verdict == SAME, finding


def _break(reading: Reading) -> None:
    """What trains becomes noise."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in reading.host.trainable().values():
            parameter.normal_(std=2.0)


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize(
    "task,family,options,figure,verdict",
    [("chat", "llama", {}, "loss", "worse"), ("lm", "llama", {"mask": "everything"}, "loss", "worse"),
     ("classify", "bert", {}, "cka_drift", "higher"), ("classify", "bert", {"mask": "everything"}, "cosine_drift", "higher"),
     ("generate", "t5", {}, "cosine_drift", "higher")],
)  # fmt: skip
def test_blown_up_weights_are_forgetting(
    task: str, family: str, options: dict[str, Any], figure: str, verdict: str, bases: dict[str, Path], general: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    pair = at_birth(task, bases[family], tmp_path, **options)
    _break(pair.tuned)
    found = {f.figure: f for f in built("forgetting", text=str(general), rows=60, fitted=40)(pair)}
    assert found[figure].verdict == verdict, found


@pytest.mark.usefixtures("_home")
def test_answers_are_kept_and_are_those_of_a_fresh_reading(bases: dict[str, Path], tmp_path: Path) -> None:
    """What was read once is not read again, whatever rows it came with; and both models stay apart."""
    pair = at_birth("classify", bases["bert"], tmp_path)
    rows = pair.held_out()
    whole = pair.answers(rows, tuned=True)
    calls: list[int] = []
    pair.tuned.host.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    part = pair.answers([rows[2], rows[0]], tuned=True)
    assert not calls and part.references == [whole.references[2], whole.references[0]]
    assert whole.probabilities is not None and part.probabilities is not None
    assert np.array_equal(part.probabilities, whole.probabilities[[2, 0]])
    pair.answers([{**rows[0], "text": "another text"}], tuned=True)
    assert calls and pair.answers(rows, tuned=False).probabilities is not whole.probabilities


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("task", ["pair", "regress", "tag", "multi"])
def test_the_other_tasks_have_answers_too(task: str, bases: dict[str, Path], general: Path, tmp_path: Path) -> None:
    """Finite, the same when asked again, and left out only where an audit says so."""
    folders = (tmp_path / "a", tmp_path / "b")
    one, two = (audit(at_birth(task, bases["bert"], folder), small(general)) for folder in folders)
    assert one["findings"] == two["findings"]
    asked = {f["audit"] for f in one["findings"]}
    assert asked | one["left_out"].keys() == set(NAMES)
    assert {"casing", "character_noise", "forgetting", "group_gaps", "memorisation"} <= asked
    assert all(math.isfinite(f[k]) for f in one["findings"] for k in ("base", "tuned"))


# ---------------------------------------------------------------------- whole runs


def check_audited(run: ts.Run) -> dict[str, Any]:
    """The audits stand in the report, on the page and on the card, and a finished run is audited to the same figures."""
    found = run.results["audit"]
    assert {f["audit"] for f in found["findings"]} | found["left_out"].keys() == set(NAMES)
    assert all(math.isfinite(f[k]) for f in found["findings"] for k in ("base", "tuned"))
    for name in ("report.html", "card.md"):
        page = (run.folder / name).read_text(encoding="utf-8")
        assert "What tuning changed besides" in page and "exposure bits" in page, name
    again = ts.open_run(run.folder).audit()
    assert json.loads((run.folder / "audit.json").read_text(encoding="utf-8")) == again
    for one, two in zip(found["findings"], again["findings"], strict=True):
        assert one["figure"] == two["figure"]
        assert (one["base"], one["tuned"]) == pytest.approx((two["base"], two["tuned"]), abs=1e-4), one
    return {f["figure"]: f for f in found["findings"]}


@pytest.mark.usefixtures("_home")
def test_a_run_reports_its_audits(bases: dict[str, Path], general: Path, tmp_path: Path) -> None:
    checks = {"generate": 4, "generate_tokens": 4}
    run = ts.tune(rows_of("generate"), base=str(bases["llama"]), out=tmp_path, name="r", epochs=1, progress="quiet",
                  mask="top_layers", audit=small(general), checks=checks)  # fmt: skip
    assert {"loss", "format_spread", "format_kept"} <= check_audited(run).keys()


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], _home: None) -> Say:
    """Carries a command line out in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run_command([str(a) for a in arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_the_command_audits_a_finished_run(say: Say, bases: dict[str, Path], rows_file: Path, general: Path) -> None:
    code, out, err = say("tune", rows_file, "--base", bases["bert"], "--epochs", 1, "--name", "r", "--quiet", "--audit",
                         "--set", f"audit.forgetting.text={general}", "--set", "audit.substitution.rows=5")  # fmt: skip
    assert code == 0, err
    assert "What tuning changed besides" in out and "not audited: refusal drift" in out
    of_text = ("--set", f"forgetting.text={general}")
    code, out, err = say("audit", "runs/r", "--with", "calibration,forgetting", *of_text, "--json")
    assert code == 0, err
    assert {f["audit"] for f in json.loads(out)["findings"]} == {"calibration", "forgetting"}
    code, out, err = say("audit", "runs/r", "--with", "calibraton")
    assert code == 2 and "did you mean 'calibration'" in err and len(err.strip().splitlines()) == 1


def test_text_that_is_not_there_is_told_before_training(
    say: Say, bases: dict[str, Path], rows_file: Path, tmp_path: Path
) -> None:
    code, _, err = say("tune", rows_file, "--base", bases["bert"], "--quiet", "--set", "audit.forgetting.text=no.csv")
    assert code == 2 and "audit.forgetting" in err and "no.csv" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_all_audits_by_true() -> None:
    made = recipe.make({"rows": "a.csv", "audit": True})
    assert [c.name for c in made.audit] == NAMES == [c.name for c in chosen_audits(None)]
    assert recipe.make({"rows": "a.csv", "audit": False}).audit == [] == recipe.make({"rows": "a.csv"}).audit
    changed_ = recipe.make(recipe.override({"rows": "a.csv", "audit": True}, {"audit.casing.rows": 7}))
    assert [c.name for c in changed_.audit] == NAMES and changed_.audit[1].settings["rows"] == 7


def test_a_finding_without_an_interval_is_strict_json() -> None:
    (_, _, ece) = built("calibration")(Toy(_knows, _boasts))
    told = Finding.to_dict(ece)
    assert told["change"]["low"] is None and "no interval" in told["words"]
    assert json.dumps(told, allow_nan=False)


def test_a_real_run_is_audited(tmp_path: Path, general: Path) -> None:
    """MiniLM on real words: it knows more of them than a letter's slip leaves."""
    try:
        resolve("minilm-l6")
    except InputError as error:
        pytest.skip(f"no packages here: {error}")
    run = ts.tune(rows_of("classify"), base="minilm-l6", out=tmp_path, name="r", steps=8, progress="quiet",
                  audit=small(general), batch={"rows": 16})  # fmt: skip
    found = check_audited(run)
    assert found["other_task_accuracy"]["base"] > 0.9 and found["cka_drift"]["tuned"] > 0
    assert found["accuracy_lost_by_casing"]["tuned"] == 0
    pair = BaseAndTuned(prepare(run.recipe), run.reading, np.arange(2))
    near = pair.neighbours(["Good", "city", "qqqq"], 8)
    assert "Great" in near["Good"] and "town" in near["city"] and "qqqq" not in near
    assert run.task.name not in WRITERS


def test_nobody_is_made_to_fetch_rows_for_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.run.audit import audits_at_hand

    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr("tunesmith.packages._installed", lambda file: None)
    names, left_out = audits_at_hand()
    assert left_out == {"forgetting": "packaged:bbc-news"}
    assert sorted([*names, "forgetting"]) == sorted(parts.of_kind("audit"))
