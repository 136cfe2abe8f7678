"""Make the page of evidence, its plots and the README's table of claims; nothing in them is typed by hand.

    python bench/evidence.py [--check]

It reads files only: the claims, their results, and the store of results; it trains nothing. ``--check`` changes nothing
and fails when a page does not say what the files say, or a plot was drawn from other figures.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from render import ROOT, between

from tunesmith import recipe as recipes
from tunesmith.claims import plots
from tunesmith.claims.claim import Claim, every
from tunesmith.claims.evidence import Results, evidence_page, readme_block
from tunesmith.claims.settle import stored
from tunesmith.comparing import arena
from tunesmith.comparing.comparison import Comparison
from tunesmith.comparing.identity import codes
from tunesmith.comparing.result import Result
from tunesmith.errors import InputError

CLAIMS = ROOT / "claims"
PAGE = ROOT / "docs" / "evidence.md"
PLOTS = ROOT / "docs" / "evidence"
SEEDS = range(5)

OPEN = ("save", "revision", "task", "seed")
"""Options that the stored recipe fills in, or that stand elsewhere."""


def told(value: Any) -> Any:
    """Without what is off, so that an option that came later does not make an older result another one."""
    if isinstance(value, Mapping):
        kept = {k: told(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v is not None and v is not False and v != [] and v != {}}
    return [told(v) for v in value] if isinstance(value, list | tuple) else value


def options(recipe: Mapping[str, Any]) -> str:
    """What a result and the arena's recipe have to share: not how a step was cut, which decides no figure."""
    shared = {k: v for k, v in recipe.items() if k not in OPEN}
    return json.dumps(told({**shared, "batch": {"rows": recipe["batch"]["rows"]}}), sort_keys=True)


def today(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored recipe with the options that parts have got since; as it is where a part is gone."""
    try:
        return recipes.make(recipe).to_dict()
    except InputError:
        return recipe


def kept(store: Path) -> dict[str, list[Result]]:
    """Every result of the store by its options; those without tuning by their rows and base alone."""
    found: dict[str, list[Result]] = defaultdict(list)
    for path in sorted(store.glob("??/*.json")):
        result = Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
        key = options(today(result.recipe)) if result.identity["what"] == "tuned" else untuned(result.recipe)
        found[key].append(result)
    return found


def untuned(recipe: Mapping[str, Any]) -> str:
    """What results without tuning share with the recipes that they are compared with."""
    return "before " + json.dumps(told({k: recipe[k] for k in ("base", "rows", "length")}), sort_keys=True)


def comparisons(store: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every arena task of which the store has all baselines with all seeds, and one result without tuning."""
    found = kept(store)
    for task in arena.TASKS.values():
        wanted = {n: task.recipe({**arena.tuned_rate(task.family, t), **t}) for n, t in arena.TECHNIQUES.items()}
        results = {n: seeds(found[options(r.to_dict())], codes(r)) for n, r in wanted.items()}
        before = found[untuned(next(iter(wanted.values())).to_dict())]
        if before and all(results.values()):
            yield task.name, Comparison(results, before[0], list(SEEDS)).to_dict()


def seeds(results: list[Result], code: Mapping[str, str]) -> list[Result]:
    """One result a seed, all made by the same code of the parts, today's where it is there; none where a seed lacks."""
    groups: dict[str, dict[int, Result]] = defaultdict(dict)
    for result in results:
        groups[json.dumps(result.identity["parts"], sort_keys=True)][result.recipe["seed"]] = result
    whole = {parts: group for parts, group in groups.items() if set(SEEDS) <= set(group)}
    chosen = whole.get(json.dumps(code, sort_keys=True)) or max(
        whole.values(), key=lambda g: str(g[0].environment["date"]), default={}
    )
    return [chosen[seed] for seed in SEEDS] if chosen else []


def outdated(claims: Mapping[str, Claim], results: Results) -> Iterator[Path]:
    """Plots that are missing, or were drawn from other figures."""
    for stem, claim in claims.items():
        result, path = results[stem], PLOTS / f"{stem}.svg"
        if result is not None and result["figures"]:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            if f'data-drawn-from="{plots.drawn_from(claim, result)}"' not in text:
                yield path


def main() -> None:
    """Write page, plots and table, or check them."""
    claims = every(CLAIMS) if CLAIMS.is_dir() else {}
    results = {stem: stored(CLAIMS, claim) for stem, claim in claims.items()}
    readme = ROOT / "README.md"
    pages = {
        PAGE: evidence_page(dict(comparisons(CLAIMS / "store")), arena.rates(), claims, results),
        readme: between(readme.read_text(encoding="utf-8"), "claims", readme_block(claims, results)),
    }
    missing = list(outdated(claims, results))
    if "--check" in sys.argv:
        wrong = [p for p, text in pages.items() if not p.exists() or p.read_text(encoding="utf-8") != text] + missing
        if wrong:
            raise SystemExit(f"{', '.join(p.name for p in wrong)} not as the files say; run: make figures")
        return
    PLOTS.mkdir(exist_ok=True)
    for path in missing:
        plots.write(claims[path.stem], results[path.stem] or {}, path)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
