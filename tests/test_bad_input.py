"""Bad input: one clear line, exit code 2, nothing written, nothing lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunesmith.cli.commands import run

Case = tuple[Callable[[Path, dict[str, Path]], list[str]], str]


def file(name: str, text: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_text(text, encoding="utf-8")
        return str(folder / name)

    return write


GOOD = "text,label\n" + "".join(f"a text about {w} {i},{w}\n" for i in range(20) for w in ("cats", "dogs"))
CHAT = "".join(
    json.dumps({"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}]}) + "\n"
    for i in range(20)
)
LONG = "".join(json.dumps({"prompt": f"q {i}", "completion": "word " * 40}) + "\n" for i in range(20))


def rows(name: str, text: str, *options: str, base: str = "bert") -> Callable[[Path, dict[str, Path]], list[str]]:
    """``tune`` on a file with this text."""
    return lambda folder, bases: ["tune", file(name, text)(folder), "--base", str(bases[base]), *options]


def good(*options: str, base: str = "bert") -> Callable[[Path, dict[str, Path]], list[str]]:
    return rows("good.csv", GOOD, *options, base=base)


def recipe(text: str) -> Callable[[Path, dict[str, Path]], list[str]]:
    def make(folder: Path, bases: dict[str, Path]) -> list[str]:
        source = file("good.csv", GOOD)(folder)
        return ["tune", file("r.yaml", text.replace("ROWS", source).replace("BASE", str(bases["bert"])))(folder)]

    return make


def with_folder(prepare: Callable[[Path], None], *options: str) -> Callable[[Path, dict[str, Path]], list[str]]:
    def make(folder: Path, bases: dict[str, Path]) -> list[str]:
        prepare(folder)
        return good(*options)(folder, bases)

    return make


def existing(folder: Path) -> None:
    (folder / "runs" / "x").mkdir(parents=True)
    (folder / "runs" / "x" / "recipe.yaml").write_text("rows: kept")


def foreign(folder: Path) -> None:
    (folder / "runs" / "x").mkdir(parents=True)
    (folder / "runs" / "x" / "thesis.tex").write_text("precious")


CASES: dict[str, Case] = {
    # files
    "missing file": (lambda f, b: ["tune", "nothing.csv"], "nothing.csv: no such file"),
    "empty file": (rows("a.csv", ""), "a.csv: is empty"),
    "header only": (rows("a.csv", "text,label\n"), "a.csv: holds no rows"),
    "unknown suffix": (rows("a.docx", "x"), "unknown suffix .docx"),
    "a folder": (lambda f, b: ["tune", str(f)], "is a folder; expected a file of rows"),
    "ragged csv": (rows("a.csv", GOOD + "one field\n"), "line 42: 1 fields; expected 2"),
    "broken jsonl at line 7": (rows("a.jsonl", CHAT.replace("q 6", 'q" 6')), "a.jsonl line 7: not valid JSON"),
    "not an object": (rows("a.jsonl", "[1, 2]\n"), "line 1: a list; expected a JSON object"),
    "unknown packaged rows": (lambda f, b: ["tune", "packaged:trek"], "did you mean 'trec'"),
    # columns and values
    "missing column": (good("--column", "text=review"), "column 'review' is missing; expected one of text, label"),
    "no task fits": (rows("a.csv", "a,b\n" + "1,2\n" * 20), "no task"),
    "one class only": (rows("a.csv", "text,label\n" + "".join(f"t {i},x\n" for i in range(30))), "one class only"),
    "empty labels": (rows("a.csv", GOOD + "a text,\n"), "line 42: column 'label'"),
    "nan labels": (rows("a.csv", "text,score\n" + "".join(f"t {i},{i / 7}\n" for i in range(30)) + "t,nan\n"), "line 32: column 'score' is"),
    "empty text": (rows("a.csv", GOOD + " ,cats\n"), "line 42: column 'text' holds no text"),
    "too few rows": (rows("a.csv", "text,label\na b,x\nc d,y\ne f,x\ng h,y\n"), "4 rows cannot be split"),
    "all the same": (rows("a.csv", "text,label\n" + "same text,a\nsame text,b\n" * 20), "1 different rows cannot be split"),
    "no assistant turn": (rows("a.jsonl", CHAT.replace("assistant", "user"), base="llama"), "line 1: "),
    "unknown speaker": (rows("a.jsonl", CHAT.replace('"user"', '"bot"'), base="llama"), "message 1 has role 'bot'"),
    "tags without tokens": (rows("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n' * 20), "2 tokens but 1 tags"),
    # options
    "unknown option": (good("--adaptr", "lora"), "--adapt"),
    "unknown adapter": (good("--adapter", "lroa"), "did you mean 'lora'"),
    "unknown mask": (good("--mask", "heads"), "did you mean 'head'"),
    "unknown setting": (good("--set", "adapter.lora.rnk=4"), "did you mean 'rank'"),
    "setting out of bounds": (good("--set", "adapter.lora.rank=0"), "adapter.lora.rank is 0"),
    "setting of the wrong type": (good("--set", "adapter.lora.rank=big"), "adapter.lora.rank is 'big'"),
    "unknown recipe option": (good("--set", "budget.epchs=3"), "did you mean 'budget.epochs'"),
    "set without a value": (good("--set", "budget.steps"), "expected OPTION=VALUE"),
    "unknown task": (good("--task", "clasify"), "did you mean 'classify'"),
    "unknown role of a site": (good("--set", "adapter.lora.targets=[attention.qery]"), "did you mean 'attention.query'"),
    "unknown layer": (good("--set", "adapter.lora.layers=[9]"), "layer 9 does not exist"),
    "unknown precision": (good("--set", "precision=fp8"), "precision is 'fp8'"),
    "no end": (good("--set", "budget.epochs=null"), "budget has no end"),
    "length above the base": (good("--length", "4096"), "length.max is 4096; expected at most"),
    "unknown policy": (good("--over-length", "ignore"), "length.over is 'ignore'"),
    "chain without a rule": (good("--set", "optimizer=[clip_norm]"), "optimizer is the chain clip_norm"),
    "missing argument": (lambda f, b: ["tune"], "Missing argument"),
    "unknown command": (lambda f, b: ["tuen"], "No such command 'tuen'"),
    # recipes
    "unknown key": (recipe("rows: ROWS\nbsae: BASE\n"), "unknown option 'bsae'"),
    "broken yaml": (recipe("rows: ROWS\nbase: [1,\n"), "r.yaml line"),
    "no rows": (recipe("base: BASE\n"), "rows are missing"),
    "not a recipe": (recipe("- 1\n- 2\n"), "holds no recipe"),
    "missing recipe": (lambda f, b: ["tune", "no.yaml"], "no.yaml: cannot be read"),
    "shares above one": (recipe("rows: {train: ROWS, test_share: 0.7, validation_share: 0.4}\nbase: BASE\n"), "leave nothing to train"),
    # bases
    "unknown base": (lambda f, b: ["tune", file("g.csv", GOOD)(f), "--base", "minilm-l7"], "did you mean 'minilm-l6'"),
    "base without weights": (lambda f, b: ["tune", file("g.csv", GOOD)(f), "--base", str(f)], "config.json"),
    "encoder asked to chat": (rows("a.jsonl", CHAT, base="bert"), "cannot do task chat"),
    "decoder asked to tag": (rows("a.jsonl", "".join(f'{{"tokens": ["a", "b{i}"], "tags": ["O", "X"]}}\n' for i in range(20)), base="llama"), "cannot do task tag"),
    # lengths and templates
    "over-long answers": (rows("a.jsonl", LONG, "--length", "16", base="llama"), "tokens of their answers at length 16"),
    "stop at long rows": (rows("a.jsonl", LONG, "--length", "16", "--over-length", "stop", base="llama"), "longer than 16 tokens"),
    "missing template": (rows("a.jsonl", CHAT, "--set", "template=no.jinja", base="llama"), "no.jinja: cannot be read"),
    "wrong template": (
        lambda f, b: rows("a.jsonl", CHAT, "--set", f"template={file('t.jinja', '{{ messages.x.y }}')(f)}", base="llama")(f, b),
        "the chat template fails",
    ),
    # folders
    "existing run": (with_folder(existing, "--name", "x"), "a run of this name is there already"),
    "a folder that is no run": (with_folder(foreign, "--name", "x", "--force"), "is not a run's folder"),
    "nothing to resume": (good("--name", "x", "--resume"), "there is no run to go on with"),
    "no run to predict with": (lambda f, b: ["predict", str(f), "x.csv"], "holds no run"),
    "no run to report": (lambda f, b: ["report", str(f)], "holds no report"),
    "unknown part": (lambda f, b: ["show", "lorra"], "did you mean 'lora'"),
    "unknown kind": (lambda f, b: ["parts", "adaptr"], "did you mean 'adapter'"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    yield


def listing(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_2_nothing_written(
    case: str, tmp_path: Path, bases: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = CASES[case]
    arguments = make(tmp_path, bases)
    before = listing(tmp_path)
    code = run([*arguments, "--quiet"] if arguments[0] == "tune" else arguments)
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert said.startswith("tunesmith: ") and "\n" not in said and "Traceback" not in said
    assert message in said
    assert listing(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path, bases: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    assert run([*good("--steps", "1")(tmp_path, bases), "--quiet"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "number,code,message", [(13, 2, "cannot be written (Permission denied)"), (28, 1, "the disk is full")]
)
def test_a_disk_that_refuses(
    number: int, code: int, message: str, tmp_path: Path, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A full disk, or a read-only folder, at the moment when the run's folder is made."""
    import tempfile

    plain = tempfile.mkstemp

    def refuse(*args: object, **named: object) -> tuple[int, str]:
        if "runs" in str(named.get("dir")):
            raise OSError(number, os.strerror(number))
        return plain(*args, **named)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert run([*good("--name", "x")(tmp_path, bases), "--quiet"]) == code
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not list((tmp_path / "runs").rglob("*.*"))
