"""Whole runs, as a user has them: every task, every artefact, cut off and taken up again, without a network."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tunesmith as ts
from conftest import Command
from forked import Forked
from tokens import TEMPLATES
from tunesmith.data.reader import Reader
from tunesmith.run.carry_out import _drawn, artefact_folder

FAST: dict[str, Any] = {"progress": "quiet", "epochs": 1}


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def rows_of(task: str) -> list[dict[str, Any]]:
    draw = random.Random(0)
    fruit, tool = ["apple", "pear", "plum"], ["hammer", "saw", "drill"]

    def one(i: int) -> dict[str, Any]:
        word = draw.choice((fruit, tool)[i % 2])
        match task:
            case "classify":
                return {"text": f"the {word} {i}", "label": ("fruit", "tool")[i % 2]}
            case "multi":
                return {"text": f"the {word} {i}", "label": ["thing", "fruit"] if i % 2 == 0 else ["thing", "tool"]}
            case "pair":
                return {"sentence1": f"the {word}", "sentence2": f"a {i}", "label": i % 2}
            case "regress":
                return {"text": f"the {word} {i}", "score": 100.5 + 10 * (i % 2)}
            case "tag":
                return {"tokens": ["the", word, str(i)], "tags": ["O", ("B-F", "B-T")[i % 2], "O"]}
            case "generate":
                return {"prompt": f"what is a {word} {i}?", "completion": ("fruit", "tool")[i % 2]}
            case "chat":
                turns = [{"role": "user", "content": f"a {word} {i}?"}, {"role": "assistant", "content": "Hello there"}]
                return {"messages": turns}
            case _:
                return {"text": f"the quick brown {word} jumps over the lazy dog {i}"}

    return [one(i) for i in range(80)]


RUNS = [
    ("classify", "bert", {}), ("multi", "bert", {"task": "classify"}), ("pair", "bert", {}), ("regress", "bert", {}),
    ("tag", "bert", {}), ("generate", "llama", {}), ("generate", "t5", {}), ("chat", "llama", {}), ("lm", "llama", {}),
    ("classify", "llama", {}), ("classify", "bert", {"mask": "everything"}), ("classify", "bert", {"mask": "biases"}),
    ("regress", "bert", {"mask": "head"}), ("chat", "llama", {"mask": "top_layers"}),
    ("classify", "bert", {"adapter": {"lora": {"rank": 2}}, "mask": "norms"}),
    ("regress", "bert", {"mask": {"fish": {"density": 0.05, "samples": 8}}}), ("lm", "llama", {"mask": "lt_sft"}),
    ("generate", "t5", {"adapter": {"lora": {"rank": 2}}, "mask": {"random_entries": {"density": 0.1}}}),
    ("classify", "bert", {"adapter": [{"prefix_tuning": {"length": 3}}, {"bottleneck": {"size": 4, "parallel": True}}]}),
    ("tag", "bert", {"adapter": {"prompt_tuning": {"length": 3}}}),
    ("generate", "llama", {"adapter": {"prompt_tuning": {"length": 3}}}),
    ("generate", "t5", {"adapter": [{"prompt_tuning": {"length": 3}}, {"prefix_tuning": {"length": 3}}]}),
    ("chat", "llama", {"adapter": {"lofit": {"first": 0.5}}}),
    ("lm", "llama", {"adapter": [{"reft": {"rank": 2}}, {"connected": {"size": 4}}]}),
    ("chat", "llama", {"packing": True}),
    ("classify", "bert", {"packing": True, "mask": "head", "cache_activations": "no_dropout"}),
    ("generate", "llama", {"packing": True, "adapter": {"lora": {"layers": [-1]}}, "cache_activations": True}),
]  # fmt: skip


@pytest.mark.parametrize("task,family,options", RUNS)
def test_every_task_runs_whole(
    task: str, family: str, options: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    """Trained, measured against its base, saved, proved in a fresh process, and used again with the same answers."""
    rows = rows_of(task)
    checks = {"generate": 4, "generate_tokens": 4}
    run = ts.tune(rows, base=str(bases[family]), out=tmp_path, name="r", checks=checks, **{**FAST, **options})
    for name in (
        "recipe.yaml",
        "environment.json",
        "data.json",
        "events.jsonl",
        "report.json",
        "report.html",
        "card.md",
        "proof.json",
    ):
        assert (run.folder / name).stat().st_size > 0, name
    report = run.results
    assert report["before"] and report["tuned"] and report["difference"]
    for measured in report["tuned"].values():
        assert measured["low"] <= measured["value"] + 1e-9 and measured["value"] <= measured["high"] + 1e-9
    artefact = artefact_folder(run.folder, run.recipe)
    assert (artefact / "tokenizer.json").exists() and not list(run.folder.rglob("*.bin")) + list(
        run.folder.rglob("*.pkl")
    )
    said = run.predict(rows[:6])
    assert len(said) == 6 and ts.open_run(run.folder).predict(rows[:6]) == said
    assert run.evaluate(rows[:40])["rows"] == 40


@pytest.mark.parametrize("tokens", [512, 40, 1])
def test_a_proof_reads_eight_rows_or_as_many_as_fit(
    tokens: int, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a first row that is longer than all tokens of a proof one is read."""
    monkeypatch.setattr("tunesmith.run.carry_out.PROBE_TOKENS", tokens)
    run = ts.tune(rows_of("lm"), base=str(bases["llama"]), out=tmp_path, name="r", **FAST)
    read = json.loads((run.folder / "probe" / "rows.json").read_text(encoding="utf-8"))
    used = sum(row["length"] for row in read)
    assert len(read) == {512: 8, 1: 1}.get(tokens, len(read)) and (used <= tokens or len(read) == 1)
    assert json.loads((run.folder / "proof.json").read_text(encoding="utf-8"))["largest_relative_difference"] <= 1e-5


def test_a_run_is_repeated_to_the_bit(bases: dict[str, Path], tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        run = ts.tune(rows_of("classify"), base=str(bases["bert"]), out=tmp_path, name=name, **FAST)
        weights.append(load_file(run.folder / "adapter" / "adapter_model.safetensors"))
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize("task,family", [("lm", "llama"), ("classify", "bert")])
def test_the_base_is_the_base_whatever_is_trained(
    task: str, family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """Loaded anew or with what is attached switched off, and with a term of the loss that changes logits in use."""
    steep = [{"adamw": {"lr": 0.05}}]
    runs: dict[str, dict[str, Any]] = {
        "weights": {"adapter": None, "mask": "everything"},
        "adapter": {"adapter": "lora", "optimizer": steep},
        "term": {
            "adapter": "lora",
            "optimizer": steep,
            "loss": ["cross_entropy", "temperature_network"] if task == "lm" else None,
        },
    }
    found = []
    for name, options in runs.items():
        given = {k: v for k, v in options.items() if v is not None or k == "adapter"}
        run = ts.tune(rows_of(task), base=str(bases[family]), out=tmp_path, name=name, **{**FAST, **given})
        found.append(run.results["before"])
    assert found[0] == found[1] == found[2]


def test_a_recipe_file_is_the_same_run(bases: dict[str, Path], rows_file: Path, tmp_path: Path) -> None:
    first = ts.tune(rows_file, base=str(bases["bert"]), out=tmp_path, name="a", **FAST)
    again = ts.tune(first.folder / "recipe.yaml", out=tmp_path, name="b", progress="quiet")
    one, two = (load_file(r.folder / "adapter" / "adapter_model.safetensors") for r in (first, again))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert (first.folder / "recipe.yaml").read_text() == (again.folder / "recipe.yaml").read_text()


def test_what_is_learned_beats_the_majority(bases: dict[str, Path], rows_file: Path, tmp_path: Path) -> None:
    run = ts.tune(rows_file, base=str(bases["bert"]), out=tmp_path, name="r", progress="quiet", epochs=12,
                  batch={"rows": 8}, adapter=None, mask="everything", precision="fp32",
                  optimizer=["clip_norm", {"adamw": {"lr": 0.001}}])  # fmt: skip
    change = run.results["difference"]["majority class"]["accuracy"]
    assert change["verdict"] == "better" and change["low"] > 0


@pytest.mark.parametrize("options", [{}, {"mask": "everything"}, {"mask": {"random_entries": {"density": 0.1}}}])
def test_merged_is_a_plain_model_with_the_same_answers(
    options: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = rows_of("classify")
    run = ts.tune(rows, base=str(bases["bert"]), out=tmp_path, name="r", precision="fp32", **FAST, **options)
    folder = run.save_pretrained(tmp_path / "out", form="merged")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        share = model(**tokenizer([rows[0]["text"]], return_tensors="pt")).logits.softmax(-1)[0]
    [said] = run.predict([rows[0]["text"]])
    assert model.config.id2label[int(share.argmax())] == said["label"]
    assert float(share.max()) == pytest.approx(said["probability"], abs=1e-4)
    with pytest.raises(ts.InputError, match="is there already"):
        run.save_pretrained(tmp_path / "out")


def test_peft_loads_the_adapter_of_a_run(bases: dict[str, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = rows_of("classify")
    run = ts.tune(rows, base=str(bases["bert"]), out=tmp_path, name="r", precision="fp32", **FAST)
    model = AutoModelForSequenceClassification.from_pretrained(bases["bert"], num_labels=2)
    tuned = peft.PeftModel.from_pretrained(model, run.folder / "adapter").eval()
    batch = AutoTokenizer.from_pretrained(run.folder / "adapter")(
        [r["text"] for r in rows[:5]], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        theirs = tuned(**batch).logits
        ours = run.host(**batch).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_an_artefact_that_lost_a_tensor_does_not_load(bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    run = ts.tune(rows_of("classify"), base=str(bases["bert"]), out=tmp_path, name="r", **FAST)
    path = run.folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if "classifier.weight" not in k}, path)
    with pytest.raises(ts.RunError, match="classifier.weight"):
        ts.open_run(run.folder).predict(["a"])
    save_file({k: v + 1e-3 if "lora_A" in k else v for k, v in tensors.items()}, path)
    with pytest.raises(ts.RunError, match="is not the tensor that was trained"):
        ts.open_run(run.folder).predict(["a"])


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_prediction_and_generation_read_the_same_ids(
    template: str, tmp_path: Path, bases: dict[str, Path]
) -> None:
    """A row has the same token ids when it is trained on, scored, predicted and generated for."""
    from tokens import gpt
    from tunesmith.data import tasks
    from tunesmith.data.encode import encode
    from tunesmith.data.rows import read

    row = rows_of("chat")[0]
    reader = Reader(gpt(TEMPLATES[template], bos=template in ("llama3", "gemma", "mistral")), "decoder", max_length=64)
    task: Any = tasks.find("chat")({"messages": "messages"})
    rows = read([row])
    trained = encode(rows, np.arange(1), task, reader).take([0])[0]["input_ids"]
    scored = encode(rows.take([0]), np.arange(1), task, reader).take([0])[0]["input_ids"]
    asked = task.prompt_ids(row, reader)
    typed = task.prompt_ids({"messages": row["messages"][:1]}, reader)
    assert trained == scored and asked == typed and trained[: len(asked)] == asked


def test_a_chat_run_ships_template_and_stops(bases: dict[str, Path], chat_file: Path, tmp_path: Path) -> None:
    run = ts.tune(
        chat_file,
        base=str(bases["llama"]),
        out=tmp_path,
        name="r",
        checks={"generate": 2, "generate_tokens": 2},
        **FAST,
    )
    folder = run.save_pretrained(tmp_path / "out")
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    assert tokenizer.chat_template == TEMPLATES["chatml"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stops and tokenizer.eos_token_id in stops
    assert isinstance(run.generate(["Hello"], tokens=3)[0], str)
    assert isinstance(run.generate(["Hello"], tokens=3, base=True)[0], str)


def tuning(rows_file: Path, base: Path, *options: object) -> Forked:
    """A run of some seconds with a checkpoint at every step, on one thread."""
    given = ("--base", base, "--name", "r", "--quiet", "--set", "save.steps=1", "--set", "batch.rows=4", "--epochs", "2",
             "--set", "adapter.lora.dropout=0.1", *options)  # fmt: skip
    return Forked("tune", rows_file, *given, environment={"OMP_NUM_THREADS": "1"})


def cut_off(process: Forked, folder: Path, step: int) -> None:
    """Kill -9 once a run in ``folder`` has made a step."""
    while steps_done(folder) < step and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be cut off"
    process.kill()
    process.wait()
    assert steps_done(folder) >= step


def steps_done(folder: Path) -> int:
    return max((int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*")), default=0)


@pytest.mark.timeout(1200)
def test_killed_at_random_steps_and_resumed_to_the_bit(rows_file: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    """kill -9 at five random steps; every run that is taken up again ends with the bits of the one that was not cut off."""
    whole = tmp_path / "whole"
    tuning(rows_file, bases["bert"], "--out", whole).done()
    expected = load_file(whole / "r" / "adapter" / "adapter_model.safetensors")
    for cut in random.Random(7).sample(range(3, 70), 5):
        out = tmp_path / str(cut)
        cut_off(tuning(rows_file, bases["bert"], "--out", out), out / "r", cut)
        tuning(rows_file, bases["bert"], "--out", out, "--resume").done()
        resumed = load_file(out / "r" / "adapter" / "adapter_model.safetensors")
        assert resumed.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(resumed[name], tensor), (cut, name)


@pytest.mark.timeout(600)
def test_entries_that_come_and_go_are_resumed_to_the_bit(
    rows_file: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    """kill -9 of a run whose choice of entries changes every few steps, beside an adapter."""
    options = ["--set", "mask.spiel.refreshes=20", "--set", "mask.spiel.density=0.05"]
    base = bases["bert"]
    tuning(rows_file, base, *options, "--out", tmp_path / "a").done()
    cut_off(tuning(rows_file, base, *options, "--out", tmp_path / "b"), tmp_path / "b" / "r", 40)
    tuning(rows_file, base, *options, "--out", tmp_path / "b", "--resume").done()
    one, two = (load_file(tmp_path / n / "r" / "adapter" / "tunesmith_adapter.safetensors") for n in "ab")
    assert any(name.startswith("entries.") for name in one) and one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(
    number: int, code: int, rows_file: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    process = tuning(rows_file, bases["bert"], "--out", tmp_path)
    while steps_done(tmp_path / "r") < 3:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    made = process.wait(60)
    assert made.returncode == code
    assert re.search(r"stopped at step \d+; go on with: tunesmith tune .*--resume", made.stderr)
    done = steps_done(tmp_path / "r")
    with pytest.raises(ts.InputError, match="the run is not finished"):
        ts.open_run(tmp_path / "r")
    with pytest.raises(ts.InputError, match="budget.epochs is 5.0 now, and was 2.0 when the run began"):
        ts.tune(tmp_path / "r" / "recipe.yaml", out=tmp_path, name="r", resume=True, progress="quiet", epochs=5)
    run = ts.tune(tmp_path / "r" / "recipe.yaml", out=tmp_path, name="r", resume=True, progress="quiet")
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert {"event": "note", "text": f"resumed at step {done}"}.items() <= next(
        e for e in events if e["event"] == "note"
    ).items()


BLOCKED = """
import socket, sys
def refuse(*a, **k): raise OSError("no network in this test")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
from tunesmith.cli.commands import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_run_needs_no_network(tmp_path: Path) -> None:
    """The demo's job whole, from packaged rows to proof, with every socket blocked in all processes."""
    from tunesmith.data.packaged import open_rows
    from tunesmith.models.bases import resolve

    resolve("splade-tiny")
    open_rows("trec")
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.split("from tunesmith")[0])
    demo = Path(__file__).parent.parent / "recipes" / "demo.yaml"
    made = subprocess.run(
        [sys.executable, "-c", BLOCKED, "tune", str(demo), "--base", "splade-tiny", "--set", "rows.limit=320", "--out", str(tmp_path), "--name", "r"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "r" / "proof.json").exists()


def test_fewer_rows_are_scored_where_the_recipe_says_so(bases: dict[str, Path], tmp_path: Path) -> None:
    """Of the test and of the validation rows; the fewer are among the more."""
    some, more = (set(_drawn(100, limit, seed=0)) for limit in (10, 30))
    assert len(some) == 10 and some < more and list(_drawn(100, None, seed=0)) == list(range(100))
    given = {"base": str(bases["bert"]), "out": tmp_path, **FAST}
    losses = []
    for rows in (5, None):
        run = ts.tune(rows_of("classify"), name=f"r{rows}", checks={"rows": rows}, **given)
        events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
        losses.append(next(e["loss"] for e in events if e["event"] == "validation"))
    assert losses[0] != losses[1]


@pytest.mark.fresh
def test_an_adapter_is_handed_over_whole(bases: dict[str, Path], tmp_path: Path) -> None:
    run = ts.tune(rows_of("classify"), base=str(bases["bert"]), out=tmp_path, name="r", **FAST)
    folder = run.save_pretrained(tmp_path / "out", form="adapter")
    assert (folder / "adapter_model.safetensors").exists() and (folder / "adapter_config.json").exists()
    (run.folder / "adapter" / "adapter_config.json").unlink()
    (run.folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ts.RunError, match="is not the trained one"):
        run.save_pretrained(tmp_path / "broken", form="adapter")
    assert not (tmp_path / "broken").exists()


def test_commands(command: Command, rows_file: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    """tune, report, predict, evaluate and export, as typed."""
    made = command("tune", rows_file, "--base", bases["bert"], "--epochs", 1, "--json")
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    folder = report["folder"]
    assert folder == "runs/things-lora" and all(
        json.loads(line)["event"] for line in made.stderr.splitlines() if line.startswith("{")
    )
    assert "linear probe" in command("report", folder).stdout
    assert command("predict", folder, rows_file, "-o", "out.csv").returncode == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == '"text","label","predicted_label","predicted_probability"' and len(lines) == 241
    again = command("predict", folder, rows_file, "-o", "out.csv")
    assert again.returncode == 2 and "is there already" in again.stderr
    assert json.loads(command("evaluate", folder, rows_file, "--json").stdout)["rows"] == 240
    assert (
        command("export", folder, "merged", "--as", "merged").returncode == 0
        and (tmp_path / "merged" / "model.safetensors").exists()
    )


def test_a_dry_run_shows_and_writes_nothing(
    command: Command, rows_file: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    made = command("tune", rows_file, "--base", bases["bert"], "--dry-run")
    assert made.returncode == 0, made.stderr
    assert "rank: 8" in made.stdout and "[[" in made.stdout and "weights train" in made.stdout
    assert "240 rows" in made.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["tune", "--help"], ["parts"], ["show", "lora"], ["models"], ["data"]]
)
def test_what_only_looks_loads_no_torch(arguments: list[str]) -> None:
    script = "import sys; from tunesmith.cli.commands import run; code = run(sys.argv[1:]); print('torch' in sys.modules, 'transformers' in sys.modules, file=sys.stderr); sys.exit(code)"
    made = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert made.stdout and made.stderr.strip().endswith("False False")


def test_data_answers_the_same_before_the_command_line_is_loaded(
    rows_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.cli import _carry_out
    from tunesmith.cli.commands import run

    said = [
        (carry_out(["data", str(file)]), *capsys.readouterr())
        for carry_out in (_carry_out, run)
        for file in (rows_file, "nowhere.csv")
    ]
    assert said[:2] == said[2:] and [code for code, _, _ in said[:2]] == [0, 2] and "240 rows" in said[0][1]


def test_data_and_recipe_checks_load_no_torch(rows_file: Path) -> None:
    script = "import sys; from tunesmith.cli.commands import run; run(sys.argv[1:]); import tunesmith.recipe; tunesmith.recipe.make({'rows': 'x', 'adapter': 'lora'}); print('torch' in sys.modules)"
    made = subprocess.run(
        [sys.executable, "-c", script, "data", str(rows_file)], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip().endswith("False") and "task classify" in made.stdout
