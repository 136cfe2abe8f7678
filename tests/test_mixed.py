"""Rows of several tasks on one trunk, rows with reasons, and rows inside templates: from a table to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loss_batches import Letters, make_host, make_step
from tokens import bert
from tunesmith import parts, tune
from tunesmith import recipe as recipes
from tunesmith.data import tasks
from tunesmith.data.detect import detect
from tunesmith.data.encode import collator, encode
from tunesmith.data.reader import Reader
from tunesmith.data.rows import read
from tunesmith.data.tasks import IGNORED
from tunesmith.engine.step import Step
from tunesmith.errors import InputError
from tunesmith.losses._templates import cut, framed
from tunesmith.losses.balanced import Balanced
from tunesmith.losses.self_training import SelfTraining
from tunesmith.run.carry_out import score


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))


def mixed_rows(count: int = 60) -> list[dict[str, str]]:
    """Two tasks that share a label's name."""
    big = [{"text": f"the fox {i}", "label": ("yes", "no", "fox")[i % 3], "of": "animals"} for i in range(count)]
    return big + [{"text": f"a word {i}", "label": ("yes", "no")[i % 2], "of": "words"} for i in range(count // 2)]


NAMED = {"text": "text", "label": "label", "source": "of"}


def batch_of(rows: list[dict[str, Any]], columns: dict[str, str], **how: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    table = read(rows)
    task = detect(table, task="classify", columns=columns)
    reader = Reader(bert(), "encoder", max_length=16, **how)
    encoded = encode(table, np.arange(len(table)), task, reader)
    return task, collator(task, 0)(encoded.take(np.arange(len(table))))


def short(values: dict[str, Any], folder: Path) -> Any:
    """A run of two steps, scored."""
    return score(recipes.make({**values, "budget": {"steps": 2}}), folder, listen=lambda event: None)


def test_a_row_has_the_labels_of_its_own_task() -> None:
    task, batch = batch_of(mixed_rows(), NAMED)
    assert task.sources == ["animals", "words"]
    assert task.labels == ["animals: fox", "animals: no", "animals: yes", "words: no", "words: yes"]
    assert batch["choices"].sum(1).unique().tolist() == [2, 3]
    assert batch["choices"].gather(1, batch["labels"][:, None]).all(), "each row can have its own label"
    again = tasks.from_dict(task.describe())
    assert again.sources == task.sources and again.describe() == task.describe()


def test_without_a_column_of_tasks_nothing_is_different() -> None:
    task, batch = batch_of(mixed_rows(), {"text": "text", "label": "label"})
    assert task.labels == ["fox", "no", "yes"] and "sources" not in task.describe()
    assert not {"source", "choices", "rationale"} & batch.keys() and task.input_columns == ["text"]


def test_a_row_of_an_unknown_task_is_named() -> None:
    task, _ = batch_of(mixed_rows(), NAMED)
    with pytest.raises(InputError, match="task 'birds' was not among"):
        task.encode([{"text": "a", "label": "yes", "of": "birds"}], Reader(bert(), "encoder", max_length=16))


def test_own_labels_of_mixed_tasks_stay_finite() -> None:
    """A batch in which no row can have the third label, and one whose rows are of two tasks."""
    host = make_host("row")
    ids = torch.randint(5, 90, (4, 6))
    labels = torch.tensor([0, 1, 1, 0])
    for choices in ([[True, True, False]] * 4, [[True, True, False]] * 2 + [[False, True, True]] * 2):
        term = SelfTraining(begin=0.0, confident=0.0)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        step = make_step(host, "row", {**batch, "choices": torch.tensor(choices)}, progress=0.5)
        term.start(step)
        soft, weights = term.labels(step)
        assert torch.isfinite(soft).all() and (soft[~torch.tensor(choices)] == 0).all()
        assert ((weights >= 0) & (weights <= 1)).all(), "no row is surer than a row can be of its own labels"
        assert 0 <= float(term(step).detach()) < 10


def test_labels_of_other_tasks_have_no_probability() -> None:
    host = make_host("row")
    ids = torch.randint(5, 90, (4, 6))
    choices = torch.tensor([[True, True, False], [False, False, True], [True, False, True], [True, True, True]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 2, 2, 1])}
    said = make_step(host, "row", {**batch, "choices": choices}).logits.softmax(-1)
    assert (said[~choices] == 0).all() and said[1, 2] == 1
    plain = make_step(host, "row", batch).logits
    torch.testing.assert_close(said[0, :2], plain[0, :2].softmax(-1))


def test_several_tasks_train_together_and_answer_apart(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = {"train": mixed_rows(), "columns": NAMED}
    how: dict[str, Any] = {"loss": {"balanced": {"by": "slope", "scaled": True}}, "progress": "quiet", "epochs": 1}
    made = tune(rows, base=str(bases["bert"]), task="classify", out=str(tmp_path), **how)
    said = made.predict([{"text": "the fox", "of": "words"}, {"text": "a word", "of": "animals"}])
    assert said[0]["label"].startswith("words: ") and said[1]["label"].startswith("animals: ")


def test_slower_tasks_get_more_weight() -> None:
    term = Balanced(by="slope")
    for number in range(40):
        term._latest = {0: 1.0 - number / 50, 1: 1.0}
        term.end_step({})
    weights = term._weights({0: torch.tensor(0.2), 1: torch.tensor(1.0)})
    assert weights[1] > 1 > weights[0] and weights[0] + weights[1] == pytest.approx(2)


def test_every_task_counts_alike_however_many_rows_it_has() -> None:
    host = make_host("row")
    ids = torch.randint(5, 90, (5, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 2, 0, 1])}
    step = make_step(host, "row", {**batch, "source": torch.tensor([0, 0, 0, 0, 1])})
    losses = torch.nn.functional.cross_entropy(step.logits, step.targets, reduction="none")
    torch.testing.assert_close(Balanced()(step), (losses[:4].mean() + losses[4]) / 2)


# ---------------------------------------------------------------------- reasons

REASONED = [
    {"text": "the quick fox jumps", "label": "a", "why": ["quick", "jumps"]},
    {"text": "the lazy dog", "label": "b", "why": ["lazy dog"]},
    {"text": "a word", "label": "b", "why": None},
    {"text": "the fox and the fox", "label": "a", "why": ["Fox"]},
]


def test_reasons_mark_the_tokens_that_they_hold() -> None:
    _, batch = batch_of(REASONED, {"text": "text", "label": "label", "rationale": "why"})
    tokenizer = bert()
    for row, reason in enumerate(({"quick", "jumps"}, {"lazy", "dog"}, set(), {"fox"})):
        there = batch["attention_mask"][row].bool()
        words = tokenizer.convert_ids_to_tokens(batch["input_ids"][row][there].tolist())
        marks = batch["rationale"][row][there].tolist()
        assert marks[0] == marks[-1] == IGNORED
        expected = [int(w in reason) for w in words[1:-1]] if reason else [IGNORED] * (len(words) - 2)
        assert marks[1:-1] == expected
    assert (batch["rationale"][batch["attention_mask"] == 0] == IGNORED).all()


def test_reasons_are_cut_as_the_text_is() -> None:
    rows = [{**row, "text": f"{row['text']} " + "day " * 40} for row in REASONED]
    _, batch = batch_of(rows, {"text": "text", "label": "label", "rationale": "why"})
    assert batch["rationale"].shape == batch["input_ids"].shape == (4, 16)


def test_a_run_with_reasons_predicts_without_them(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"text": f"the {w} {i}", "label": w, "why": [w]} for i in range(40) for w in ("fox", "dog")]
    given = {"train": rows, "columns": {"rationale": "why"}}
    scored = short(
        {"rows": given, "base": str(bases["bert"]), "task": "classify", "loss": "rationale_supervision"}, tmp_path
    )
    bare = [{"text": "the dog", "label": "dog"}]
    pieces = scored.prepared.task.encode(bare, scored.prepared.reader)
    assert pieces[0][0].rationale is not None and set(pieces[0][0].rationale) == {IGNORED}
    assert set(scored.answers.predictions) <= {0, 1}


def test_a_term_that_needs_reasons_says_so(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"text": f"the {w} {i}", "label": w} for i in range(20) for w in ("fox", "dog")]
    with pytest.raises(InputError, match=r"rows.columns: \{rationale: NAME\}"):
        short({"rows": rows, "base": str(bases["bert"]), "loss": "rationale_supervision"}, tmp_path)


# ---------------------------------------------------------------------- templates


def test_words_stand_inside_special_tokens_and_before_the_answer() -> None:
    host, words = make_host("lm"), Letters((1,))
    ids = torch.tensor([[1, 7, 8, 9, 2], [1, 7, 9, 2, 0]])
    labels = torch.tensor([[-100, -100, -100, 9, 2], [-100, -100, 9, 2, -100]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}
    step = framed(Step(host, batch, "causal-lm", words=words), [50, 51], [60])
    assert step.batch["input_ids"].tolist() == [[1, 50, 51, 7, 8, 60, 9, 2], [1, 50, 51, 7, 60, 9, 2, 0]]
    assert step.batch["labels"][0].tolist() == [-100] * 6 + [9, 2] and step.units == 4


def test_words_stand_inside_the_marks_of_an_encoder() -> None:
    ids = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    types = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    batch = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.tensor([0, 1]),
        "token_type_ids": types,
    }
    step = framed(Step(make_host("row"), batch, "sequence-classification", words=Letters((1,), (2,))), [50], [60, 61])
    assert step.batch["input_ids"].tolist() == [[1, 50, 7, 8, 60, 61, 2], [1, 50, 9, 60, 61, 2, 0]]
    assert step.batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0]]
    assert Reader(bert(), "encoder", max_length=16).around == ([bert().cls_token_id], [bert().sep_token_id])


def test_a_template_has_one_place_for_the_text() -> None:
    assert cut("{text}") == ("", "")
    for template in ("no place", "{text} and {text}"):
        with pytest.raises(InputError, match="place for the text"):
            cut(template)


def test_a_row_that_grows_too_long_is_an_error() -> None:
    host = make_host("lm")
    ids = torch.full((1, 30), 7)
    step = make_step(host, "lm", {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    assert step.places == 64
    with pytest.raises(InputError, match="lower length.max by 6"):
        framed(step, [5] * 40, [])


def test_the_template_changes_every_few_steps_and_by_the_seed() -> None:
    host, drawn = make_host("lm"), {}
    for seed in (0, 1):
        term = parts.find("loss", "prompt_agnostic").choose({"every": 2}).build()
        step = make_step(host, "lm", {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 4),
                                      "labels": torch.ones(1, 4, dtype=torch.long)})  # fmt: skip
        torch.manual_seed(seed)
        term.start(step)
        drawn[seed] = []
        for _ in range(12):
            drawn[seed].append(term.drawn())
            term.end_step({})
    assert all(found[i] == found[i + 1] for found in drawn.values() for i in range(0, 12, 2))
    assert drawn[0] != drawn[1] and len(set(drawn[0])) > 2


def test_prompts_in_changing_words_train(bases: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"what is a fox {i}", "completion": "fine"} for i in range(30)]
    scored = short({"rows": rows, "base": str(bases["llama"]), "loss": "prompt_agnostic"}, tmp_path)
    assert all(np.isfinite(e["loss"]) for e in scored.events if e["event"] == "step")
