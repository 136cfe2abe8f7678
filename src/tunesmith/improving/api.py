"""The library's function for the loop: `improve`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..run.events import Listener, listener
from ..run.opened import Run
from ..run.prepare import keep_rows, on_disk
from ..storage import atomic_file, hash_json, write_json
from . import plan as plans
from .plan import Improvement
from .rounds import begin

FILE = "improve.yaml"


class Improved:
    """A finished improvement.

    Args:
        folder: where it is kept.

    Raises:
        InputError: the folder holds none that is finished.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.results: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
            self.results["rounds"], self.results["stopped"]
        except (OSError, KeyError):
            raise InputError(
                "holds no finished improvement", where=folder, fix=f"go on with: tunesmith improve {folder} --resume"
            ) from None

    def __repr__(self) -> str:
        return f"Improved({str(self.folder)!r})"

    @property
    def run(self) -> Run:
        """The run of the best round by the validation rows; of the first where none was better than what was there.

        Raises:
            InputError: nothing was tuned.
        """
        if not self.results["rounds"]:
            raise InputError("no round was tuned", where=self.folder, expected="an improvement of 1 round or more")
        return Run(self.folder / f"round-{max(1, self.results['best'])}" / "run")


def improve(
    source: str | Path | dict[str, Any],
    rows: Any = None,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    force: bool = False,
    resume: bool = False,
    progress: str = "auto",
    **options: Any,
) -> Improved:
    """Let a model write, judge what it writes, and tune it on what is made of the verdicts; round by round.

    Args:
        source: a run whose model writes first, a base (alias, folder, hub id), a file with the key ``improve``, or the
            values of one; with ``resume`` the folder of the improvement.
        rows: prompts, with their answers where the judge needs them; None takes the file's.
        out: folder that the improvement's folder is made in.
        name: name of that folder; None makes one from the source.
        force: replace an improvement of this name.
        resume: go on with one that was cut off; nothing that was written is written again.
        progress: ``auto``, ``bar``, ``lines``, ``json`` or ``quiet``.
        **options: options of the loop (``judge="exact_match"``, ``maker``, ``rounds``, ``samples``, ``like="rest_em"``)
            and of the recipe of each tuning.

    Returns:
        The finished improvement, its scores with intervals in ``results``.

    Raises:
        InputError: anything that the caller can mend.
        RunError: a tuning failed.

    """
    if resume and (Path(str(source)) / FILE).exists():
        return start(plans.read(Path(str(source)) / FILE), Path(str(source)), listener(progress), resume=True)
    made = plan_of(source, rows, options)
    folder = Path(out) / (name or _name(source, made))
    return start(made, folder, listener(progress), force=force, resume=resume)


def plan_of(source: Any, rows: Any, options: dict[str, Any]) -> Improvement:
    """The improvement that a source, rows and options say; see `improve`."""
    given = {"rows.train": rows, **options} if rows is not None else dict(options)
    if isinstance(source, dict):
        return plans.make(plans.changed(source, given))
    if str(source).endswith((".yaml", ".yml")):
        return plans.read(source, given)
    if rows is None:
        raise InputError("no rows are given", where=source, expected="a file of prompts")
    if not (Path(source) / "recipe.yaml").exists():
        return plans.make(plans.changed({"base": str(source)}, given))
    run = Run(source)
    values = {k: v for k, v in run.recipe.to_dict().items() if k not in ("rows", "task", "loss", "length", "audit")}
    values["rows"] = {"seed": run.recipe.rows.seed}
    return plans.make(plans.changed({**values, "improve": {"policy": str(source)}}, given))


def start(plan: Improvement, folder: Path, listen: Listener, *, force: bool = False, resume: bool = False) -> Improved:
    """Carry an improvement out into a folder; see `improve`."""
    if resume and (folder / "report.json").exists():
        listen({"event": "note", "text": f"{folder}: the improvement is finished already"})
        return Improved(folder)
    _check_folder(folder, force, resume)
    plan = Improvement(on_disk(plan.recipe), plan.improve)
    rounds = begin(plan, folder, listen)
    facts = {"task": rounds.task.describe(), "rows": {n: len(r) for n, r in rounds.rows.items()},
             "fingerprint": hash_json(rounds.rows)}  # fmt: skip
    if resume:
        _check_same(plan, facts, folder)
    else:
        if force and folder.exists():
            shutil.rmtree(folder)
        kept = Improvement(keep_rows(plan.recipe, folder), plan.improve)
        with atomic_file(folder / FILE) as file:
            file.write(kept.to_yaml())
        write_json(folder / "data.json", facts)
    rounds.carry_out()
    return Improved(folder)


def _check_folder(folder: Path, force: bool, resume: bool) -> None:
    there = folder.exists() and any(folder.iterdir())
    if resume and not (folder / FILE).exists():
        raise InputError("there is no improvement to go on with", where=folder, fix="leave --resume out to begin one")
    if there and not (force or resume):
        raise InputError("is there already", where=folder, fix="--name another, --resume it, or --force to replace it")
    if there and force and not (folder / FILE).exists():
        raise InputError(
            "is no improvement's folder, and will not be replaced", where=folder, fix="choose another --name"
        )


def _check_same(plan: Improvement, facts: dict[str, Any], folder: Path) -> None:
    """An improvement goes on with the options and the rows that it began with, wherever the rows are now."""
    begun = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    values = {"begun": plans.read(folder / FILE).to_dict(), "now": plan.to_dict()}
    for one in values.values():
        one["rows"] = {k: v for k, v in one["rows"].items() if k not in ("train", "validation", "test")}
    changed = [o for o in values["now"] if hash_json(values["begun"][o]) != hash_json(values["now"][o])]
    if begun["fingerprint"] != facts["fingerprint"]:
        changed.append("the content of the rows")
    if changed:
        raise InputError(
            f"{changed[0]} is not what it was when the improvement began", where=folder,
            fix=f"go on with its own: tunesmith improve {folder} --resume",
        )  # fmt: skip


def _name(source: Any, plan: Improvement) -> str:
    stem = Path(str(source)).name.split(".")[0] if isinstance(source, str | Path) else "model"
    return f"{stem}-{plan.improve.judge.name}"
