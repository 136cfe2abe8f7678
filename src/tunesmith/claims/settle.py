"""Settling a claim: run its experiment, write its result, and say whether the verdict holds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..experiments import Figure, Outcome
from ..storage import hash_json, write_json
from .claim import Claim, as_figures
from .lab import Lab

SCHEMA = 1


def settle(claim: Claim, lab: Lab) -> dict[str, Any]:
    """Carry out a claim's experiment; gives what its result file holds.

    Raises:
        InputError: the claim's file has something to mend.
        RunError: a training failed.
    """
    started = time.perf_counter()
    outcome: Outcome = claim.experiment.part.load()(lab, **claim.experiment.own) if claim.experiment else Outcome({})
    environments = [result.environment for result in lab.used.values()] or [here()]
    return {
        "schema": SCHEMA, "claim": _key(claim), "verdict": claim.verdict(outcome.figures),
        "expect": [
            {"text": str(e), "met": e.met(outcome.figures[e.figure])} for e in claim.expect if e.figure in outcome.figures
        ],
        "figures": {name: asdict(figure) for name, figure in outcome.figures.items()},
        "series": {name: [list(map(float, p)) for p in points] for name, points in outcome.series.items()},
        "axes": list(outcome.axes), "notes": list(outcome.notes), "seeds": list(lab.seeds),
        "cost": {
            "trainings": len(lab.used) + len(lab.rounds),
            "seconds": sum(r.cost["seconds"] for r in lab.used.values()) + sum(map(_seconds, lab.rounds)),
            "wall_seconds": time.perf_counter() - started,
        },
        "results": sorted(lab.used), "environment": dict(environments[0]),
        "commits": sorted({str(each["commit"]) for each in environments}),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def _seconds(run: Path) -> float:
    """How long a round of an improvement trained."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return float(report["cost"]["training_seconds"])


def here() -> dict[str, Any]:
    """This machine and these versions, where no training of the claim tells."""
    import platform

    from ..comparing.work import commit

    packages = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "commit": commit(),
    }


def _key(claim: Claim) -> str:
    """Hash of what decides a verdict: the experiment, its settings, the seeds and what is expected."""
    chosen = claim.experiment.to_recipe() if claim.experiment else None
    return hash_json([chosen, claim.seeds, [e.model_dump() for e in claim.expect], claim.not_testable])[:16]


def result_path(folder: Path, claim: Claim) -> Path:
    """Where a claim's result lies, beside the claims."""
    return folder / "results" / f"{claim.stem}.json"


def stored(folder: Path, claim: Claim) -> dict[str, Any] | None:
    """The stored result of a claim, or None where there is none, or one of an earlier form of the claim.

    Raises:
        InputError: the file is damaged, or its verdict is not what its figures say.
    """
    path = result_path(folder, claim)
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"is no result ({error})", where=path, fix=f"run `tunesmith claims run {claim.id}`") from None
    if values.get("claim") != _key(claim):
        return None
    if values["verdict"] != (says := claim.verdict(as_figures(values["figures"]))):
        raise InputError(
            f"the verdict is {values['verdict']!r}, but its figures say {says!r}", where=path,
            fix=f"verdicts are written by `tunesmith claims run {claim.id}` alone",
        )  # fmt: skip
    return values


def keep(folder: Path, claim: Claim, result: Mapping[str, Any]) -> Path:
    """Write a result beside the claim."""
    path = result_path(folder, claim)
    write_json(path, result)
    return path


def main_figure(claim: Claim, result: Mapping[str, Any]) -> tuple[str, Figure] | None:
    """The first figure that the claim has an expectation of."""
    figures = as_figures(result["figures"])
    return (claim.expect[0].figure, figures[claim.expect[0].figure]) if claim.expect and figures else None
