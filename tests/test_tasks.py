"""Finding out what rows ask for, and encoding them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tokens import bert, gpt
from tunesmith.data import tasks
from tunesmith.data.detect import detect
from tunesmith.data.encode import collator, encode, suggest_length
from tunesmith.data.reader import IGNORED, Reader
from tunesmith.data.rows import Rows, read
from tunesmith.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path_factory.mktemp("home")))


def many(count: int = 40, **columns: Any) -> Rows:
    """Rows whose columns are made by functions of the row's number."""
    return read([{name: make(i) for name, make in columns.items()} for i in range(count)])


def talk(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]


def words(i: int) -> list[str]:
    return ["the", "fox", f"x{i}"]


text, label = (lambda i: f"a text number {i}"), (lambda i: ("no", "yes")[i % 2])
FOUND = {
    "plain names": ({"text": text, "label": label}, "classify", {"text": "text", "label": "label"}),
    "other names": ({"Review": text, "Sentiment": label}, "classify", {"text": "Review", "label": "Sentiment"}),
    "pair": ({"premise": text, "hypothesis": text, "label": label}, "pair",
             {"text": "premise", "second": "hypothesis", "label": "label"}),
    "question and context": ({"question": text, "context": text, "label": label}, "pair",
                             {"text": "question", "second": "context", "label": "label"}),
    "fractions": ({"text": text, "score": lambda i: i / 7}, "regress", {"text": "text", "label": "score"}),
    "many whole numbers": ({"text": text, "label": lambda i: i}, "regress", {"text": "text", "label": "label"}),
    "few whole numbers": ({"text": text, "label": lambda i: i % 5}, "classify", {"text": "text", "label": "label"}),
    "similarity": ({"sentence1": text, "sentence2": text, "score": lambda i: i / 7}, "regress",
                   {"text": "sentence1", "second": "sentence2", "label": "score"}),
    "tags": ({"tokens": words, "ner_tags": lambda i: ["O", "B-A", "I-A"]}, "tag",
             {"tokens": "tokens", "tags": "ner_tags"}),
    "prompt": ({"prompt": text, "completion": text}, "generate", {"prompt": "prompt", "completion": "completion"}),
    "alpaca": ({"instruction": text, "input": text, "output": text}, "generate",
               {"prompt": "instruction", "input": "input", "completion": "output"}),
    "messages": ({"messages": talk}, "chat", {"messages": "messages"}),
    "sharegpt": ({"conversations": lambda i: [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "chat",
                 {"messages": "conversations"}),
    "text alone": ({"text": text}, "lm", {"text": "text"}),
    "by type": ({"zzz": lambda i: f"a long text of many words, number {i}", "kind": label}, "classify",
                {"text": "zzz", "label": "kind"}),
    "several labels": ({"text": text, "labels": lambda i: [["a"], ["a", "b"]][i % 2]}, "classify",
                       {"text": "text", "label": "labels"}),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_tasks_are_found(case: str) -> None:
    columns, name, expected = FOUND[case]
    task = detect(many(**columns))
    assert (task.name, task.columns) == (name, expected) and task.notes
    again = tasks.from_dict(task.describe())
    assert again.describe() == task.describe()


def test_labels_are_learned_in_order() -> None:
    task = detect(many(text=text, label=lambda i: [10, 9, 2][i % 3]))
    assert task.labels == ["2", "9", "10"]
    several = detect(many(text=text, label=lambda i: ["b|a", "a", "b"][i % 3]))
    assert several.labels == ["a", "b"] and several.loss == "binary_cross_entropy"
    assert several.target({"label": "b|a"}) == [1.0, 1.0]


BAD = {
    "no task": ({"a": lambda i: i, "b": lambda i: i}, {}, "no task fits the columns a, b"),
    "one class": ({"text": text, "label": lambda i: "x"}, {}, r"holds one class only \('x'\)"),
    "label missing": ({"text": text, "label": lambda i: None if i == 6 else label(i)}, {}, "row 7: column 'label' is empty"),
    "nan": ({"text": text, "score": lambda i: float("nan") if i == 3 else i / 3}, {}, "row 4: column 'score' is empty"),
    "text missing": ({"text": lambda i: " " if i == 2 else "a b", "label": label}, {}, "row 3: column 'text' holds no text"),
    "every label differs": ({"text": text, "label": lambda i: f"l{i}"}, {"task": "classify"}, "40 different labels"),
    "same numbers": ({"text": text, "label": lambda i: 0.5}, {"task": "regress"}, "is 0.5 in every row"),
    "no number": ({"text": text, "label": label}, {"task": "regress"}, "column 'label' is 'no'; expected a number"),
    "unknown task": ({"text": text, "label": label}, {"task": "clasify"}, "did you mean 'classify'"),
    "unknown role": ({"text": text, "label": label}, {"task": "classify", "columns": {"txt": "text"}}, "did you mean 'text'"),
    "unknown column": ({"text": text, "label": label}, {"columns": {"label": "lable"}}, "did you mean 'label'"),
    "unknown setting": ({"text": text, "label": label}, {"task": {"classify": {"mlti": True}}}, "did you mean 'multi'"),
    "unclear": ({"a": label, "b": label, "c": text}, {"task": "classify"}, "which column is the label is not clear"),
    "tags and tokens": ({"tokens": words, "tags": lambda i: ["O"]}, {}, "3 tokens but 1 tags"),
    "no assistant": ({"messages": lambda i: [{"role": "user", "content": "a"}]}, {}, "no turn of the assistant"),
    "assistant first": ({"messages": lambda i: talk(i)[1:]}, {}, "the assistant speaks first"),
    "unknown speaker": ({"messages": lambda i: [{"role": "bot", "content": "a"}]}, {}, "message 1 has role 'bot'"),
    "empty answers": ({"messages": lambda i: [talk(i)[0], {"role": "assistant", "content": ""}]}, {}, "assistant is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_one_clear_line(case: str) -> None:
    columns, options, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        detect(many(**columns), **options)
    assert "\n" not in str(caught.value)


def reader_for(name: str, **options: Any) -> Reader:
    if name in ("generate", "chat", "lm"):
        return Reader(gpt(), "decoder", **{"max_length": 64, **options})
    return Reader(bert(), "encoder", **{"max_length": 64, **options})


@pytest.mark.parametrize("case", FOUND)
def test_every_task_is_encoded_and_collated(case: str) -> None:
    columns, name, _ = FOUND[case]
    rows = many(12, **columns)
    task = detect(rows, name)
    encoded = encode(rows, np.arange(12), task, reader_for(name))
    batch = collator(task, 0)(encoded.take(np.arange(5)))
    assert len(encoded) >= 12 and (encoded.units > 0).all()
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist() == [len(r["input_ids"]) for r in encoded.take(np.arange(5))]
    if task.per_token:
        assert (batch["labels"] != IGNORED).sum(1).tolist() == encoded.units[:5].tolist()
    assert batch["labels"].dtype == (torch.float32 if name == "regress" or "several" in case else torch.int64)


def test_encoding_is_kept_and_follows_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(text=text, label=label)
    task = detect(rows)
    first = encode(rows, np.arange(40), task, reader_for("classify"))
    monkeypatch.setattr(type(task), "encode", lambda *a: pytest.fail("encoded again"))
    assert encode(rows, np.arange(40), task, reader_for("classify")).take([7]) == first.take([7])
    for changed in (dict(max_length=32), dict(policy="drop")):
        with pytest.raises(BaseException, match="encoded again"):
            encode(rows, np.arange(40), task, reader_for("classify", **changed))


LONG = {"prompt": lambda i: "what is it?", "completion": lambda i: "word " * (60 if i == 4 else 3)}


def test_long_answers_stop_the_run_unless_the_user_chooses() -> None:
    rows = many(12, **LONG)
    task = detect(rows)
    with pytest.raises(
        InputError, match=r"row 5: 1 rows would lose \d+ tokens of their answers at length 32.*--length \d+"
    ):
        encode(rows, np.arange(12), task, reader_for("generate", max_length=32))
    cut = encode(rows, np.arange(12), task, reader_for("generate", max_length=32, policy="truncate"))
    assert len(cut) == 12 and cut.counts["rows_that_lost_answers"] == 1 and cut.counts["answer_tokens_lost"] > 0
    dropped = encode(rows, np.arange(12), task, reader_for("generate", max_length=32, policy="drop"))
    assert len(dropped) == 11 and dropped.counts["rows_dropped"] == 1 and 4 not in dropped.rows
    with pytest.raises(InputError, match="1 rows are longer than 32 tokens"):
        encode(rows, np.arange(12), task, reader_for("generate", max_length=32, policy="stop"))


def test_long_inputs_are_cut_and_counted() -> None:
    rows = many(12, text=lambda i: "word " * (90 if i == 4 else 3) + str(i), label=label)
    task = detect(rows)
    encoded = encode(rows, np.arange(12), task, reader_for("classify", max_length=32))
    assert encoded.counts["rows_cut"] == 1 and encoded.lengths.max() == 32


def test_the_suggested_length_follows_the_rows() -> None:
    rows = many(400, text=lambda i: "dog " * (i % 20 + 1) + str(i), label=label)
    task = detect(rows)
    length = suggest_length(rows, np.arange(400), task, reader_for("classify"), 512)
    assert length % 8 == 0 and 20 <= length <= 48


def test_a_row_without_a_supervised_token_is_an_error() -> None:
    rows = many(12, prompt=lambda i: "dog " * 200, completion=text)
    task = detect(rows)
    reader = reader_for("generate", max_length=8, policy="truncate")
    monkey = [task.encode([rows[0]], reader)[0][0]]
    assert any(label != IGNORED for label in monkey[0].labels), "the answer is kept as long as it can be"


def test_an_unseen_label_is_named() -> None:
    rows = many(text=text, label=label)
    task = detect(rows)
    with pytest.raises(InputError, match="label 'maybe' was not among the training labels"):
        task.encode([{"text": "a", "label": "maybe"}], reader_for("classify"))


def test_rows_to_predict_need_no_answer() -> None:
    for case in ("plain names", "fractions", "tags"):
        columns, name, _ = FOUND[case]
        rows = many(**columns)
        task = detect(rows)
        answer = task.columns.get("label") or task.columns["tags"]
        row = {k: v for k, v in rows[0].items() if k != answer}
        assert task.encode([row], reader_for(name))[0][0].input_ids
