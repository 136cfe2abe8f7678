"""Preferences from rows to a run, and terms of the loss that own tensors: trained, saved, resumed, used."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_engine import collate, table, work
from tiny import tiny
from tokens import gpt
from tunesmith import parts, tune
from tunesmith.data.detect import detect
from tunesmith.data.encode import collator, encode
from tunesmith.data.reader import Reader
from tunesmith.data.rows import read
from tunesmith.data.tasks import IGNORED
from tunesmith.engine.loop import Budget, Loop
from tunesmith.errors import InputError
from tunesmith.host import Host


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))


def pair_rows(count: int = 40) -> list[dict[str, str]]:
    draw = random.Random(0)
    nouns = ["fox", "dog", "day", "word", "number", "question"]
    return [
        {"prompt": f"what is {draw.choice(nouns)} {i}", "chosen": "I am fine", "rejected": "go away now"}
        for i in range(count)
    ]


def test_pairs_lie_chosen_first_and_share_their_prompt() -> None:
    rows = read(pair_rows(6))
    task = detect(rows)
    reader = Reader(gpt(), "decoder", max_length=64)
    encoded = encode(rows, np.arange(6), task, reader)
    batch = collator(task, 0)(encoded.take(np.arange(4)))
    assert batch["good"].tolist() == [True] * 4 + [False] * 4
    assert batch["pairs"].tolist() == [0, 1, 2, 3] * 2
    for i in range(4):
        asked = [(batch["labels"][r] != IGNORED).nonzero()[0, 0] for r in (i, i + 4)]
        assert asked[0] == asked[1]
        assert torch.equal(batch["input_ids"][i, : asked[0]], batch["input_ids"][i + 4, : asked[1]])
        texts = [reader.tokenizer.decode(batch["input_ids"][r][batch["labels"][r] != IGNORED]) for r in (i, i + 4)]
        assert "fine" in texts[0] and "away" in texts[1]
    assert encoded.lengths[0] == batch["attention_mask"][[0, 4]].sum()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "a", "chosen": "b", "rejected": ""}], "holds no text; expected an answer"),
        ([{"prompt": "a", "completion": "b", "label": "maybe"}], "expected true or false"),
        ([{"prompt": "a", "chosen": "b", "worse": "c"}], "no column is the rejected"),
        ([{"prompt": "a", "text": "b"}], "no column holds answers"),
    ],
)
def test_what_is_no_preference_is_one_clear_line(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        detect(read(rows * 4), "prefer")


def test_control_marks_good_and_bad_prompts() -> None:
    rows = read([{"prompt": f"question {i}", "completion": "answer", "label": i % 2 == 0} for i in range(4)])
    task: Any = detect(rows, {"prefer": {"control": True}})
    assert task.loss == "conditional_training"
    assert task.prompt(rows[0]).startswith("<|good|>") and task.prompt(rows[1], good=False).startswith("<|bad|>")
    batch = collator(task, 0)(
        encode(rows, np.arange(4), task, Reader(gpt(), "decoder", max_length=64)).take(np.arange(4))
    )
    assert batch["controlled"].all() and batch["good"].tolist() == [True, False, True, False]


def test_a_run_with_pairs_learns_to_prefer(bases: dict[str, Path], tmp_path: Path) -> None:
    """DPO from rows to a report: the chosen answers become the likelier ones."""
    run = tune(
        rows=pair_rows(), base=str(bases["llama"]), out=tmp_path, name="pairs", adapter={"lora": {"rank": 4}},
        optimizer=["clip_norm", {"adamw": {"lr": 0.02}}], budget={"steps": 12, "epochs": None}, batch={"rows": 8},
        precision="fp32",  # in bf16 attention rounds otherwise where nothing is trained
    )  # fmt: skip
    report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [e["loss"] for e in events if e["event"] == "step"]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    assert "accuracy" in json.dumps(report)


def tags() -> Any:
    rows = table("classify")
    for row in rows.rows:
        row["labels"] = [t % 3 if j % 2 else -100 for j, t in enumerate(row["input_ids"])]
    return rows


def crf_work(**changes: Any) -> Any:
    host = Host(tiny("bert", "token-classification"), ["classifier.weight", "classifier.bias"])
    host.attach(parts.find("adapter", "lora").choose())
    host.train_only()
    terms = [parts.find("loss", name).choose().build() for name in ("crf", "proximal")]
    return work(host=host, rows=tags(), collate=collate, head="token-classification", losses=terms, **changes)


def test_what_a_term_owns_trains_and_is_resumed(tmp_path: Path) -> None:
    """Five steps in one go are five steps in two goes, for a term with parameters and one that follows the model."""
    whole = Loop(crf_work(folder=tmp_path / "whole"))
    list(whole)
    assert whole.work.losses[0].transitions.abs().max() > 0
    first = Loop(crf_work(folder=tmp_path / "cut", save_steps=2, budget=Budget(epochs=None, steps=5)))
    for event in first:
        if event["event"] == "save":
            break
    second = Loop(crf_work(folder=tmp_path / "cut"))
    assert second.resume() and second.state.step == 2
    list(second)
    for name, tensor in whole._tensors().items():
        assert torch.equal(second._tensors()[name], tensor), name


def test_viterbi_finds_the_best_path() -> None:
    """What a CRF makes of logits is greatest along the path of the highest score."""
    import itertools

    from tunesmith.engine.step import Step

    made = crf_work()
    step = Step(made.host, collate(made.rows.take(np.array([0, 3]))), made.head)
    term = made.losses[0]
    with torch.no_grad():
        term.start(step)
        torch.manual_seed(2)
        for parameter in term.parameters():
            parameter.copy_(torch.randn_like(parameter) * 2)
        said = term.read(step.logits, step).argmax(-1)
        for row in (0, 1):
            mine = step.owners == row
            z = step.logits[mine][:7]
            if mine.sum() > 7:
                continue

            def score(path: tuple[int, ...], z: torch.Tensor = z) -> float:
                moves = sum(term.transitions[a, b] for a, b in itertools.pairwise(path))
                return float(
                    moves + term.begin[path[0]] + term.end[path[-1]] + sum(z[i, t] for i, t in enumerate(path))
                )

            assert tuple(said[mine].tolist()) == max(itertools.product(range(3), repeat=len(z)), key=score)


def test_a_tagger_with_a_crf_is_used_with_its_transitions(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "fox", "is", "fine"], "tags": ["O", "B-A", "O", "O"]} for _ in range(30)]
    for i, row in enumerate(rows):
        row["tokens"] = [*row["tokens"], str(i)]
        row["tags"] = [*row["tags"], "I-A"]
    run = tune(rows=rows, base=str(bases["bert"]), out=tmp_path, name="tags", task="tag", loss="crf",
               budget={"steps": 2, "epochs": None}, batch={"rows": 8})  # fmt: skip
    from tunesmith import Run

    again = Run(run.folder)
    assert len(again.predict(rows[:2])[0]) == 5
    assert torch.equal(again.reading.terms[0].transitions, run.reading.terms[0].transitions)  # type: ignore[attr-defined]
    assert again.reading.terms[0].transitions.abs().max() > 0  # type: ignore[attr-defined]
