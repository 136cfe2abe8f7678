"""What makes a classifier robust: clean score and score under three attacks, for every robust term, with its cost.

    python bench/robust.py --workers 2 [--only SMART] [--seeds 1]     trains what is missing; stop and repeat it at will
    python bench/robust.py --dry-run [--workers 2]                    says what is missing, and about how long it takes
    python bench/robust.py --render                                   writes docs/robust.md from the results
    python bench/robust.py --check                                    fails where the page does not say what they say

Every training is one file of ``bench/robust``; what is there already is not trained again. The attacks are the audits'
typing mistakes, casing and swapped words, made on each tuned model anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence import kept, options
from render import ROOT, over_seeds

from tunesmith.comparing import arena
from tunesmith.comparing.identity import Identities
from tunesmith.comparing.pool import Job, fill
from tunesmith.comparing.result import Result
from tunesmith.comparing.store import Store
from tunesmith.recipe import Recipe

RESULTS = Path(__file__).parent / "robust"
PAGE = ROOT / "docs" / "robust.md"
SEEDS = (0, 1, 2)
ROWS = 200
"""Held-out rows: all of them are scored clean, mistyped and in other casing."""

TRAINED = 320
"""Training rows, of which the terms are to make more."""

ATTACKED = {
    "rows.limit": TRAINED,
    "checks": {"rows": ROWS},
    "audit": {"character_noise": {"rows": ROWS}, "casing": {"rows": ROWS}, "substitution": {"rows": 60}},
}
WHERE = (("sentiment", "minilm-l6"), ("intent", "deberta-v3-xsmall"))
"""Arena task and base; the second base tells capitals from small letters."""

FULL, LORA = {"mask": "everything"}, {"adapter": "lora"}


def beside(*terms: str) -> dict[str, Any]:
    """Terms beside the likelihood."""
    return {"loss": {"cross_entropy": {}, **{term: {} for term in terms}}}


STEPS = {
    "SMART": 3.0, "SMART, proximal": 4.0, "FreeLB": 3.0, "RoAST": 3.0, "FireBERT co-tuning": 3.0, "R-Drop": 2.0,
    "momentum contrast": 2.0, "BA-LoRA": 1.5, "NMTune": 1.5,
}  # fmt: skip
"""About how many plain steps a step with a term takes, for an estimate before anything was measured; elsewhere 1."""

ATTACKS = 40.0
"""About so many seconds to load, score and attack a model of the first base."""

TIMES = {"minilm-l6": 1.0, "deberta-v3-xsmall": 2.5}
"""About how much longer a base takes than the first."""

TERMS: dict[str, tuple[str, dict[str, Any]]] = {
    "full fine-tuning": ("", FULL),
    "SMART": ("full fine-tuning", {**FULL, **beside("smart")}),
    "SMART, proximal": ("full fine-tuning", {**FULL, **beside("smart", "proximal")}),
    "FreeLB": ("full fine-tuning", {**FULL, "loss": "freelb"}),
    "RoAST": ("full fine-tuning", {**FULL, **beside("roast")}),
    "FireBERT co-tuning": ("full fine-tuning", {**FULL, **beside("co_tuning")}),
    "R-Drop": ("full fine-tuning", {**FULL, **beside("rdrop")}),
    "Mixout": ("full fine-tuning", {**FULL, "loss": "mixout"}),
    "L2-SP": ("full fine-tuning", {**FULL, **beside("l2sp")}),
    "momentum contrast": ("full fine-tuning", {**FULL, **beside("momentum_contrastive")}),
    "label smoothing": ("full fine-tuning", {**FULL, "loss": {"cross_entropy": {"smoothing": 0.1}}}),
    "LoRA": ("", LORA),
    "BA-LoRA": ("LoRA", {**LORA, **beside("base_consistency", "batch_diversity", "singular_values")}),
    "NMTune": ("LoRA", {**LORA, **beside("nmtune")}),
}
"""What is shown -> what it is compared with, and its options."""

CASED = ("full fine-tuning", "SMART", "FreeLB", "R-Drop")
"""What is tried on the second base too, where casing is an attack."""


def recipes() -> Iterator[tuple[tuple[str, str, str], Recipe]]:
    """Task, base and name of every row of the tables, with its recipe."""
    for task, base in WHERE:
        for name in TERMS if (task, base) == WHERE[0] else CASED:
            technique, where = TERMS[name][1], arena.find(task)
            rate = arena.tuned_rate(where.family, technique)
            yield (task, base, name), where.recipe({**rate, **technique, **ATTACKED, "base": base})


def wanted_rows(only: str | None) -> list[tuple[tuple[str, str, str], Recipe]]:
    """The rows that are asked for: all, or those of a technique, a task, a base."""
    return [(key, r) for key, r in recipes() if only is None or set(only.split(";")) <= set(key)]


def train(workers: int, only: str | None, seeds: int) -> None:
    """Carry out what is missing, seed by seed, so that all have the same number where it is cut off."""
    identities = Identities()
    wanted = wanted_rows(only)
    for seed in SEEDS[:seeds]:
        own = [(key, recipe.updated({"seed": seed})) for key, recipe in wanted]
        jobs = [Job(" ".join([*key, f"seed {seed}"]), r, identities.of(r)) for key, r in own]
        fill(Store(RESULTS), jobs, workers=workers, hear=lambda line: print(line, flush=True))


def dry_run(workers: int, only: str | None, seeds: int) -> str:
    """What is missing, and about how long it takes; reads result files only."""
    there, plain = found(), kept(ROOT / "claims" / "store")
    lines, total = [], 0.0
    for key, _ in wanted_rows(only):
        left = [seed for seed in SEEDS[:seeds] if seed not in there.get(key, {})]
        seconds = len(left) * seconds_of(key, there, plain)
        total += seconds
        if left:
            lines.append(f"{' '.join(key)}: seeds {', '.join(map(str, left))}, about {seconds / 60:.1f} min")
    return "\n".join([*lines, f"about {total / 60 / workers:.0f} minutes with {workers} at a time"])


def seconds_of(key: tuple[str, str, str], there: Found, plain: Mapping[str, Sequence[Result]]) -> float:
    """Of one training with its attacks: as another seed took; else from the arena's stored trainings."""
    if known := there.get(key):
        return float(np.mean([r.cost["seconds"] for r in known.values()]))
    task, base, name = key
    technique = LORA if "LoRA" in (name, TERMS[name][0]) else FULL
    where = arena.find(task)
    recipe = where.recipe({**arena.tuned_rate(where.family, technique), **technique})
    each = [r.cost["training_seconds"] for r in plain.get(options(recipe.to_dict()), ())] or [100.0]
    share = TRAINED / where.values["rows"]["limit"]
    return TIMES[base] * (STEPS.get(name, 1.0) * float(np.median(each)) * share + ATTACKS)


# ---------------------------------------------------------------------- the page

COLUMNS = ("clean", "typing mistakes", "casing", "swapped words")


def under_attack(result: Result) -> dict[str, float]:
    """Accuracy on clean rows and under each attack, in per cent."""
    found = {f["figure"]: f["tuned"] for f in (result.audit or {})["findings"]}
    clean = result.score
    values = (
        clean, clean - found["accuracy_lost_by_noise"], clean - found["accuracy_lost_by_casing"],
        found["accuracy_under_attack"],
    )  # fmt: skip
    return {name: 100 * value for name, value in zip(COLUMNS, values, strict=True)}


Found = Mapping[tuple[str, str, str], Mapping[int, Result]]


def found() -> Found:
    """The results of every row, by their seed; rows without any are left out."""
    every = kept(RESULTS) if RESULTS.is_dir() else {}
    made = {key: {r.recipe["seed"]: r for r in every.get(options(recipe.to_dict()), ())} for key, recipe in recipes()}
    return {key: results for key, results in made.items() if results}


def table(results: Found, task: str, base: str) -> str:
    """One task's table."""
    lines = [f"| technique | {' | '.join(COLUMNS)} | time | seeds |", "|---|" + "---:|" * (len(COLUMNS) + 2)]
    for name, (against, _) in TERMS.items():
        own, other = results.get((task, base, name), {}), results.get((task, base, against), {})
        if own:
            cells = [cell(own, other, column) for column in COLUMNS]
            lines.append(f"| {name} | {' | '.join(cells)} | {time(own, other)} | {len(own)} |")
    return "\n".join(lines)


def cell(own: Mapping[int, Result], other: Mapping[int, Result], column: str) -> str:
    """Mean over seeds; beside it the paired difference with its interval, bold where the interval leaves out 0."""
    mean = float(np.mean([under_attack(r)[column] for r in own.values()]))
    shared = sorted(own.keys() & other.keys())
    if len(shared) < 2:
        return f"{mean:.1f}"
    change, half = over_seeds([under_attack(own[s])[column] - under_attack(other[s])[column] for s in shared])
    told = f"{change:+.1f} ± {half:.1f}"
    return f"{mean:.1f} ({f'**{told}**' if abs(change) > half else told})"


def time(own: Mapping[int, Result], other: Mapping[int, Result]) -> str:
    """Training time over that of what it is compared with."""
    shared = own.keys() & other.keys()
    ratios = [own[s].cost["training_seconds"] / other[s].cost["training_seconds"] for s in shared]
    return f"{np.exp(np.mean(np.log(ratios))):.1f} x" if ratios else "1"


def page(results: Found) -> str:
    """``docs/robust.md``."""
    parts = ["# What makes a classifier robust", "Written by `python bench/robust.py --render` from `bench/robust`."]
    if not results:
        return "\n\n".join([*parts, "No result file is there yet: `python bench/robust.py` makes them."]) + "\n"
    parts.append(
        f"Tuned on {TRAINED} rows. Accuracy in per cent on {ROWS} held-out rows as they are, with typing mistakes in 30 % of the words, and in capitals "
        "or small letters alone; and on 60 rows whose words an attack swaps until the answer is wrong. In brackets the "
        "difference in points from the technique above without the term, paired by seed, with its 95 % interval; bold "
        "where it leaves out 0; a line with one seed has none and decides nothing. Every term has its default weight, every "
        "technique the rate that was tuned for its baseline."
    )
    for task, base in WHERE:
        if own := table(results, task, base).splitlines()[2:]:
            parts += [f"## {arena.find(task).about.capitalize()} ({base})", "\n".join([*_head(), *own])]
    return "\n\n".join([*parts, provenance([r for several in results.values() for r in several.values()])]) + "\n"


def _head() -> list[str]:
    return table({}, *WHERE[0]).splitlines()


def provenance(results: Sequence[Result]) -> str:
    """Machine, versions and commits of the figures."""
    told = results[0].environment
    packages = ", ".join(f"{k} {told['packages'][k]}" for k in ("torch", "transformers"))
    commits = ", ".join(sorted({str(r.environment["commit"]) for r in results}))
    return f"{told['processor']}, {told['threads']} threads, Python {told['python']}, {packages}, commits {commits}."


def main() -> None:
    """Train, write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--only", help="a technique, a task, a base, or several of them with semicolons")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, and train nothing")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    parser.add_argument("--render", action="store_true", help="write the page")
    parser.add_argument("--check", action="store_true", help="check the page")
    given = parser.parse_args()
    if given.dry_run:
        print(dry_run(given.workers, given.only, given.seeds))
        return
    if given.check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page(found()):
            raise SystemExit(f"{PAGE.name} does not say what bench/robust says; run: python bench/robust.py --render")
        return
    if not given.render:
        train(given.workers, given.only, given.seeds)
    PAGE.write_text(page(found()), encoding="utf-8")


if __name__ == "__main__":
    main()
