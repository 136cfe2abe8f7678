from __future__ import annotations

from typing import Any

from . import Figure, Lab, Outcome
from .paired import paired


def rivals(
    lab: Lab,
    *,
    technique: dict[str, Any] = {},  # noqa: B006
    others: dict[str, Any] = {},  # noqa: B006
    tasks: list[str] = ["intent", "sentiment"],  # noqa: B006
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """A technique against several others, each time paired by seed and by row as in ``paired``.

    Figures: for each other one all that ``paired`` gives, with its name in front: ``NAME.difference`` is above 0 where the
    technique is better, ``NAME.trainable`` the technique's share of the other's trained weights, and so on.

    Source: Bouthillier et al. 2021, arXiv:2103.03098 (paired comparison over seeds).

    Settings:
        technique: options of a recipe.
        others: name -> options of a recipe.
        tasks: names of arena tasks.
        options: of all recipes, e.g. ``{rows.limit: 128}``.
    """
    figures: dict[str, Figure] = {}
    series: dict[str, Any] = {}
    for name, other in others.items():
        found = paired(lab, technique=technique, baseline=other, tasks=tasks, options=options)
        figures |= {f"{name}.{figure}": value for figure, value in found.figures.items()}
        series |= {"technique": found.series["technique"], name: found.series["baseline"]}
    return Outcome(figures, series, (f"task: {', '.join(tasks)}", "score"))
