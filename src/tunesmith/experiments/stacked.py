from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from . import Figure, Lab, Outcome
from ._figures import over_seeds


def stacked(
    lab: Lab,
    *,
    part: dict[str, Any] = {"adapter": "bottleneck"},  # noqa: B006
    base: str = "splade-tiny",
    texts: int = 1000,
    test: int = 1000,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """A task above one domain's module, used above another's: film reviews and newspaper editorials for two languages.

    For each seed a module of each domain learns masked words of its plain text, and a module of the task learns to tell good
    film reviews from bad above the films' module, which stays. Then, on editorials whose sign of the mean rating is the label:

    Figures: ``exchanged``, accuracy with the editorials' module in its place; ``stayed``, with the films'; ``full``, of full
    fine-tuning on the same film reviews; ``exchanged.stayed`` and ``exchanged.full``, differences over seeds; ``home``, the
    accuracy on held-out film reviews as trained.

    Source: Litschko, Vulić and Glavaš 2022, arXiv:2204.02292; sparse differences: Ansell et al. 2022, arXiv:2110.07560, eq. 2.

    Settings:
        part: one adapter without settings, or one mask that chooses entries, whose differences add up.
        base: a base with a masked language model's head.
        texts: plain texts of each domain.
        test: labelled editorials.
        options: of all recipes, e.g. ``{budget.epochs: 2}``.
    """
    from ..run.api import open_run

    kept, asked = _rows(texts, test)
    task = lab.recipe("sentiment", {**part, "base": base}, **options)
    full = lab.recipe("sentiment", {"mask": "everything"}, base=base, **options)
    accuracies: dict[str, list[float]] = {"exchanged": [], "stayed": [], "full": [], "home": []}
    for seed in lab.seeds:
        films, other = (
            str(lab.tuned(lab.given(task.updated({"task": "lm", "seed": seed}), train=rows[:-50], test=rows[-50:])))
            for rows in kept
        )
        above = lab.tuned(task.updated({"seed": seed, **_above(part, films)}))
        accuracies["exchanged"].append(_accuracy(open_run(above, exchange={films: other}).evaluate(asked)))
        accuracies["stayed"].append(_accuracy(open_run(above).evaluate(asked)))
        accuracies["full"].append(_accuracy(open_run(lab.tuned(full.updated({"seed": seed}))).evaluate(asked)))
        accuracies["home"].append(_accuracy(open_run(above).results))
    figures = {name: over_seeds(values, "points", f"accuracy, {name}") for name, values in accuracies.items()}
    for name in ("stayed", "full"):
        pairs = zip(accuracies["exchanged"], accuracies[name], strict=True)
        figures[f"exchanged.{name}"] = over_seeds([a - b for a, b in pairs], "points", f"exchanged less {name}")
    series = {name: [[n, *_ends(figures[name])]] for n, name in enumerate(accuracies)}
    return Outcome(figures, series, (", ".join(accuracies), "accuracy"))


def _ends(figure: Figure) -> tuple[float, float, float]:
    return figure.value, figure.low, figure.high


def _accuracy(report: dict[str, Any]) -> float:
    return float(report["tuned"]["accuracy"]["value"])


def _above(part: dict[str, Any], below: str | Path) -> dict[str, Any]:
    """Options of a task that stands on another run: its difference, or its adapter, frozen, below a new one."""
    if "mask" in part:
        return {"upon": [str(below)]}
    return {"adapter": [{part["adapter"]: {"tuned": str(below), "frozen": True}}, part["adapter"]]}


def _rows(texts: int, test: int) -> tuple[list[list[dict[str, str]]], list[dict[str, str]]]:
    """Plain texts of both domains, and labelled editorials that are none of them."""
    from ..data.rows import read

    films, editorials = read("packaged:movie-ratings"), read("packaged:nyt-editorials")
    draw = random.Random(0)
    mine = [{"text": films[i]["text"]} for i in draw.sample(range(len(films)), texts)]
    rated = [editorials[i] for i in draw.sample(range(len(editorials)), len(editorials))]
    clear = [r for r in rated[texts:] if abs(r["score"]) > 0.5]
    told = [{"text": r["text"], "label": "fresh" if r["score"] > 0 else "rotten"} for r in clear]
    return [mine, [{"text": r["text"]} for r in rated[:texts]]], told[:test]
