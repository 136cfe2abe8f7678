from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import Lab, Outcome
from ._figures import over_seeds


def data_and_rank(
    lab: Lab,
    *,
    task: str = "intent",
    rows: list[int] = [125, 250, 500, 1000],  # noqa: B006
    ranks: list[int] = [2, 32],  # noqa: B006
    least_steps: int = 96,
    options: dict[str, Any] = {},  # noqa: B006
) -> Outcome:
    """How the held-out loss falls with training rows and with LoRA's rank, and whether one law foretells it.

    The law is ``L(R, D) = A R^-a D^-b + E`` for rank R and D rows. Every seed gives its own fit.

    Figures: ``rows`` and ``rank``, slopes of the log loss (how many per cent it falls where rows or rank grow by one per
    cent), together by least squares; ``rows_over_rank``, their difference; ``rows_exponent`` and ``rank_exponent``, b
    and a of the law; ``extrapolation``, the law's error at the most rows when fitted on fewer, less the error of
    expecting the loss at the second most (log loss; below 0 the law is nearer); ``rank_helps``, that of the law less
    that of the law without rank.

    Source: Zhang et al. 2024, arXiv:2402.17193, eq. 1.

    Settings:
        task: name of an arena task.
        rows: numbers of training rows.
        ranks: ranks of LoRA.
        least_steps: few rows get more passes, so that they are not few steps too.
        options: of all recipes, e.g. ``{length.max: 32}``.
    """
    grid = [(r, d) for r in ranks for d in rows]
    recipes = []
    for rank, many in grid:
        plain = lab.recipe(task, {"adapter": "lora"}, **options)
        epochs = max(plain.budget.epochs or 0.0, least_steps * plain.batch.rows / many)
        changes = {**options, "adapter.lora.rank": rank, "rows.limit": many, "budget.epochs": epochs}
        recipes.append(lab.recipe(task, {"adapter": "lora"}, **changes))
    found = lab.results(*recipes)
    name = "log_loss" if "log_loss" in found[0][0].scores else "loss"
    losses = np.array([[r.scores[name] for r in results] for results in found])
    size = np.array(grid, dtype=float)
    slopes = [_slopes(size, loss) for loss in losses.T]
    laws = [_fit(size, loss) for loss in losses.T]
    errors = [_beyond(size, loss) for loss in losses.T]
    figures = {
        "rank": over_seeds([s[0] for s in slopes], "", "slope of the log loss over log rank"),
        "rows": over_seeds([s[1] for s in slopes], "", "slope of the log loss over log rows"),
        "rows_over_rank": over_seeds([s[1] - s[0] for s in slopes], "", "slope of rows less slope of rank"),
        "rank_exponent": over_seeds([law.rank for law in laws], "", "exponent of rank in the law"),
        "rows_exponent": over_seeds([law.rows for law in laws], "", "exponent of rows in the law"),
        "extrapolation": over_seeds(
            [e[0] - e[2] for e in errors], "nats", "error of the law less that of the last loss"
        ),
        "rank_helps": over_seeds([e[0] - e[1] for e in errors], "nats", "error of the law less that without rank"),
    }
    series = {
        f"rank {rank}": [[d, float(losses[i].mean())] for i, (r, d) in enumerate(grid) if r == rank] for rank in ranks
    }
    return Outcome(figures, series, ("training rows", f"held-out loss, {task}"))


@dataclass(frozen=True)
class _Law:
    """``scale R^-rank D^-rows + floor``."""

    scale: float
    rank: float
    rows: float
    floor: float

    def __call__(self, size: np.ndarray) -> np.ndarray:
        """The loss at each (rank, rows) of ``size``, shape (n, 2)."""
        return np.asarray(self.scale * size[:, 0] ** -self.rank * size[:, 1] ** -self.rows + self.floor)


def _fit(size: np.ndarray, loss: np.ndarray, *, by_rank: bool = True) -> _Law:
    """The law nearest to these losses, by least squares of their logarithms, robust to single points as in the paper.

    ``size`` is (n, 2), rank and rows; ``loss`` is (n,); ``by_rank=False`` holds the exponent of rank at 0.
    """
    from scipy.optimize import least_squares

    centre = np.exp(np.log(size).mean(0))
    reach = 2.0 if by_rank else 1e-9

    def residual(p: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(_Law(np.exp(p[0]), p[1], p[2], p[3])(size / centre)) - np.log(loss))

    bounds = ([-20.0, -reach, 0.0, 0.0], [20.0, reach, 4.0, float(loss.min())])
    starts = [[np.log(loss.mean()), 0.0, b, share * loss.min()] for b in (0.2, 0.8) for share in (0.05, 0.6)]
    fits = [least_squares(residual, s, bounds=bounds, loss="soft_l1", f_scale=0.05, max_nfev=200) for s in starts]
    scale, rank, rows, floor = min(fits, key=lambda f: float(f.cost)).x
    return _Law(float(np.exp(scale) * centre[0] ** rank * centre[1] ** rows), float(rank), float(rows), float(floor))


def _slopes(size: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """By how many per cent the loss falls with one per cent more rank, and rows."""
    terms = np.column_stack([np.log(size), np.ones(len(size))])
    rank, rows, _ = np.linalg.lstsq(terms, np.log(loss), rcond=None)[0]
    return -float(rank), -float(rows)


def _beyond(size: np.ndarray, loss: np.ndarray) -> tuple[float, float, float]:
    """Errors at the most rows of the law, the law without rank, and the loss at the second most, all from fewer rows."""
    most = size[:, 1] == size[:, 1].max()
    fewer, last = ~most, size[:, 1] == np.unique(size[:, 1])[-2]
    truth = np.log(loss[most])
    joint, alone = (_fit(size[fewer], loss[fewer], by_rank=b)(size[most]) for b in (True, False))
    return tuple(float(np.abs(np.log(said) - truth).mean()) for said in (joint, alone, loss[last]))  # type: ignore[return-value]
