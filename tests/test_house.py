"""The rules of the house: who imports whom, how long a function is, what no file may say, what every part must."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith import parts, recipe

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tunesmith"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(SOURCE.rglob("*.py"))
PARTS = [pytest.param(p, id=f"{p.kind}-{p.name}") for p in parts.every()]

LONGEST = 60
"""Lines of a function that still fits on a screen."""

HEAVY = ("torch", "transformers", "datasets", "peft", "sklearn", "scipy", "matplotlib", "pandas")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


# ---------------------------------------------------------------------- floors


def test_imports_go_down_the_floors() -> None:
    done = python("-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_floors_are_those_of_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"## Floors.*?```\n(.*?)```", page, re.DOTALL)
    assert block, "docs/architecture.md has no block under its heading 'Floors'"
    floor = {
        name.rstrip("/"): number
        for number, line in enumerate(block[1].splitlines())
        for name in re.split(r" {3,}", line)[0].split()
    }
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    upwards = [name.strip() for layer in reversed(contract["layers"]) for name in layer.split("|")]
    assert sorted(floor) == sorted(upwards)
    numbers = [floor[name] for name in upwards]
    assert numbers == sorted(numbers), "docs/architecture.md and pyproject.toml put the floors in another order"


# ---------------------------------------------------------------------- what is imported when


@pytest.mark.parametrize("module", ["tunesmith", "tunesmith.cli.commands", "tunesmith.recipe", "tunesmith.parts"])
def test_what_only_checks_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, tunesmith.parts, {module}; list(tunesmith.parts.every()); print(*sys.modules)"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert not {name.partition(".")[0] for name in done.stdout.split()} & set(HEAVY)


def top_level(node: ast.Module | ast.If | ast.Try) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that are carried out when the module is: not those in functions, nor those for the type checker."""
    for child in node.body:
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.Try) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" not in ast.unparse(child.test)
        ):
            yield from top_level(child)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names of the third-party packages in these import statements."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"tunesmith"}


COMES_WITH = {
    "rich": "typer", "annotated_types": "pydantic", "numpy": "transformers", "yaml": "transformers", "jinja2": "torch",
    "safetensors": "transformers", "tokenizers": "transformers", "huggingface_hub": "transformers", "filelock": "torch",
    "scipy": "scikit-learn",
}  # fmt: skip
"""Packages that a direct dependency needs itself, and so brings."""

IMPORT_NAME = {"scikit-learn": "sklearn", "rouge-score": "rouge_score"}


def names_of(requirements: list[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9-]+", requirement)[0] for requirement in requirements)  # type: ignore[index]
    return {IMPORT_NAME.get(name, name) for name in found}


def test_about_six_direct_dependencies() -> None:
    assert len(PROJECT["project"]["dependencies"]) <= 7


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """What `make oldest` installs is what pyproject.toml promises; PyTorch has its own line in the Makefile."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [r for k in ("metrics", "bases", "hub", "peft") for r in extras[k]] + PROJECT["project"]["dependencies"]
    promised = dict(r.split(">=") for r in wanted if not r.startswith("torch"))
    lines = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned.keys() == promised.keys()
    numbers = {name: [int(n) for n in version.split(".")] for name, version in promised.items()}
    assert {n: [int(v) for v in version.split(".")][: len(numbers[n])] for n, version in pinned.items()} == numbers


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_are_declared(path: Path) -> None:
    direct = names_of(PROJECT["project"]["dependencies"]) | set(COMES_WITH)
    extras = set().union(*(names_of(v) for k, v in PROJECT["project"]["optional-dependencies"].items() if k != "dev"))
    assert imported(top_level(tree(path))) <= direct, "an extra is imported inside the function that needs it"
    assert imported(ast.walk(tree(path))) <= direct | extras


# ---------------------------------------------------------------------- functions, names, words


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_functions_fit_on_a_screen(path: Path) -> None:
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {n.name: n.end_lineno - n.lineno + 1 for n in functions if n.end_lineno - n.lineno >= LONGEST}  # type: ignore[operator]
    assert not long, f"longer than {LONGEST} lines: {long}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_what_is_public_is_documented(path: Path) -> None:
    module = tree(path)
    public = [n for n in module.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")]
    bare = [n.name for n in public if not ast.get_docstring(n)]
    assert not bare, f"no docstring: {bare}"


FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "os.system", "exec"}
FORBIDDEN_ARGUMENTS = {"trust_remote_code", "allow_pickle", "shell"}


def faults(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: imports {n}" for n in names if n.partition(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: calls {ast.unparse(node.func)}"
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in FORBIDDEN_ARGUMENTS and not off:
                    yield f"line {node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_code_out_of_data(path: Path) -> None:
    assert not list(faults(tree(path)))


@pytest.mark.parametrize(
    "line", ["import pickle", "from pickle import loads", "torch.load(p)", "f(p, trust_remote_code=True)",
             "f(p, trust_remote_code=x)", "np.load(p, allow_pickle=True)"],
)  # fmt: skip
def test_code_out_of_data_is_found(line: str) -> None:
    assert list(faults(ast.parse(line)))


def tracked() -> list[Path]:
    """Files under version control; in a folder without it (an unpacked release), every file of ours."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [p for n in listed.stdout.split("\0") if n and (p := ROOT / n).is_file()]
    folders = [ROOT / n for n in ("src", "tests", "docs", "recipes")]
    return [p for f in folders for p in f.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


FORBIDDEN_WORDS = re.compile(
    "|".join(
        ["/wo" + r"rk/", "/ro" + r"ot/", "pypi" + r"\.(org|python)", "pythonhosted" + r"\.org",
         "npmjs" + r"\.(org|com)", "TO" + "DO", "FIX" + "ME"]
    )
)  # fmt: skip
"""Folders of one machine, hosts of registries (they are named PyPI and npm), and work left undone; written in two pieces
so that this file does not find itself."""


def test_no_file_names_a_machine_or_a_host() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{relative(path)}:{number}: {m[0]}" for m in FORBIDDEN_WORDS.finditer(line)]
    assert not found


# ---------------------------------------------------------------------- parts and recipes


@pytest.mark.parametrize("part", PARTS)
def test_a_part_says_what_it_does_and_whose_it_is(part: parts.Part) -> None:
    assert part.summary.endswith("."), "the first line of the docstring is one sentence"
    assert re.search(r"\b(19|20)\d\d\b", part.source), (
        "the docstring names its source: authors, year, arXiv id or title"
    )
    bare = [name for name, setting in part.settings.items() if not setting.help]
    assert not bare, f"settings without a line of help: {bare}"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_accepts_its_own_defaults(part: parts.Part) -> None:
    given = {name: setting.default for name, setting in part.settings.items() if setting.default is not None}
    assert part.choose(given).settings == part.choose().settings


def test_part_names_are_unique() -> None:
    names = [p.name for p in parts.every()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=relative)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert recipe.read(path).to_yaml()
