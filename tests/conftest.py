"""What tests share: a base that is made on the spot, rows that a model can learn, and commands run as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# Two test processes with two threads each on two cores wait for one another; and one thread gives the same sums anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from forked import Forked, check_here  # noqa: E402
from tiny import CONFIGS  # noqa: E402
from tokens import TEMPLATES, bert, gpt  # noqa: E402

WORDS = {"fruit": "apple pear plum grape melon fig", "tool": "hammer saw drill wrench file axe"}


def make_base(folder: Path, family: str, template: str | None = None) -> Path:
    """A tiny random base with a tokenizer, as a Hugging Face folder."""
    import torch
    import transformers as tf

    tokenizer = bert() if family == "bert" else gpt(TEMPLATES.get(template or "", template))
    config = CONFIGS[family]()
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    auto = {"bert": tf.AutoModel, "t5": tf.AutoModelForSeq2SeqLM}.get(family, tf.AutoModelForCausalLM)
    auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases by family."""
    folder = tmp_path_factory.mktemp("bases")
    made = {name: make_base(folder / name, name) for name in ("bert", "t5")}
    return made | {"llama": make_base(folder / "llama", "llama", "chatml")}


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with two classes that a word decides."""
    path = tmp_path_factory.mktemp("rows") / "things.csv"
    draw = random.Random(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(240):
            label = ("fruit", "tool")[i % 2]
            writer.writerow([f"the {draw.choice(WORDS[label].split())} number {i}", label])
    return path


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with a masked-language-model head."""
    from test_cloze import KITS

    kit, folder = KITS["encoder"](), tmp_path_factory.mktemp("bases") / "masked"
    kit.model.save_pretrained(folder)
    kit.reader.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two classes that a word decides."""
    path = tmp_path_factory.mktemp("rows") / "reviews.jsonl"
    said = {"fox": "quick jumps", "dog": "lazy today"}
    rows = [{"text": f"{said[label]} {i}", "label": label} for i in range(50) for label in said]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations."""
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(60):
            turns = [
                {"role": "user", "content": f"How are you today {i}?"},
                {"role": "assistant", "content": "I am fine."},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all commands of a session."""
    return tmp_path_factory.mktemp("home")


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(home: Path, tmp_path: Path) -> Command:
    """Runs ``tunesmith`` in a process of its own, in an empty folder."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"TUNESMITH_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
        return Forked(*arguments, folder=tmp_path, environment=given).wait()

    return call


@pytest.fixture(autouse=True)
def checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run has saved is checked in the process of the test; in a fresh one where a test is marked so."""
    if request.node.get_closest_marker("fresh") is None:
        from tunesmith.run import carry_out

        monkeypatch.setattr(carry_out, "_in_fresh_process", check_here)
