from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Figure, Lab, Outcome
from ._figures import over_seeds

if TYPE_CHECKING:
    from torch import Tensor


def intruder_dimensions(
    lab: Lab,
    *,
    task: str = "intent",
    ranks: list[int] = [1, 8, 64],  # noqa: B006
    scale: float = 2.0,
    top: int = 10,
    threshold: float = 0.5,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """Singular vectors that tuning brings in and the base has not: LoRA of several ranks, and full fine-tuning.

    An intruder is one of the ``top`` left singular vectors of a tuned matrix whose cosine with each left singular vector
    of the base's matrix is below the threshold. Counted in every matrix inside the layers, adapters folded in.

    Figures, of each technique (``full``, ``rank1``, ...): ``NAME.intruders``, mean number a matrix; ``NAME.novelty``, one
    less the largest cosine, mean over the top vectors and matrices; ``NAME.score``. Differences, paired by seed:
    ``low_rank.intruders`` and ``low_rank.novelty``, lowest rank less full; ``high_rank.intruders``, lowest rank less
    highest.

    Source: Shuttleworth et al. 2024, arXiv:2410.21228, sec. 3.

    Settings:
        task: name of an arena task.
        ranks: ranks of LoRA, ascending.
        scale: alpha over rank, the same for each rank (the paper finds 2 to bring in the fewest).
        top: singular vectors that are looked at.
        threshold: cosine below which a vector is new.
        options: of all recipes, e.g. ``{budget.steps: 50}``.
    """
    from ..comparing import arena

    recipes = {"full": lab.recipe(task, arena.TECHNIQUES["full"], **options)}
    for rank in ranks:
        changes = {**options, "adapter.lora.rank": rank, "adapter.lora.alpha": scale * rank}
        recipes[f"rank{rank}"] = lab.recipe(task, {"adapter": "lora"}, **changes)
    found = {name: [_look(lab, r, s, top, threshold) for s in lab.seeds] for name, r in recipes.items()}
    figures: dict[str, Figure] = {}
    for name, looks in found.items():
        about = (f"of the top {top}, a matrix", "1 - largest cosine with the base", f"score, {task}")
        for place, (kind, what) in enumerate(zip(("intruders", "novelty", "score"), about, strict=True)):
            figures[f"{name}.{kind}"] = over_seeds([look[place] for look in looks], "", what)
    low, high = found[f"rank{ranks[0]}"], found[f"rank{ranks[-1]}"]
    for place, kind in enumerate(("intruders", "novelty")):
        values = [a[place] - b[place] for a, b in zip(low, found["full"], strict=True)]
        figures[f"low_rank.{kind}"] = over_seeds(values, "", f"rank {ranks[0]} less full")
    less = [a[0] - b[0] for a, b in zip(low, high, strict=True)]
    figures["high_rank.intruders"] = over_seeds(less, "", f"rank {ranks[0]} less rank {ranks[-1]}")
    series = {"intruders": [[n, *_ends(figures[f"{name}.intruders"])] for n, name in enumerate(found)]}
    return Outcome(figures, series, (", ".join(found), f"intruders among the top {top}, a matrix"))


def _ends(figure: Figure) -> tuple[float, float, float]:
    return figure.value, figure.low, figure.high


def _look(lab: Lab, recipe: Any, seed: int, top: int, threshold: float) -> tuple[float, float, float]:
    """Of one training: intruders a matrix, novelty, and its score."""
    import json

    folder = lab.tuned(recipe.updated({"seed": seed}))
    nearest = np.array([_nearest(base, tuned, top) for base, tuned in _matrices(folder)])
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    score = float(report["tuned"][report["metric"]]["value"])
    return float((nearest < threshold).sum(1).mean()), float(1 - nearest.mean()), score


def _matrices(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Every matrix inside the layers, the base's and the tuned one, shape (outputs, inputs)."""
    from ..host import Host
    from ..models.bases import load
    from ..run.api import open_run

    run = open_run(folder)
    if run.recipe.adapter:
        run.host.fold()
    base = Host(load(run.base, run.task.head(run.base.architecture), labels=run.task.labels, seed=0).model)
    before = {s.path: s.weight.detach() for s in base.anatomy.select(["linear"])}
    return [(before[s.path], s.weight.detach().cpu()) for s in run.host.anatomy.select(["linear"])]


def _nearest(base: Tensor, tuned: Tensor, top: int) -> np.ndarray:
    """Largest absolute cosine of each of the top left singular vectors with the base's, the largest value first."""
    import torch

    before, _, _ = torch.linalg.svd(base.double(), full_matrices=False)
    after, _, _ = torch.linalg.svd(tuned.double(), full_matrices=False)
    return np.asarray((after[:, :top].T @ before).abs().amax(1).numpy())
