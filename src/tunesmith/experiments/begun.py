from __future__ import annotations

from typing import Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import difference, over_seeds
from ._summaries import mean_of


def begun(
    lab: Lab,
    *,
    adapter: str = "lora",
    source: str = "sentiment",
    targets: list[str] = ["intent", "topic"],  # noqa: B006
    shots: list[int] = [1, 4, 16],  # noqa: B006
    before: dict[str, Any] = {},  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Adapters that were trained on another task first, against new ones, on few rows of each class.

    Each seed has its own first training, its own draw of rows and its own new head.

    Figures: ``shotsN.difference``, how much better it is to begin with tuned adapters, mean over the targets; ``shrinks``, that
    difference at the fewest rows less at the most, over seeds.

    Source: Ding et al. 2021, arXiv:2103.10385 (few rows, drawn anew for each seed); Bouthillier et al. 2021, arXiv:2103.03098.

    Settings:
        adapter: name of an adapter.
        source: arena task on which it is trained first.
        targets: arena tasks with classes.
        shots: rows of each class, ascending.
        before: options of the first training, e.g. ``{rows.limit: 4000}``.
        options: of the trainings on few rows, e.g. ``{budget.steps: 60}``.
    """
    figures: dict[str, Figure] = {}
    gains: dict[int, np.ndarray] = {}
    folders = {s: lab.tuned(lab.recipe(source, {"adapter": adapter}, **before).updated({"seed": s})) for s in lab.seeds}
    for count in shots:
        found, values = [], []
        for task in targets:
            sides = []
            for change in ("", "tuned"):
                tuned = {s: {f"adapter.{adapter}.tuned": str(folders[s])} if change else {} for s in lab.seeds}
                recipes = [
                    lab.recipe(task, {"adapter": adapter},
                               **{"rows.shots": count, "rows.seed": s, **options, **tuned[s]})
                    for s in lab.seeds
                ]  # fmt: skip
                sides.append(lab.each(recipes))
            fresh, started = sides
            found.append(difference(started, fresh, f"{task}, {count} rows a class"))
            values.append([a.score - b.score for a, b in zip(started, fresh, strict=True)])
        figures[f"shots{count}.difference"] = mean_of(found, f"{count} rows a class, mean over the tasks")
        gains[count] = np.mean(values, axis=0)
    figures["shrinks"] = over_seeds(
        gains[shots[0]] - gains[shots[-1]], "points", f"gain at {shots[0]} less at {shots[-1]}"
    )
    points = [(n, figures[f"shots{n}.difference"]) for n in shots]
    series = {"gain": [[float(n), f.value, f.low, f.high] for n, f in points]}
    return Outcome(figures, series, ("rows of each class", "difference to new adapters"))
