"""The loop: what it makes, what it keeps, that a kill changes nothing, and every shipped way for a step."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith import Improved, improve, recipe, tune
from tunesmith.data.detect import detect
from tunesmith.data.rows import read
from tunesmith.errors import InputError
from tunesmith.improving import api, plan, rounds
from tunesmith.improving.asking import Asker, task_of
from tunesmith.improving.writer import Writer
from tunesmith.judges import Question, Verdict
from tunesmith.makers import Answer, Pair
from tunesmith.recipe import make as make_recipe

ROOT = Path(__file__).resolve().parents[1]
WAYS = sorted((ROOT / "recipes" / "improve").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache; and no proof in a fresh process, which tests of the run have."""
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    for module in ("carry_out", "opened"):
        monkeypatch.setattr(f"tunesmith.run.{module}.prove", lambda *a: {})
    monkeypatch.setattr(rounds, "AT_A_TIME", 8)


def table(count: int = 24) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {i} plus 1 in Paris?", "completion": f"It is {i + 1}. Rome has {i} towers.",
         "facts": f"It is {i + 1}.", "tests": ["assert True"]}
        for i in range(count)
    ]  # fmt: skip


SETTINGS: dict[str, Any] = {
    "judge": "likelihood", "maker": {"select": {"least": -99.0, "cap": 2}}, "check": "exact_match", "rounds": 2, "samples": 3,
    "tokens": 5, "gain": None, "start": "last", "adapter": {"lora": {"rank": 2}}, "budget.steps": 2, "budget.epochs": None,
    "batch.rows": 4, "save.steps": 1, "progress": "quiet",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(bases: dict[str, Path], home: Path, tmp_path_factory: pytest.TempPathFactory) -> Improved:
    """An improvement of two rounds that nothing cut off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(home))
        patch.setattr("tunesmith.run.carry_out.prove", lambda *a: {})
        patch.setattr(rounds, "AT_A_TIME", 8)
        return improve(str(bases["llama"]), table(), out=tmp_path_factory.mktemp("whole"), name="a", **SETTINGS)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rounds_leave_what_they_did(whole: Improved) -> None:
    made, scores = whole.results["rounds"], whole.results["scores"]
    prompts = made[0]["prompts"]
    assert [m["samples"] for m in made] == [3 * prompts] * 2 and [s["round"] for s in scores] == [0, 1, 2]
    assert scores[1]["test"]["difference"]["rows"] == scores[0]["test"]["rows"] > 0
    first = whole.folder / "round-1"
    assert len(list((first / "samples").iterdir())) == -(-prompts // 8)
    judged, rows = lines(first / "judged.jsonl"), lines(first / "rows.jsonl")
    for one in judged:
        best = sorted(one["samples"], key=lambda s: -s["score"])
        kept = list(dict.fromkeys(s["text"] for s in best if s["text"].strip()))[:2]
        assert [r["completion"] for r in rows if r["prompt"] == one["prompt"]] == kept
    held = {line["prompt"] for name in ("validation", "test") for line in lines(first / f"said-{name}.jsonl")}
    assert held and not held & {row["prompt"] for row in rows}
    assert whole.results["stopped"] == "all 2 rounds are done"
    assert "tuned: ''" in (first / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert str(first / "run") in (whole.folder / "round-2" / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert whole.run.generate(["What?"], tokens=3)


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a round came to, but for times and paths."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {"report": json.loads((folder / "report.json").read_text(encoding="utf-8"))}
    for file in sorted(folder.rglob("*.jsonl")):
        if file.name != "events.jsonl":
            found[str(file.relative_to(folder))] = lines(file)
    for file in sorted(folder.rglob("adapter/*.safetensors")):
        found[str(file.relative_to(folder))] = {k: v.tolist() for k, v in load_file(file).items()}
    return found


def killed(work: Callable[[], Any]) -> None:
    """Do it in a process that is to be killed on its way."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_kill_anywhere_changes_nothing(
    whole: Improved, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes, tunes and scores, and resumed each time, it comes to what it comes to in one go."""
    torch.set_num_threads(1)
    folder = tmp_path / "a"

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def start(resume: bool) -> Improved:
        source = str(folder) if resume and len(list(folder.rglob("*.jsonl"))) % 2 else str(bases["llama"])
        if source == str(folder):
            return improve(source, resume=True, progress="quiet")
        return improve(source, table(), out=tmp_path, name="a", resume=resume, **SETTINGS)

    real = Writer.answer

    def answer(self: Writer, rows: Any, sampling: Any) -> Any:
        if (folder / "round-1" / "samples" / "000000.jsonl").exists():
            die()
        return real(self, rows, sampling)

    def step(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 2:
            die()

    def note(event: Mapping[str, Any]) -> None:
        if event.get("text", "").startswith("round 1: 0"):
            die()

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "answer", answer)
        killed(lambda: start(False))
    part = folder / "round-1" / "samples" / "000000.jsonl"
    written = part.stat().st_mtime_ns
    assert not (folder / "round-1" / "judged.jsonl").exists()
    for hear in (step, note):
        with monkeypatch.context() as patch:
            patch.setattr(api, "listener", lambda style, hear=hear: hear)
            killed(lambda: start(True))
    assert (folder / "round-1" / "score.json").exists() and not (folder / "round-2" / "made.json").exists()
    done = start(True)
    assert part.stat().st_mtime_ns == written
    assert outcome(done.folder) == outcome(whole.folder)
    assert improve(str(folder), resume=True, progress="quiet").results == done.results


def test_the_command_shows_every_round(
    whole: Improved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    from tunesmith.cli.commands import run

    assert run(["improve", str(whole.folder), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(whole.folder), **whole.results}
    assert run(["improve", str(whole.folder), "--resume", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "all 2 rounds are done" in shown and "0.000 (0.000 to 0.000)" in shown
    assert run(["improve", "smollm2-135m", "--judge", "exact_match"]) == 2
    assert "no rows are given" in capsys.readouterr().err


def test_it_goes_on_only_with_what_it_began_with(whole: Improved, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(whole.folder, folder)
    (folder / "report.json").unlink()
    base = plan.read(folder / "improve.yaml").recipe.base
    with pytest.raises(InputError, match="improve is not what it was"):
        improve(base, table(), out=tmp_path, name="a", resume=True, **{**SETTINGS, "samples": 2})
    with pytest.raises(InputError, match="content of the rows is not what it was"):
        improve(base, table(23), out=tmp_path, name="a", resume=True, **SETTINGS)
    with pytest.raises(InputError, match="there already"):
        improve(base, table(), out=tmp_path, name="a", **SETTINGS)


OVER: dict[str, dict[str, Any]] = {
    "rest-em": {"maker.select.least": 0.0}, "rft": {"maker.select.least": 0.0}, "facttune": {"maker.pairs.gold": True},
    "better-together": {"maker.select.least": 0.0},
    "leti": {"judge.unit_tests.allow": "confined", "prompts": 4},
}  # fmt: skip


@pytest.mark.parametrize("path", WAYS, ids=lambda p: p.stem)
def test_every_shipped_way_runs_for_a_step(path: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    changes = {
        "base": str(bases["llama"]), "rows.train": table(16), "budget.steps": 1, "budget.epochs": None, "batch.rows": 2,
        "rounds": min(1, plan.read(path).improve.rounds), "tokens": 4, "prompts": 12, "checks.rows": 2, "length.over": "truncate", **OVER.get(path.stem, {}),
    }  # fmt: skip
    if plan.read(path).improve.samples > 1:
        changes["samples"] = 2
    if path.stem == "semantic-entropy":
        changes["judge.semantic_entropy.base"] = str(bases["bert"])
    made = plan.read(path, changes)
    done = api.start(made, tmp_path / "a", lambda event: None)
    assert done.results["scores"][0]["test"]["rows"] > 0
    if not made.improve.rounds:
        with pytest.raises(InputError, match="no round was tuned"):
            _ = done.run
        return
    (facts,) = done.results["rounds"]
    assert facts["rows"] > 0 and facts["pairs"] == made.improve.maker.part.load().pairs
    assert (done.run.folder / "report.json").exists()
    assert done.results["scores"][1]["test"]["rows"] > 0


@pytest.mark.parametrize("rounds_", [0, 1])
def test_demonstrations_are_searched_for_each_model(rounds_: int, bases: dict[str, Path], tmp_path: Path) -> None:
    """Every answer counts as right: what is kept are the model's own, and the rows that are made have no demonstrations."""
    options = {**SETTINGS, "judge": {"likelihood": {}}, "check": {"likelihood": {}}, "rounds": rounds_, "start": "base",
               "framing": {"demonstrations": {"count": 1, "draws": 2, "pool": 3}}}  # fmt: skip
    rows = table(16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.judges.likelihood.Likelihood.__call__", all_right)
        patch.setattr("tunesmith.judges.likelihood.Likelihood.measures", True)
        done = improve(str(bases["llama"]), rows, out=tmp_path, name="a", **options)
        assert improve(done.folder, resume=True).results == done.results
    places = sorted(done.folder.glob("round-*/framing.json"))
    assert [p.parent.name for p in places] == [f"round-{n}" for n in range(rounds_ + 1)]
    assert all(json.loads(p.read_text(encoding="utf-8"))["kept"] == [] for p in places)  # none is better than no gain
    assert len(done.results["scores"]) == rounds_ + 1
    if rounds_:
        made = lines(done.folder / "round-1" / "rows.jsonl")
        assert {row["prompt"] for row in made} <= {row["prompt"] for row in rows}


def all_right(judge: Any, questions: Any, bench: Any) -> Any:
    return [[Verdict(1.0) for _ in q.samples] for q in questions]


def test_votes_are_of_answers_with_the_evidence_before_the_prompt(bases: dict[str, Path], tmp_path: Path) -> None:
    asked: list[list[str]] = []
    answer = Writer.answer

    def heard(self: Writer, rows: Any, sampling: Any) -> Any:
        asked.append([row["prompt"] for row in rows])
        return answer(self, rows, sampling)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "answer", heard)
        given = {
            **SETTINGS,
            "judge": "exact_match",
            "rounds": 0,
            "framing": {"evidence": {"ask": "Say why.", "votes": 3}},
        }
        done = improve(str(bases["llama"]), table(16), out=tmp_path, name="a", **given)
    evidence, voted = asked[:2]
    assert all(one.endswith("\nSay why.") for one in evidence)
    assert all(two.endswith(one.removesuffix("\nSay why.")) for one, two in zip(evidence, voted, strict=True))
    assert done.results["rounds"] == [] and done.results["best"] == 0


def test_a_search_needs_somebody_who_scores(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"]} for row in table(16)]
    given = {**SETTINGS, "judge": "self_consistency", "check": None, "framing": "demonstrations"}
    with pytest.raises(InputError, match="Demonstrations tries itself out on held-out rows that nobody can score"):
        improve(str(bases["llama"]), rows, out=tmp_path, name="a", **given)


def test_the_recipes_of_stages_run_one_after_the_other(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {i}", "chosen": "I am fine", "rejected": "go away"} for i in range(24)]
    quick = {"rows.train": rows, "budget.steps": 1, "budget.epochs": None, "batch.rows": 4, "checks.generate": 0}
    first = recipe.read(ROOT / "recipes" / "openbezoar-1.yaml", {**quick, "base": str(bases["llama"])})
    run = tune(first, out=tmp_path, name="one", progress="quiet")
    run.save_pretrained(tmp_path / "merged")
    for name in ("openbezoar-2", "abstract2appendix"):
        made = recipe.read(ROOT / "recipes" / f"{name}.yaml", {**quick, "base": str(tmp_path / "merged")})
        assert "accuracy" in tune(made, out=tmp_path, name=name, progress="quiet").results["tuned"]


# ---------------------------------------------------------------------- rows


CHAT = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q1"},
                     {"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"},
                     {"role": "assistant", "content": "a2"}]}  # fmt: skip


def test_rows_are_asked_and_answered_in_their_own_form() -> None:
    asker = Asker(detect(read([{"instruction": "do", "input": "this", "output": "done"}] * 2)))
    row = {"instruction": "do", "input": "this", "output": "done"}
    question = asker.question(row, ["x"])
    assert (question.prompt, question.reference) == ("do\n\nthis", "done")
    assert asker.prompt(asker.asking(row, "M do\n\nthis")) == "M do\n\nthis"
    assert asker.made(Answer(question, "y"))["output"] == "y" and asker.made(Answer(question, "y"))["input"] == "this"
    assert asker.made(Pair(question, "a", "b")) == {"prompt": "do\n\nthis", "chosen": "a", "rejected": "b"}


def test_conversations_are_asked_and_answered_at_their_end() -> None:
    asker = Asker(detect(read([CHAT] * 2)))
    question = asker.question(CHAT, ["x"])
    assert (question.prompt, question.reference) == ("q2", "a2")
    made = asker.made(Answer(question, "y", "M q2"))["messages"]
    assert [m["content"] for m in made] == ["s", "q1", "a1", "M q2", "y"]
    with pytest.raises(InputError, match="several turns cannot become a pair"):
        asker.made(Pair(question, "a", "b"))


def test_prompts_may_stand_without_an_answer(bases: dict[str, Path], tmp_path: Path) -> None:
    prompts = [{"question": f"What is {i}?"} for i in range(40)]
    with pytest.raises(InputError, match="exact_match|ExactMatch needs right answers"):
        improve(str(bases["llama"]), prompts, judge="exact_match", out=tmp_path, name="x", progress="quiet")
    options = {**SETTINGS, "judge": "self_consistency", "maker": {"select": {"least": 0.0}}, "check": None, "rounds": 1}
    done = improve(str(bases["llama"]), prompts, out=tmp_path, name="y", **options)
    assert done.results["scores"] == [{"round": 0}, {"round": 1}] and done.results["best"] == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judge": "exct_match"}, "did you mean 'exact_match'"),
        ({"judge": None}, "no judge is named"),
        ({"like": "rest"}, "unknown preset 'rest'"),
        ({"roundz": 3}, "unknown option 'roundz'"),
        ({"temperature": 0}, "where all are the same"),
        ({"start": "middle"}, "improve.start is 'middle'"),
        ({"policy": "no/such"}, "holds no run"),
        ({"samples": 0, "maker": "select", "task": "classify"}, "writes no answer"),
    ],
)
def test_a_mistake_is_one_clear_line(
    changes: dict[str, Any], says: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{**row, "text": row["prompt"], "label": "ab"[i % 2]} for i, row in enumerate(table())]
    with pytest.raises(InputError, match=says):
        improve(str(bases["llama"]), rows, out=tmp_path, name="a", **{"judge": "exact_match", **changes})
    assert not (tmp_path / "a").exists()


def test_rows_beside_are_tuned_on_in_every_round_and_trust_is_scored(bases: dict[str, Path], tmp_path: Path) -> None:
    general = [{"prompt": f"Say {i}.", "completion": f"{i}", "more": "not used"} for i in range(5)]
    options = {**SETTINGS, "rounds": 1, "beside": general, "trust": ["likelihood", {"semantic_entropy": {}}],
               "check": {"exact_match": {"where": "contains"}}}  # fmt: skip
    done = improve(str(bases["llama"]), table(), out=tmp_path, name="a", **options)
    rows = lines(done.folder / "round-1" / "rows.jsonl")
    made = done.results["rounds"][0]["rows"]
    assert rows[made:] == [{k: v for k, v in row.items() if k != "more"} for row in general]
    assert len(lines(done.folder / "round-1" / "trust-test.jsonl")) == len(
        lines(done.folder / "round-1" / "said-test.jsonl")
    )
    assert done.results["scores"][1]["test"]["trust"].keys() == {"likelihood", "semantic_entropy"}
    with pytest.raises(InputError, match="improve.beside: rows beside those of maker rated"):
        improve(str(bases["llama"]), table(), out=tmp_path, name="b", **{**options, "maker": "rated", "loss": "kto"})


def test_trust_tells_right_answers_from_wrong_ones() -> None:
    right = np.array([True, False, True, False, False, True, False])
    assert rounds._told_apart(right, right.astype(float).tolist())["value"] == 1.0
    assert rounds._told_apart(right, [0.5] * 7)["value"] == 0.5
    assert rounds._told_apart(np.array([True, True]), [0.1, 0.2]) == {}


def test_it_stops_where_a_round_gains_nothing() -> None:
    made = object.__new__(rounds.Rounds)
    made.plan = plan.make({"rows": "a.csv", "improve": {"judge": "exact_match", "gain": 0.02}})
    scored = [{"validation": {"value": v}} for v in (0.2, 0.4, 0.41)]
    assert made._no_gain(scored[:2]) == "" and "0.410 is not above 0.400 by more than 0.02" in made._no_gain(scored)
    assert rounds.best(scored) == 2 and rounds.best([scored[1], scored[1]]) == 0


# ---------------------------------------------------------------------- what judges ask of models


@pytest.fixture(scope="module")
def writer(bases: dict[str, Path], home: Path) -> Writer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(home))
        made = make_recipe({"base": str(bases["llama"]), "rows": "x.jsonl"})
        rows = read(table())
        return Writer.of_base(made, rows, task_of(made, rows))


def test_log_probabilities_are_those_of_the_answer(writer: Writer) -> None:
    row = table()[3]
    question = Question(row["prompt"], row, row["completion"], ("I am fine.", "Paris"))
    (found,) = writer.log_probabilities([question], base=False)
    for text, value in zip(question.samples, found, strict=True):
        before = writer.task.prompt_ids(row, writer.reader)  # type: ignore[attr-defined]
        (encoding,) = writer.task.encode([{**row, "completion": text}], writer.reader)[0]
        assert encoding.input_ids[: len(before)] == before
        ids = torch.tensor([encoding.input_ids])
        with torch.no_grad():
            logs = writer.host.model(input_ids=ids).logits[0].log_softmax(-1)
        said = [float(logs[i - 1, t]) for i, t in enumerate(encoding.labels) if t != -100]
        assert value == pytest.approx(np.mean(said), abs=1e-4)


def test_attention_to_the_context_is_that_of_the_users_words(writer: Writer) -> None:
    """Against a second way to find them: by the text's offsets in the template's text."""
    row = table()[3]
    (found,) = writer.context_attention([Question(row["prompt"], row, None, ("I am fine.",))])
    tokenizer, task = writer.reader.tokenizer, writer.task
    (encoding,) = task.encode([{**row, "completion": "I am fine."}], writer.reader)[0]
    text = tokenizer.decode(encoding.input_ids)
    at = text.index(row["prompt"])
    ends = [len(tokenizer.decode(encoding.input_ids[: i + 1])) for i in range(len(encoding.input_ids))]
    mine = [i for i, end in enumerate(ends) if at < end <= at + len(row["prompt"])]
    model = writer.host.model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(input_ids=torch.tensor([encoding.input_ids]), output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    writes = [i - 1 for i, t in enumerate(encoding.labels) if t != -100]
    wanted = max(float(layer[0, h][writes][:, mine].sum(1).mean()) for layer in layers for h in range(2))
    assert found[0] == pytest.approx(wanted, abs=0.02) and 0 < found[0] < 1


def test_an_encoder_embeds_and_a_run_scores(
    writer: Writer, bases: dict[str, Path], rows_file: Path, tmp_path: Path
) -> None:
    vectors = writer.embeddings(str(bases["bert"]), ["the apple", "the saw", "the apple"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5) and np.allclose(vectors[0], vectors[2], atol=1e-5)
    run = tune(
        rows_file,
        base=str(bases["bert"]),
        out=tmp_path,
        name="c",
        budget={"steps": 1, "epochs": None},
        progress="quiet",
    )
    said = writer.predictions(str(run.folder), [("what?", "the apple"), ("what?", "the saw")])
    assert [sum(s["probabilities"].values()) for s in said] == pytest.approx([1, 1], abs=1e-5)
    assert [s["label"] for s in said] == [p["label"] for p in run.predict(["the apple", "the saw"])]
    assert set(said[0]["probabilities"]) == {"fruit", "tool"}
