"""From a recipe to everything that training needs, in the order in which a mistake is cheapest to find."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ..data.detect import detect
from ..data.encode import Encoded, encode, suggest_length
from ..data.packaged import find as find_packaged
from ..data.reader import Reader
from ..data.rows import Rows, read
from ..data.split import drop_leaks, split
from ..data.tasks import Task
from ..data.tasks.classify import Classify, label_name
from ..errors import InputError
from ..models.bases import BaseInfo, resolve
from ..recipe import Recipe
from ..storage import atomic_file, cache_home, hash_bytes

Say = Callable[[str], None]

SPLITS = ("train", "validation", "test")


@dataclass
class Parted:
    """The rows of a run, split: for each split its table and the indices into it."""

    tables: dict[str, Rows]
    indices: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Prepared:
    """Everything that is known before a weight is loaded.

    Attributes:
        recipe: complete: base, task, length and learning rate are filled in.
        base: the base model's facts.
        task: what the columns mean.
        reader: turns text into token ids.
        parted: rows of each split.
        encoded: encoded rows of each split.
        facts: what ``data.json`` holds.
    """

    recipe: Recipe
    base: BaseInfo
    task: Task
    reader: Reader
    parted: Parted
    encoded: dict[str, Encoded]
    facts: dict[str, Any]

    @property
    def head(self) -> str:
        """Kind of the model's head."""
        return self.task.head(self.base.architecture)


_MEMORY = "memory-"


def on_disk(recipe: Recipe) -> Recipe:
    """The recipe with rows in memory written to the cache, so that a run can be resumed and repeated from its recipe."""
    changed = {}
    for name in SPLITS:
        source = getattr(recipe.rows, name)
        if source is None or isinstance(source, str | Path):
            continue
        rows = read(source)
        path = cache_home() / "rows" / f"{_MEMORY}{hash_bytes(rows.fingerprint.encode())[:32]}.arrow"
        with atomic_file(path, "wb") as file, pa.ipc.new_file(file, rows.table.schema) as writer:
            writer.write_table(rows.table)
        changed[name] = str(path)
    return recipe.updated({"rows": {**recipe.rows.model_dump(), **changed}}) if changed else recipe


def keep_rows(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with rows that came from memory copied into the run's folder, which then has all that it needs."""
    changed = {}
    for name in SPLITS:
        source = Path(getattr(recipe.rows, name) or "")
        if source.name.startswith(_MEMORY):
            changed[name] = str(folder / "rows" / f"{_MEMORY}{name}.arrow")
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, changed[name])
    return recipe.updated({"rows": {**recipe.rows.model_dump(), **changed}}) if changed else recipe


def open_rows(recipe: Recipe) -> tuple[Rows, Task]:
    """The training rows and what they ask for. Imports no model library.

    Raises:
        InputError: the file cannot be read, or its columns fit no task.
    """
    rows = read(recipe.rows.train)
    return rows, detect(rows, task=recipe.task, columns=recipe.rows.columns or None, group=group_of(recipe))


def group_of(recipe: Recipe) -> str | None:
    """The column that is never split: the recipe's, or the one that a packaged set names."""
    source = str(recipe.rows.train)
    if recipe.rows.group or not source.startswith("packaged:"):
        return recipe.rows.group
    return find_packaged(source.removeprefix("packaged:")).group


def part(recipe: Recipe, rows: Rows, task: Task) -> Parted:
    """Split the rows, or take the files that are given for each split, without a row in two of them."""
    columns = task.input_columns
    given = {n: read(s) for n, s in (("validation", recipe.rows.validation), ("test", recipe.rows.test)) if s}
    for table in given.values():
        if missing := [c for c in task.columns.values() if c not in table.columns]:
            raise InputError(
                f"column {missing[0]!r} is missing", where=table.source, expected=f"the columns of {rows.source}"
            )
        task.check(table)
    shares = {
        "test": 0.0 if "test" in given else recipe.rows.test_share,
        "validation": 0.0 if "validation" in given else recipe.rows.validation_share,
    }
    chosen = split(rows, columns, **shares, seed=recipe.rows.seed, group=group_of(recipe))
    indices = {n: getattr(chosen, n) for n in SPLITS}
    facts: dict[str, Any] = {"duplicates": chosen.duplicates, "leaks": {}}
    tables = dict.fromkeys(SPLITS, rows)
    for name, table in given.items():
        tables[name] = table
        indices[name] = np.arange(len(table))
        kept = drop_leaks(rows.take(indices["train"]), table, columns)
        facts["leaks"][name] = len(indices["train"]) - len(kept)
        indices["train"] = indices["train"][kept]
    if recipe.rows.limit:
        drawn = np.random.default_rng(recipe.rows.seed).permutation(len(indices["train"]))[: recipe.rows.limit]
        indices["train"] = indices["train"][np.sort(drawn)]
    if recipe.rows.shots:
        for name in ("train", "validation"):
            indices[name], counts = few(tables[name], task, indices[name], recipe.rows.shots, recipe.rows.seed)
            facts.setdefault("shots", counts)
    return Parted(tables, indices, facts)


def few(rows: Rows, task: Task, indices: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """At most ``shots`` of these rows for each label, drawn by the seed, ascending; and how many each label has.

    Raises:
        InputError: the task has no classes.
    """
    if task.name not in ("classify", "pair") or getattr(task, "multi", False) or task.sources:
        raise InputError("rows cannot be drawn by label", where="rows.shots", expected="a task with one label a row")
    names = [label_name(v) for v in rows.column(task.columns["label"]).take(indices).to_pylist()]
    counts = dict.fromkeys(task.labels or [], 0)
    kept = []
    for i in np.random.default_rng(seed).permutation(len(indices)):
        if counts[names[i]] < shots:
            counts[names[i]] += 1
            kept.append(indices[i])
    return np.sort(np.array(kept, dtype=np.int64)), counts


def prepare(recipe: Recipe, say: Say = lambda text: None) -> Prepared:
    """Read, detect, split, choose the base, encode.

    Args:
        recipe: what to prepare.
        say: hears one line for each thing that was found or decided.

    Raises:
        InputError: anything that the user can mend.
    """
    rows, task = open_rows(recipe)
    say(f"{rows.source}: {len(rows):,} rows")
    for note in task.notes:
        say(note)
    parted = part(recipe, rows, task)
    base = resolve(recipe.base or pick_base(rows, task), recipe.revision)
    task.head(base.architecture)
    if group := group_of(recipe):
        say(f"rows of one {group} stay in one split")
    if recipe.base is None:
        say(f"base: {base.name} (packaged; choose another with --base)")
    if isinstance(task, Classify) and "cloze" in task.settings:
        settle_cloze(task, recipe, base, parted, say)
    reader = make_reader(recipe, base, rows, task)
    if task.name == "chat" and not reader.has_template:
        say(f"{base.name} has no chat template: a plain one is used (User: ..., Assistant: ...)")
    encoded = {name: encode(parted.tables[name], parted.indices[name], task, reader) for name in SPLITS}
    for name in ("train", "test"):
        if not len(encoded[name]):
            raise InputError(f"no row is left for {name}", where=rows.source, expected="at least one")
    complete = recipe.with_rate(base.width).updated({
        "base": recipe.base or base.name, "task": recipe.task or task.name,
        "length": {"max": reader.max_length, "over": recipe.length.over},
    })  # fmt: skip
    facts = _facts(rows, task, parted, encoded, reader)
    for line in describe(facts):
        say(line)
    return Prepared(complete, base, task, reader, parted, encoded, facts)


def settle_cloze(task: Classify, recipe: Recipe, base: BaseInfo, parted: Parted, say: Say) -> None:
    """Settle the words and examples of a task that is told by filling a blank, and say what they are."""
    from .settling import settle  # loads the model library

    reader = Reader(base.tokenizer(), base.architecture, max_length=recipe.length.max or base.max_length or 1024)
    for line in settle(task, base, parted.tables["train"], parted.indices["train"], recipe.rows.seed, reader):
        say(line)


def make_reader(recipe: Recipe, base: BaseInfo, rows: Rows, task: Task) -> Reader:
    """The one reader of a run: tokenizer, template, length."""
    template = None
    if recipe.template:
        try:
            template = Path(recipe.template).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=recipe.template) from None
    tokenizer, limit = base.tokenizer(), base.max_length or 1024
    if recipe.length.max and recipe.length.max > limit:
        raise InputError(
            f"length.max is {recipe.length.max}", expected=f"at most {limit}, the most that {base.name} can read"
        )
    first = Reader(tokenizer, base.architecture, max_length=limit, template=template)
    length = recipe.length.max or suggest_length(rows, np.arange(len(rows)), task, first, limit)
    return Reader(tokenizer, base.architecture, max_length=length, policy=recipe.length.over, template=template)


def pick_base(rows: Rows, task: Task) -> str:
    """A packaged base for a task: a causal model for text that is written, else a small encoder that fits the script.

    Text of which more than a fifth lies outside ASCII gets the multilingual encoder.
    """
    if task.name in ("generate", "chat", "lm", "prefer"):
        return "smollm2-135m"
    column = next(iter(task.input_columns))
    sample = "".join(str(rows[i][column]) for i in range(0, len(rows), max(1, len(rows) // 200)))
    foreign = sum(ord(c) > 127 for c in sample) / max(1, len(sample))
    return "e5-small" if foreign > 0.2 else "minilm-l6"


def _facts(rows: Rows, task: Task, parted: Parted, encoded: dict[str, Encoded], reader: Reader) -> dict[str, Any]:
    splits = {}
    for name in SPLITS:
        data = encoded[name]
        splits[name] = {
            "rows": len(data),
            "source": parted.tables[name].source,
            "fingerprint": parted.tables[name].fingerprint,
            "indices": hash_bytes(parted.indices[name].tobytes()),
            "tokens": int(data.lengths.sum()),
            "supervised": int(data.units.sum()),
            "over_length": data.counts,
        }
    return {
        "source": rows.source, "fingerprint": rows.fingerprint, "rows": len(rows), "task": task.describe(),
        "max_length": reader.max_length, "splits": splits, **parted.facts,
    }  # fmt: skip


def describe(facts: dict[str, Any]) -> list[str]:
    """What ``data.json`` holds, as lines to print."""
    lines = []
    splits = facts["splits"]
    sizes = ", ".join(f"{name} {s['rows']:,}" for name, s in splits.items())
    lines.append(f"rows: {sizes}; {facts['duplicates']:,} duplicates, none across splits")
    lines += [f"{n:,} training rows that are also in {k} were left out" for k, n in facts["leaks"].items() if n]
    train = splits["train"]
    if "shots" in facts:
        drawn = ", ".join(f"{label} {n}" for label, n in list(facts["shots"].items())[:6])
        lines.append(f"few rows of each label: {drawn}{' and others' if len(facts['shots']) > 6 else ''}")
    lines.append(
        f"length: up to {facts['max_length']} tokens; train has {train['tokens']:,} tokens, "
        f"{train['supervised']:,} supervised units"
    )
    for name, s in splits.items():
        counts = {k: v for k, v in s["over_length"].items() if v}
        if counts:
            lines.append(f"{name}: over-length " + ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in counts.items()))
    return lines
