"""The commands that stand on many runs: compare, arena, claims."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..comparing.api import technique_named
from ..comparing.comparison import Comparison, compare
from ..errors import InputError
from ..recipe import Recipe


def say(quiet: bool) -> Any:
    """Writes a line on stderr, or nothing."""
    return (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))


# ---------------------------------------------------------------------- compare


def recipes_of(sources: Sequence[str], techniques: str | None, changes: Mapping[str, Any]) -> dict[str, Recipe]:
    """What ``compare`` was asked to compare: recipe files, or one source of rows with several techniques.

    Raises:
        InputError: fewer than two recipes, a mixture of files and rows, or an unknown technique.
    """
    files = [s for s in sources if s.endswith((".yaml", ".yml"))]
    if len(files) not in (0, len(sources)) or (not files and len(sources) != 1):
        raise InputError(
            f"{' '.join(sources)} are not alike", where="compare", expected="one table of rows, or recipe files"
        )
    if files and not techniques:
        found = {Path(s).stem: recipes.read(s, changes) for s in sources}
        if len(found) != len(sources):
            raise InputError(
                "two recipe files have the same name", where="compare", fix="rename one: names tell them apart"
            )
    elif techniques and len(sources) == 1:
        named = [name.strip() for name in techniques.split(",") if name.strip()]
        found = {name: _with(sources[0], name, changes) for name in named}
    else:
        raise InputError(
            "nothing to compare", where="compare", fix="add --with lora,head, or name several recipe files"
        )
    if len(found) < 2:
        raise InputError(f"only {', '.join(found) or 'nothing'} is there to compare", where="compare",
                         expected="two recipes at least")  # fmt: skip
    return found


def _with(source: str, name: str, changes: Mapping[str, Any]) -> Recipe:
    technique = technique_named(name)
    if source.endswith((".yaml", ".yml")):
        return recipes.read(source, {"adapter": None, "mask": None, **technique, **changes})
    return recipes.make(recipes.override({"rows": {"train": source}, **technique}, changes))


def with_audits(found: Mapping[str, Recipe], hear: Any) -> dict[str, Recipe]:
    """Recipes that name no audits get those whose rows are on this machine; ``hear`` is told which are left out."""
    from ..run.audit import audits_at_hand

    names, left_out = audits_at_hand()
    for name, rows in left_out.items():
        hear(f"audit {name} is left out: {rows} would have to be fetched; --audit fetches it")
    return {name: recipe if recipe.audit else recipe.updated({"audit": names}) for name, recipe in found.items()}


def compare_here(
    found: dict[str, Recipe], seeds: int, out: Path, name: str | None, force: bool, hear: Any, **how: Any
) -> tuple[Path, dict[str, Any]]:
    """Compare, write ``comparison.json`` and ``report.html``; gives the folder and what was found."""
    folder = _folder(found, out, name, force)
    compared = compare(found, seeds=seeds, hear=hear, **how)
    return folder, compared.save(folder)


def _folder(found: Mapping[str, Recipe], out: Path, name: str | None, force: bool) -> Path:
    if name:
        folder = out / name
        if folder.exists() and any(folder.iterdir()) and not force:
            raise InputError("is there already", where=folder, fix="--name another, or --force to replace it")
        return folder
    rows = next(iter(found.values())).rows.train
    named = str(rows) if isinstance(rows, str | Path) else ""
    stem = "compare-" + (named.removeprefix("packaged:").split("/")[-1].split(".")[0] or "rows")
    number = 1
    while (folder := out / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


# ---------------------------------------------------------------------- arena


def arena_tasks(as_json: bool) -> Any:
    """The tasks of the arena."""
    from ..comparing import arena

    if as_json:
        return {n: {"about": t.about, "family": t.family, "recipe": dict(t.values)} for n, t in arena.TASKS.items()}
    from rich.table import Table

    table = Table("task", "what is asked", "base", "rows", "training rows")
    for task in arena.TASKS.values():
        rows = task.values["rows"]
        table.add_row(task.name, task.about, task.values["base"], rows["train"], str(rows["limit"]))
    return table


def arena_run(
    only: Sequence[str], seeds: int, techniques: Sequence[str], hear: Any, **how: Any
) -> dict[str, Comparison]:
    """The baselines on arena tasks, task by task."""
    from ..comparing import arena

    lab_techniques = {n: arena.TECHNIQUES[n] for n in techniques}
    done = {}
    for name in only or arena.TASKS:
        task = arena.find(name)
        found = {n: task.recipe({**arena.tuned_rate(task.family, t), **t}) for n, t in lab_techniques.items()}
        hear(f"{name}: {task.about}")
        done[name] = compare(found, seeds=seeds, hear=hear, **how)
    return done


# ---------------------------------------------------------------------- claims


def claims_folder(given: Path | None) -> Path:
    """The folder of claims: the given one, else ``claims`` here, else the one that the package carries."""
    if given is not None:
        return given
    here = Path("claims")
    return here if here.is_dir() else Path(__file__).parent.parent / "_claims"


def run_claim(
    name: str, folder: Path, store: Path, hear: Any, keep: bool = True, **how: Any
) -> tuple[Any, dict[str, Any], str]:
    """Settle a claim and keep its result; gives the claim, the result, and what became of the verdict."""
    from ..claims.claim import find
    from ..claims.lab import Lab
    from ..claims.settle import keep as keep_result
    from ..claims.settle import settle, stored
    from ..comparing.store import Store

    claim = find(folder, name)
    before = stored(folder, claim)
    result = settle(claim, Lab(Store(store), range(claim.seeds), hear=hear, **how))
    if keep:
        keep_result(folder, claim, result)
    if before is None:
        said = f"{claim.stem}: {result['verdict']}"
    elif before["verdict"] == result["verdict"]:
        said = f"{claim.stem}: {result['verdict']}, as stored on {before['date']}"
    else:
        said = f"{claim.stem}: {result['verdict']}, but {before['verdict']} was stored on {before['date']}"
    return claim, result, said


def check_claims(names: Sequence[str], folder: Path, hear: Any, **how: Any) -> list[str]:
    """Run claims again from nothing, without keeping anything; gives a line for each verdict that turned."""
    import tempfile

    from ..claims.claim import every
    from ..claims.settle import stored

    turned = []
    for claim in every(folder).values():
        before = stored(folder, claim)
        wanted = claim.stem in names or claim.id in names or claim.name in names if names else claim.quick
        if before is None or not wanted:
            continue
        with tempfile.TemporaryDirectory() as fresh:
            _, result, said = run_claim(claim.stem, folder, Path(fresh), hear, keep=False, **how)
        hear(said)
        if result["verdict"] != before["verdict"]:
            turned.append(said)
    return turned


def claims_json(folder: Path) -> list[dict[str, Any]]:
    """Every claim with its verdict."""
    from ..claims.claim import every
    from ..claims.settle import stored

    found = []
    for claim in every(folder).values():
        result = stored(folder, claim)
        about = json.loads(claim.model_dump_json(exclude={"experiment", "expect"}))
        found.append({**about, "verdict": result["verdict"] if result else None, "result": result})
    return found
