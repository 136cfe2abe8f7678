"""What earlier runs left lies below a task, and is exchanged: languages as adapters and as sparse differences."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import tunesmith as ts
from tiny import CONFIGS
from tokens import bert, gpt
from tunesmith.comparing.identity import Identities
from tunesmith.data.detect import detect
from tunesmith.data.reader import Reader
from tunesmith.data.rows import read
from tunesmith.data.tasks import IGNORED
from tunesmith.errors import InputError
from tunesmith.models.bases import load, resolve
from tunesmith.recipe import make

SHORT = {"budget": {"steps": 2}, "progress": "quiet"}
ENTRIES = {"random_entries": {"density": 0.05}}


def masked() -> Any:
    tokenizer = bert()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder whose tokenizer has a mask; it has no masked language model's head."""
    folder, config, tokenizer = tmp_path_factory.mktemp("base"), CONFIGS["bert"](), masked()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(0)
    tf.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def runs(base: str, rows_file: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two languages, each an adapter and a sparse difference at once, and a task above the first."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(home))
        common = {"base": base, "out": folder, **SHORT}
        for name, word in (("a", "number"), ("b", "the")):
            rows = [{"text": f"{word} fruit {word} tool {word} {i}"} for i in range(40)]
            ts.tune(rows, name=name, task="lm", adapter="bottleneck", mask=ENTRIES, **common)
        below = {"bottleneck": {"tuned": str(folder / "a"), "frozen": True}}
        ts.tune(
            str(rows_file), name="task", adapter=[below, "bottleneck"], mask=ENTRIES, upon=[str(folder / "a")], **common
        )
        yield folder


def state(run: ts.Run) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in run.host.state().items()}


def test_a_language_is_exchanged_below_a_task(runs: Path, base: str, rows_file: Path) -> None:
    a, b, task = (str(runs / n) for n in ("a", "b", "task"))
    mine, other = ts.open_run(task), ts.open_run(task, exchange={a: b})
    before, after, theirs = state(mine), state(other), state(ts.open_run(b))
    lower = [n for n in before if ".bottleneck." in n and ".bottleneck.1." not in n]
    assert lower and all(torch.equal(after[n], theirs[n]) for n in lower)
    assert all(torch.equal(after[n], before[n]) for n in before.keys() - set(lower))
    delta = ts.SparseDelta.load(task) + ts.SparseDelta.load(b)
    model = load(resolve(base), "sequence-classification", labels=["fruit", "tool"]).model
    plain = {n: p.detach().clone() for n, p in model.named_parameters()}
    undo = delta.within("bert.").apply(model)
    for name, tensor in model.named_parameters():
        if name.startswith("bert."):
            torch.testing.assert_close(other.host.model.get_parameter(name), tensor, rtol=1e-6, atol=1e-6)
    undo()
    assert all(torch.equal(p, plain[n]) for n, p in model.named_parameters())
    assert 0 <= other.evaluate(str(rows_file))["tuned"]["accuracy"]["value"] <= 1
    with pytest.raises(InputError, match="stands on something exchanged"):
        other.save_pretrained(runs / "out")
    with pytest.raises(InputError, match="does not stand on nothing; expected .*a or"):
        ts.open_run(task, exchange={"nothing": b})


def test_what_a_run_stands_on_is_said_and_not_given_to_peft(runs: Path) -> None:
    assert not (runs / "task" / "adapter" / "adapter_config.json").exists()
    with pytest.raises(InputError, match="is a masked language model, which writes no text"):
        ts.open_run(runs / "a").predict(["a text"])
    assert ts.open_run(runs / "a").evaluate([{"text": "number fruit"}])["tuned"]["loss"]["value"] > 0


def test_a_result_depends_on_what_lies_below_and_not_on_its_name(
    runs: Path, base: str, rows_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy").symlink_to(runs / "a")
    found = []
    for below in (runs / "a", tmp_path / "copy", runs / "b"):
        recipe = make({"base": base, "rows": str(rows_file), "upon": [str(below)], "mask": ENTRIES})
        found.append([Identities().of(recipe, what).fingerprint for what in ("tuned", "before")])
    assert found[0] == found[1] and found[0][0] != found[2][0] and found[0][1] != found[2][1]
    nothing = make({"base": base, "rows": str(rows_file), "mask": ENTRIES, "upon": [str(tmp_path)]})
    with pytest.raises(InputError, match="holds no adapter and no difference"):
        Identities().of(nothing)


def test_an_encoder_is_asked_for_hidden_tokens(tmp_path: Path) -> None:
    reader, draw = Reader(masked(), "encoder", max_length=32), random.Random(0)
    words = sorted(w for w in reader.tokenizer.get_vocab() if w.isalpha())
    rows = read([{"text": " ".join(draw.choices(words, k=200))} for _ in range(20)])  # equal pieces hide equal places
    task = detect(rows, task="lm")
    assert task.head("encoder") == "masked-lm"
    asked = shown = blank = 0
    for row in (rows[i] for i in range(20)):
        [pieces] = task.encode([row], reader)
        assert len(pieces) > 1 and max(len(p.input_ids) for p in pieces) <= 32
        whole = []
        for piece in pieces:
            hidden = [i for i, label in enumerate(piece.labels) if label != IGNORED]
            assert hidden and piece.labels[0] == piece.labels[-1] == IGNORED
            asked, shown = asked + len(hidden), shown + len(piece.labels) - 2
            blank += sum(piece.input_ids[i] == reader.tokenizer.mask_token_id for i in hidden)
            pairs = zip(piece.input_ids, piece.labels, strict=True)
            whole += [t if label == IGNORED else label for t, label in pairs][1:-1]
        assert whole == reader.ids(row["text"])
        assert task.encode([row], reader)[0][0].labels == pieces[0].labels
    assert 0.1 < asked / shown < 0.2 and 0.7 < blank / asked < 0.9
    with pytest.raises(InputError, match="the tokenizer has no mask token"):
        task.encode([rows[0]], Reader(gpt(), "encoder", max_length=32))
