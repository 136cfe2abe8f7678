"""Talking with a run: what it hears, what it says, and how the conversation is steered, in a process and through a pipe."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith import Run, tune
from tunesmith.cli.chatting import Chat
from tunesmith.engine.generate import Sampling
from tunesmith.errors import InputError
from tunesmith.run.conversation import Conversation


@pytest.fixture(scope="module")
def talker(bases: dict[str, Path], chat_file: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learnt to say "I am fine."; its base's head is loud enough for a small adapter to be heard."""
    import transformers as tf

    folder = tmp_path_factory.mktemp("loud") / "base"
    shutil.copytree(bases["llama"], folder)
    model = tf.AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data.mul_(20)
    model.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(home))
        patch.setattr("tunesmith.run.carry_out.prove", lambda *a: {})
        return tune(
            chat_file, base=str(folder), out=tmp_path_factory.mktemp("runs"), name="talk", progress="quiet",
            adapter={"lora": {"rank": 8}}, optimizer=["clip_norm", {"adamw": {"lr": 0.01}}], schedule="constant", batch={"rows": 8},
            budget={"steps": 60, "epochs": None}, checks={"generate": 0},
        )  # fmt: skip


def nothing(piece: str) -> None:
    pass


def test_a_tuned_model_answers_and_stops_by_itself(talker: Run) -> None:
    said: list[str] = []
    written = Conversation(talker, sampling=Sampling(12)).ask("How are you today 7?", said.append)
    assert "".join(said).strip() == "I am fine." and written.stopped and len(said) > 1


def test_what_was_said_before_is_heard_as_in_training(talker: Run) -> None:
    talk = Conversation(talker, sampling=Sampling(4), system="be kind")
    talk.ask("How are you?", nothing)
    answer = talk.messages[-1]["content"]
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "How are you?"},
             {"role": "assistant", "content": answer}, {"role": "user", "content": "And now?"}]  # fmt: skip
    assert talk._prompt([*talk.messages, turns[-1]]) == talker.reader.unlimited().chat_prompt(turns)
    trained = talker.reader.unlimited().chat([*turns, {"role": "assistant", "content": "x"}]).input_ids
    prompt = talk._prompt(turns)
    assert trained[: len(prompt)] == prompt
    talk.reset()
    assert talk.messages == turns[:1]


def test_a_long_conversation_loses_its_oldest_turns(talker: Run) -> None:
    talk = Conversation(talker, sampling=Sampling(8), system="be kind")
    turns = [{"role": r, "content": f"{r} {i} hello there"} for i in range(9) for r in ("user", "assistant")]
    asked = {"role": "user", "content": "now?"}
    ids = talk._prompt([*talk.messages, *turns, asked])
    reader = talker.reader.unlimited()
    assert len(ids) <= (talker.base.max_length or 0) - 8
    kept = [reader.chat_prompt([*talk.messages, *turns[2 * n :], asked]) for n in range(1, 10)]
    assert ids in kept
    assert kept.index(ids) == 0 or len(kept[kept.index(ids) - 1]) > (talker.base.max_length or 0) - 8


def test_the_base_is_the_same_model_with_its_adapters_off(talker: Run) -> None:
    talk, said = Conversation(talker, sampling=Sampling(5)), {}
    for base in (True, False):
        pieces: list[str] = []
        talk.ask("How are you?", pieces.append, base=base, keep=False)
        said[base] = "".join(pieces).strip()
        assert said[base] == talker.generate(["How are you?"], tokens=5, base=base)[0]
    assert said[True] != said[False] and talk.messages == []


def test_an_interrupt_ends_the_answer_and_not_the_conversation(talker: Run) -> None:
    talk = Conversation(talker, sampling=Sampling(12))

    def hear(piece: str) -> None:
        raise KeyboardInterrupt

    assert not talk.ask("How are you?", hear).stopped
    assert talk.messages[-1]["role"] == "assistant" and "I am fine.".startswith(talk.messages[-1]["content"])
    said: list[str] = []
    talk.ask("How are you?", said.append)
    assert said and len(talk.messages) == 4


def test_a_conversation_is_steered(
    talker: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "How are you?",
        "/base",
        "How are you?",
        "/nonsense",
        "",
        "/both",
        "How are you?",
        "/tuned",
        "/reset",
        "/quit",
        "no",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    talk = Conversation(talker, sampling=Sampling(12))
    chat = Chat(talk, "tuned")
    chat.run()
    out, err = capsys.readouterr()
    answers = [line for line in out.splitlines() if line]
    assert (
        answers[0] == "I am fine."
        and answers[-1] == "tuned: I am fine."
        and any(a.startswith("base: ") for a in answers)
    )
    assert err.splitlines()[0] == "the base answers" and "/nonsense is no command" in err and talk.messages == []
    assert sys.stdin.readline() == "no"


def test_chat_through_a_pipe(talker: Run, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "chat", str(talker.folder), "--both", "--tokens", "12"],
        input="How are you?\n/tuned\nHow are you?\n", capture_output=True, text=True, timeout=240,
        env={**os.environ, "TUNESMITH_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    base, *tuned = [line for line in done.stdout.splitlines() if line]
    assert base.startswith("base: ") and [t.strip() for t in tuned] == ["tuned: I am fine.", "I am fine."]


def test_a_run_that_writes_nothing_cannot_talk(talker: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = talker.task
    monkeypatch.setattr(type(task), "name", "classify")
    with pytest.raises(InputError, match="writes no text"):
        Conversation(talker)
