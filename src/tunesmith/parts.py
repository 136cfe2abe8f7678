"""Finds, checks and describes every part.

The folder is the registry and the signature is the schema: a part is a public class or function in a file of its
kind's folder, its settings are the keyword-only arguments of its signature and the annotated attributes of its kind,
its documentation is its docstring. All of it is read from the source text, so that listing or checking parts
imports none of them (and no torch).
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import settings as setting_types
from .errors import InputError, unknown

KINDS = {
    "adapter": "adapters",
    "mask": "masks",
    "loss": "losses",
    "gradient": "gradients",
    "forward": "forwards",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "verbaliser": "verbalisers",
    "audit": "audits",
    "experiment": "experiments",
    "judge": "judges",
    "maker": "makers",
    "framing": "framings",
}
"""Kind -> folder of this package."""

_TYPES = {**vars(typing), **{k: v for k, v in vars(setting_types).items() if not k.startswith("_")}}
_SECTION = re.compile(r"^Settings:\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
_ITEM = re.compile(r"^    (\w+): (.*(?:\n      +\S.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """One setting of a part: its name, its type as written, its default and its line of help.

    ``own`` settings are arguments of the part; the others belong to the kind (where an adapter goes, a loss
    term's weight) and are read by the host or the engine.
    """

    name: str
    annotation: str
    default: Any
    help: str = ""
    own: bool = True

    def check(self, value: Any, where: str) -> Any:
        """``value`` converted to the setting's type.

        Raises:
            InputError: it cannot be converted, or lies outside its bounds.
        """
        from pydantic import TypeAdapter, ValidationError

        if isinstance(value, bool) and "bool" not in self.annotation:
            raise InputError(f"{where} is {value}", expected=self.annotation)
        try:
            return TypeAdapter(eval(self.annotation, {"__builtins__": _BUILTINS}, _TYPES)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            fix = f"the default is {self.default!r}" if self.default is not None else None
            raise InputError(f"{where} is {value!r}: {reason}", expected=self.annotation, fix=fix) from None


_BUILTINS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "None": None}


@dataclass(frozen=True)
class Part:
    """A part as its source describes it; nothing is imported until `load`."""

    kind: str
    name: str
    symbol: str
    module: str
    doc: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return self.doc.split("\n", 1)[0]

    @property
    def source(self) -> str:
        """Its source: authors, year and arXiv id, as its docstring names them."""
        match = re.search(r"Source: (.+?)(?=\n\n|\Z)", self.doc, re.DOTALL)
        return " ".join(match[1].split()).rstrip(".") if match else ""

    def load(self) -> Any:
        """Import the part: its class or function."""
        return getattr(importlib.import_module(self.module), self.symbol)

    def choose(self, given: Mapping[str, Any] | None = None, *, where: str | None = None) -> Chosen:
        """The part with settings: ``given`` ones checked, all others at their default.

        Raises:
            InputError: a setting is unknown, has the wrong type, or is out of bounds.
        """
        where = where or f"{self.kind}.{self.name}"
        given = dict(given or {})
        for name in given:
            if name not in self.settings:
                raise unknown(f"setting of {self.kind} {self.name}:", name, self.settings, where=where)
        checked = {
            name: setting.check(given[name], f"{where}.{name}") if name in given else setting.default
            for name, setting in self.settings.items()
        }
        return Chosen(self, checked)


@dataclass(frozen=True)
class Chosen:
    """A part and the value of each of its settings."""

    part: Part
    settings: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return self.part.kind

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def own(self) -> dict[str, Any]:
        """The settings that are arguments of the part itself."""
        return {k: v for k, v in self.settings.items() if self.part.settings[k].own}

    def build(self, *arguments: Any) -> Any:
        """An instance: the part called with ``arguments`` and its own settings.

        The kind's settings become attributes of the instance, where the host and the engine read them.
        """
        instance = self.part.load()(*arguments, **self.own)
        for name, value in self.settings.items():
            if not self.part.settings[name].own:
                setattr(instance, name, value)
        return instance

    def to_recipe(self) -> dict[str, dict[str, Any]]:
        """The form that a recipe file has: ``{name: {setting: value}}``."""
        return {self.name: dict(self.settings)}

    def __repr__(self) -> str:
        """Its own settings, and those of its kind that are not at their default."""
        known = self.part.settings
        shown = {k: v for k, v in self.settings.items() if known[k].own or v != known[k].default}
        return f"{self.part.symbol}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def find(kind: str, name: str, *, where: object = None) -> Part:
    """The part of this kind and name.

    Raises:
        InputError: there is none; the nearest name is offered.
    """
    parts = of_kind(kind)
    if name not in parts:
        raise unknown(kind, name, parts, where=where)
    return parts[name]


def every() -> Iterator[Part]:
    """All parts, kind by kind."""
    for kind in KINDS:
        yield from of_kind(kind).values()


@functools.cache
def of_kind(kind: str) -> Mapping[str, Part]:
    """Name -> part, for one kind: this package's folder, then what other packages offer.

    Another package offers parts by an entry point of the group ``tunesmith.parts`` whose name is the kind and whose
    value is a package that holds one file a part.
    """
    folder = Path(__file__).parent / KINDS[kind]
    base = {k: v for file in sorted(folder.glob("_*.py")) for k, v in _classes(_parse(file)).items()}
    found = dict(_read_folder(kind, folder, f"{__package__}.{KINDS[kind]}", base))
    for entry in importlib.metadata.entry_points(group="tunesmith.parts"):
        spec = importlib.util.find_spec(entry.value) if entry.name.split(".")[0] == kind else None
        if spec and spec.origin:
            found |= _read_folder(kind, Path(spec.origin).parent, entry.value, {**base, **_symbols(found)})
    return dict(sorted(found.items()))


def part_name(symbol: str) -> str:
    """The name in recipes of a class or function.

    >>> [part_name(s) for s in ("LoRA", "AdamW", "TopLayers", "SquaredError", "IA3")]
    ['lora', 'adamw', 'top_layers', 'squared_error', 'ia3']
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", symbol).lower()


def _read_folder(kind: str, folder: Path, package: str, bases: dict[str, ast.ClassDef]) -> Iterator[tuple[str, Part]]:
    trees = {file.stem: _parse(file) for file in sorted(folder.glob("[!_]*.py"))}
    classes = dict(bases)
    for tree in trees.values():
        classes |= _classes(tree)
    for stem, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield part_name(node.name), _read_part(kind, f"{package}.{stem}", node, classes)


def _read_part(
    kind: str, module: str, node: ast.ClassDef | ast.FunctionDef, classes: Mapping[str, ast.ClassDef]
) -> Part:
    doc = ast.get_docstring(node) or ""
    lineage = _lineage(node, classes) if isinstance(node, ast.ClassDef) else []
    signatures = [node] if isinstance(node, ast.FunctionDef) else _signatures(lineage)
    helps = _setting_helps([doc, *(ast.get_docstring(c) or "" for c in lineage)])
    settings = {s.name: s for f in reversed(signatures) for s in _own_settings(f, helps)}
    attributes: dict[str, Any] = {}
    annotations: dict[str, str] = {}
    for ancestor in reversed(lineage):
        for name, annotation, value in _attributes(ancestor):
            if annotation and not annotation.startswith("ClassVar"):
                annotations[name] = annotation
            attributes[name] = value
    for name, annotation in annotations.items():
        settings[name] = Setting(name, annotation, attributes.pop(name), helps.get(name, ""), own=False)
    return Part(kind, part_name(node.name), node.name, module, doc, settings, attributes)


def _lineage(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """The class and those of its ancestors whose source is at hand, itself first."""
    lineage = [node]
    for base in node.bases:
        name = ast.unparse(base).split("[")[0].split(".")[-1]
        if name in classes and classes[name] is not node:
            lineage += _lineage(classes[name], classes)
    return lineage


def _signatures(lineage: list[ast.ClassDef]) -> list[ast.FunctionDef]:
    """The class's ``__init__``, and as long as one hands further keywords on, its ancestors'; itself first."""
    found: list[ast.FunctionDef] = []
    for ancestor in lineage:
        for item in ancestor.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                found.append(item)
                if item.args.kwarg is None:
                    return found
    return found


def _own_settings(function: ast.FunctionDef, helps: Mapping[str, str]) -> Iterator[Setting]:
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if default is None or argument.annotation is None:
            raise TypeError(f"{function.name}: setting {argument.arg} needs a type and a default")
        yield Setting(
            argument.arg, ast.unparse(argument.annotation), ast.literal_eval(default), helps.get(argument.arg, "")
        )


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, str, Any]]:
    """Name, annotation and value of each class attribute whose value is a literal."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and item.value is not None:
            target: ast.expr = item.target
            annotation = ast.unparse(item.annotation)
        elif isinstance(item, ast.Assign) and len(item.targets) == 1:
            target, annotation = item.targets[0], ""
        else:
            continue
        if isinstance(target, ast.Name) and not target.id.startswith("_") and item.value is not None:
            try:
                yield target.id, annotation, ast.literal_eval(item.value)
            except ValueError:
                continue


def _setting_helps(docs: list[str]) -> dict[str, str]:
    helps: dict[str, str] = {}
    for doc in reversed(docs):
        if section := _SECTION.search(doc + "\n"):
            helps |= {m[1]: " ".join(m[2].split()) for m in _ITEM.finditer(section[1])}
    return helps


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _symbols(parts: Mapping[str, Part]) -> dict[str, ast.ClassDef]:
    """The classes of these parts, for parts of other packages that inherit from them."""
    found: dict[str, ast.ClassDef] = {}
    for part in parts.values():
        if (spec := importlib.util.find_spec(part.module)) and spec.origin:
            found |= _classes(_parse(Path(spec.origin)))
    return found


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
