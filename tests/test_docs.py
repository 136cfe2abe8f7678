"""What the documents say is so: Python blocks run, recipes are valid, commands parse, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from forked import Forked
from tunesmith import recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)(?: title=\"(.+?)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``title`` is the file that it shows, if it shows one."""

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 1
            yield Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2] or "", match[3])


BLOCKS = list(blocks())
FILES = [b for b in BLOCKS if b.title]
SCRIPTS = [b for b in BLOCKS if b.language == "python" and not b.title and b.page != "CONTRIBUTING.md"]
RECIPES = [b for b in BLOCKS if b.language == "yaml" and "rows:" in b.text]


def commands() -> Iterator[tuple[Block, str]]:
    """Command lines of `tunesmith` in blocks, without their comments."""
    for block in BLOCKS:
        if block.language in ("", "bash"):
            for line in block.text.splitlines():
                for command in re.split(r" {3,}(?=tunesmith )", line.partition("#")[0]):
                    if command.startswith("tunesmith "):
                        yield block, command.strip()


COMMANDS = [pytest.param(command, id=f"{block}-{command}") for block, command in commands()]


def environment(home: Path, *paths: Path) -> dict[str, str]:
    search = os.pathsep.join(map(str, [*paths, ROOT / "src", ROOT / "tests"]))
    return {**os.environ, "TUNESMITH_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": search}


def test_there_is_something_to_check() -> None:
    assert len(SCRIPTS) >= 3 and len(COMMANDS) >= 15 and len(RECIPES) >= 5 and len(FILES) >= 3


def bare(text: str) -> list[str]:
    """The lines of a program without comments and blank lines."""
    return [kept for line in text.splitlines() if (kept := line.partition("#")[0].rstrip())]


def test_the_first_page_has_the_program_of_the_library_page() -> None:
    readme, library = ([b for b in SCRIPTS if b.page == page] for page in ("README.md", "docs/python.md"))
    assert [bare(b.text) for b in readme] == [bare(library[0].text)]


@pytest.mark.parametrize("page", sorted({b.page for b in SCRIPTS} - {"README.md"}))
def test_python_blocks_run(page: str, bases: dict[str, Path], rows_file: Path, home: Path, tmp_path: Path) -> None:
    """The blocks of a page, one after the other, as one program; a tiny base stands in for the packaged one."""
    shutil.copy(rows_file, tmp_path / "reviews.csv")
    program = "\n".join(b.text for b in SCRIPTS if b.page == page)
    assert '"minilm-l6"' in program
    (tmp_path / "page.py").write_text(program.replace('"minilm-l6"', repr(str(bases["bert"]))), encoding="utf-8")
    done = Forked(program="page.py", folder=tmp_path, environment=environment(home)).wait()
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that Python can import from, with the package of the page installed: its files and its entry points."""
    folder = tmp_path_factory.mktemp("package")
    for block in FILES:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        for parent in path.relative_to(folder).parents:
            if parent.name:
                (folder / parent / "__init__.py").touch()
    (declared,) = [b for b in BLOCKS if b.language == "toml"]
    about = folder / "my_parts-1.0.dist-info"
    about.mkdir()
    lines = [line.replace('"', "") for line in declared.text.splitlines()[1:]]
    (about / "entry_points.txt").write_text("[tunesmith.parts]\n" + "\n".join(lines), encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n", encoding="utf-8")
    return folder


def test_parts_of_the_page_train(package: Path, bases: dict[str, Path], rows_file: Path, home: Path) -> None:
    """The recipe that uses all parts of the page is carried out whole."""
    (shown,) = [b for b in RECIPES if b.page == "docs/adding-a-part.md"]
    text = shown.text.replace("minilm-l6", str(bases["bert"])).replace("reviews.csv", str(rows_file))
    (package / "recipe.yaml").write_text(text, encoding="utf-8")
    given = ("tune", "recipe.yaml", "--epochs", "1", "--quiet", "--name", "mine")
    done = Forked(*given, folder=package, environment=environment(home, package)).wait()
    assert done.returncode == 0, done.stderr
    kept = yaml.safe_load((package / "runs" / "mine" / "recipe.yaml").read_text(encoding="utf-8"))
    assert kept["loss"] == [{"focal": {"gamma": 1.5, "weight": 1.0}}] and kept["mask"] == {"attention_only": {}}


@pytest.mark.parametrize("block", [b for b in RECIPES if b.page != "docs/adding-a-part.md"], ids=str)
def test_recipes_are_valid(block: Block, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(block.text, encoding="utf-8")
    assert recipe.read(tmp_path / "recipe.yaml").to_yaml()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    """Every command of the documents is one, with arguments and options that it has; nothing is carried out."""
    from tunesmith.cli.commands import app

    group = typer.main.get_command(app)
    for alternative in command.removeprefix("tunesmith ").split(" | "):
        name, *arguments = shlex.split(alternative)
        group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_the_example_of_contributing_keeps_the_laws(tmp_path: Path) -> None:
    """The file of the example in a copy of the source, and its line in a copy of the laws, as the page says."""
    mine = [b for b in BLOCKS if b.page == "CONTRIBUTING.md"]
    (part,) = [b.text for b in mine if b.language == "python"]
    (line,) = [m[1] for b in mine if (m := re.fullmatch(r"LINES = \{\.\.\., (.+)\}\n", b.text))]
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / "tunesmith" / "adapters" / "lorafa.py").write_text(part, encoding="utf-8")
    laws = (ROOT / "tests" / "test_host.py").read_text(encoding="utf-8")
    assert laws.count("LINES = {\n") == 1
    (tmp_path / "test_laws.py").write_text(laws.replace("LINES = {\n", f"LINES = {{\n    {line},\n"), encoding="utf-8")
    wanted = "(lorafa and (bert or gpt2 or t5)) or test_every_adapter_has_its_line"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_laws.py", "-k", wanted],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "src"), str(ROOT / "tests")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 12


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", text)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_claim_of_the_page_is_the_file() -> None:
    (shown,) = [b for b in FILES if b.page == "docs/comparing.md"]
    assert (ROOT / shown.title).read_text(encoding="utf-8") == shown.text


def test_every_page_is_in_the_navigation() -> None:
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = {page for entry in listed for page in entry.values()}
    assert named == {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
