"""What makes two results the same result: recipe, rows, base, seed, and the code of the parts that were used."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..parts import Chosen, of_kind
from ..recipe import Recipe, choose
from ..run.prepare import Prepared, on_disk, prepare
from ..storage import cache_home, hash_file, hash_json

FORM = 1
"""Raised whenever the engine, and not a part, is changed so that a recipe gives other figures than chance would.

Other rounding and other random draws do not count, as another processor or another PyTorch does not.
"""

_OPEN_MICRO_BATCH = 4096
"""What a micro-batch that is left to the device stands as: how a step is cut decides nothing but rounding and draws."""

_UNCOUNTED = ("save", "seed", "revision", "base")
"""Options that change no figure (when checkpoints are written), or that stand elsewhere in the identity."""


@dataclass(frozen=True)
class Identity:
    """All that a result depends on; its hash is the name of the result's file."""

    facts: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return hash_json(self.facts)[:24]


class Identities:
    """Identities of recipes; rows that several recipes share are read once."""

    def __init__(self) -> None:
        self._seen: dict[str, Prepared] = {}

    def prepared(self, recipe: Recipe) -> Prepared:
        """Rows, base and task of a recipe; the recipe itself is not part of what is shared."""
        shared = {k: v for k, v in on_disk(recipe).to_dict().items() if k in _ROWS}
        key = hash_json(shared)
        if key not in self._seen:
            self._seen[key] = prepare(on_disk(recipe))
        return self._seen[key]

    def of(self, recipe: Recipe, what: str = "tuned") -> Identity:
        """The identity of a recipe's result.

        Args:
            recipe: any recipe; what it leaves open is filled in from the rows.
            what: ``tuned``, or ``before`` for the base and the baselines, which no part and no seed touches.

        Raises:
            InputError: anything in the recipe or its rows that the user can mend.
        """
        prepared = self.prepared(recipe)
        rated = recipe.with_rate(prepared.base.width)
        options = {k: v for k, v in rated.to_dict().items() if k not in _UNCOUNTED}
        options["rows"] = {k: v for k, v in options["rows"].items() if k not in ("train", "validation", "test")}
        options |= {
            "task": recipe.task or prepared.task.name,
            "length": {**options["length"], "max": prepared.reader.max_length},
            "batch": {**options["batch"], "tokens": options["batch"]["tokens"] or _OPEN_MICRO_BATCH},
        }
        if what == "before":
            options = {k: v for k, v in options.items() if k in _ROWS}
        splits = prepared.facts["splits"]
        return Identity({
            "form": FORM, "what": what, "recipe": _told(by_content(options)),
            "seed": recipe.seed if what == "tuned" else None,
            "rows": {name: [s["fingerprint"], s["indices"]] for name, s in splits.items()},
            "base": prepared.base.fingerprint,
            "parts": codes(recipe) if what == "tuned" else {},
        })  # fmt: skip


_FOLDERS = ("upon", "tuned", "found")
"""Options that name what earlier runs left; any other may name a folder of weights too, such as a teacher."""


def by_content(value: Any, option: str = "") -> Any:
    """Options with what they name on this machine by its content, so that no folder of it is part of an identity.

    What an earlier run left is named by the hash of the weights that it learned, a run that a lab keeps by the fingerprint of
    all that it depends on, any other folder of weights by the hash of its weights. What is no such folder stays as it is.

    Raises:
        InputError: an earlier run left no weights.
    """
    if isinstance(value, Mapping):
        return {k: by_content(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [by_content(v, option) for v in value]
    if not isinstance(value, str) or not value:
        return value
    if option in _FOLDERS:
        from ..artefacts import weights_in

        return hash_file(weights_in(Path(value)))
    return _named(value)


def _named(value: str) -> str:
    """The name of a folder of weights by what it holds; any other text is itself."""
    if "/" not in value.replace("\\", "/"):
        return value
    folder, lab = Path(value).expanduser(), cache_home() / "lab"
    if folder.is_relative_to(lab):
        return f"lab:{folder.relative_to(lab).as_posix()}"
    weights = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    kept = [w for w in weights if "checkpoints" not in w.relative_to(folder).parts]
    if not kept:
        return value
    return f"weights:{hash_json([[w.relative_to(folder).as_posix(), hash_file(w)] for w in kept])[:32]}"


_ROWS = ("base", "revision", "upon", "rows", "task", "length", "template", "checks", "precision")


def chosen_parts(recipe: Recipe) -> Iterator[Chosen]:
    """Every part of a recipe."""
    for name in type(recipe).model_fields:
        value = getattr(recipe, name)
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Chosen))
    yield from _verbaliser(recipe)


def _verbaliser(recipe: Recipe) -> Iterator[Chosen]:
    """What finds the words of a task's cloze, where that is a part."""
    settings = next(iter(recipe.task.values())) if isinstance(recipe.task, Mapping) else None
    form = settings.get("cloze") if isinstance(settings, Mapping) else None
    words = (form.get("words", "names") if isinstance(form, Mapping) else "names") if form else None
    if isinstance(words, str) or (isinstance(words, Mapping) and next(iter(words), "") in of_kind("verbaliser")):
        yield choose("verbaliser", words)


def codes(recipe: Recipe) -> dict[str, str]:
    """``kind.name`` -> hash of the code of each part of a recipe."""
    return codes_of(chosen_parts(recipe))


def codes_of(chosen: Iterable[Chosen]) -> dict[str, str]:
    """``kind.name`` -> hash of the code of each of these parts."""
    return {f"{c.kind}.{c.name}": _code(c.part.module, c.part.symbol) for c in chosen}


@functools.cache
def _code(module: str, symbol: str) -> str:
    """Hash of a definition and of all that it uses of its own file and folder; comments and docstrings do not count."""
    seen: dict[tuple[str, str], str] = {}
    waiting = [(module, symbol)]
    while waiting:
        here = waiting.pop()
        definitions, imported = _definitions(here[0])
        if here in seen or here[1] not in definitions:
            continue
        tree = definitions[here[1]]
        seen[here] = ast.dump(tree)
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        waiting += [(here[0], name) for name in names & definitions.keys()]
        waiting += [imported[name] for name in names & imported.keys()]
    return hash_json(sorted(seen.values()))[:16]


@functools.cache
def _definitions(module: str) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
    """What a file defines at its top, and what it takes from other files of its folder.

    Docstrings are left out, and so is the rate that a part brings along: it is told with the recipe.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return {}, {}
    definitions: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and isinstance(body, list) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef):
            node.body = [line for line in node.body if not _is_rate(line)] or [ast.Pass()]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions |= {t.id: node for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            folder = module.rpartition(".")[0]
            imported |= {a.asname or a.name: (f"{folder}.{node.module}", a.name) for a in node.names}
    return definitions, imported


def _is_rate(line: ast.stmt) -> bool:
    targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id == "rate" for target in targets)


_AS_GIVEN = ("task",)
"""Options that hold what a recipe says and no defaults: what is off there may be on where nothing is said."""


def _told(value: Any) -> Any:
    """Without what is off, so that an option that is added later, and off, changes no identity."""
    if isinstance(value, Mapping):
        told = {k: v if k in _AS_GIVEN else _told(v) for k, v in value.items()}
        return {k: v for k, v in told.items() if v is not None and v is not False and v != [] and v != {} and v != ""}
    return [_told(v) for v in value] if isinstance(value, list | tuple) else value
