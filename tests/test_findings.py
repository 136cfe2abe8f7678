"""Experiments that are findings: what is planted is found, and nothing is found where nothing is."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labs import Asked, PlantedLab, classified, written
from tunesmith.data.rows import read
from tunesmith.errors import InputError
from tunesmith.experiments import elasticity as elastic
from tunesmith.experiments import intruders, noise, scaling, selection
from tunesmith.experiments._figures import over_seeds, spread_ratio, times_over_seeds

# ---------------------------------------------------------------------- figures


def test_an_interval_over_seeds_is_the_t_interval() -> None:
    figure = over_seeds([1.0, 2.0, 3.0])
    assert figure.value == 2.0
    assert figure.high - figure.value == pytest.approx(4.3027 / math.sqrt(3), rel=1e-3)


def test_one_seed_has_no_interval() -> None:
    assert math.isnan(over_seeds([1.0]).low)


def test_ratios_are_averaged_as_logarithms() -> None:
    figure = times_over_seeds([math.log(2), math.log(8)])
    assert figure.value == pytest.approx(4) and figure.unit == "times"


def test_a_ratio_of_spreads_covers_the_true_one() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        ours, theirs = draw.normal(0, 2, 6).std(ddof=1), draw.normal(0, 1, 6).std(ddof=1)
        figure = spread_ratio(ours, theirs, (5, 5))
        hits += figure.low <= 2 <= figure.high
    assert 0.91 < hits / 300 < 0.99


# ---------------------------------------------------------------------- 307: noise of evaluation


def noisy(loss_noise: float, accuracy_noise: float, split_noise: float = 0.0) -> PlantedLab:
    """Scores that wander by seed, and by split where it changes."""

    def plan(recipe: Asked, seed: int) -> Any:
        key = [sum(map(ord, recipe.task + str(recipe.get("mask")))), seed]
        draw = np.random.default_rng(key)
        accuracy = 0.8 + accuracy_noise * draw.standard_normal()
        loss = 0.6 + loss_noise * draw.standard_normal()
        if (split := recipe.get("rows", "seed")) is not None:
            accuracy += split_noise * np.random.default_rng([7, split]).standard_normal()
        return classified(accuracy, 500, loss)

    return PlantedLab(plan)


def test_the_less_noisy_figure_has_more_signal_to_noise() -> None:
    figures = noise.evaluation_noise(noisy(0.003, 0.02)).figures
    assert figures["loss_over_accuracy"].low > 1
    assert noise.evaluation_noise(noisy(0.05, 0.005)).figures["loss_over_accuracy"].high < 1


def test_equal_noise_is_called_nothing() -> None:
    figure = noise.evaluation_noise(noisy(0.6 * 0.02, 0.8 * 0.02)).figures["loss_over_accuracy"]
    assert figure.low < 1 < figure.high


def test_what_a_new_split_adds_is_seen() -> None:
    figures = noise.evaluation_noise(noisy(0.01, 0.002, split_noise=0.08)).figures
    assert figures["whole_over_seeds"].low > 1
    assert figures["whole_over_told"].low > 1, "more than seeds and bootstrap foretell"
    assert figures["rows_over_seeds"].value > 1
    calm = noise.evaluation_noise(noisy(0.01, 0.02)).figures["whole_over_seeds"]
    assert calm.low < 1 < calm.high


def test_a_figure_that_no_seed_moves_is_left_out_and_said() -> None:
    outcome = noise.evaluation_noise(noisy(0.01, 0.0), tasks=["sentiment"], redrawn=["intent"])
    assert math.isnan(outcome.figures["loss_over_accuracy"].value)
    assert "sentiment" in outcome.notes[0]


# ---------------------------------------------------------------------- 216: scaling with rows and rank


def law(rank: float, rows: float, floor: float, jitter: float = 0.003) -> PlantedLab:
    def plan(recipe: Asked, seed: int) -> Any:
        r, d = recipe.get("adapter", "lora", "rank"), recipe.get("rows", "limit")
        wobble = math.exp(jitter * np.random.default_rng([seed, r, d]).standard_normal())
        return classified(0.5, log_loss=(8 * r**-rank * d**-rows + floor) * wobble)

    return PlantedLab(plan)


def test_planted_exponents_are_found() -> None:
    figures = scaling.data_and_rank(law(0.05, 0.5, 0.0), ranks=[2, 8, 32]).figures  # type: ignore[arg-type]
    assert figures["rank"].low < 0.05 < figures["rank"].high and figures["rank"].value == pytest.approx(0.05, abs=0.01)
    assert figures["rows"].value == pytest.approx(0.5, abs=0.01)
    assert figures["rows_over_rank"].low > 0.4
    assert figures["extrapolation"].high < 0, "the law foretells the largest size better than the last loss does"
    assert figures["rank_helps"].high < 0


def test_rows_that_do_not_help_give_no_slope() -> None:
    figures = scaling.data_and_rank(law(0.0, 0.0, 0.4)).figures  # type: ignore[arg-type]
    assert abs(figures["rows"].value) < 0.01 and abs(figures["rank"].value) < 0.01
    assert figures["extrapolation"].high > -0.01


def test_the_law_finds_its_floor() -> None:
    size = np.array([(r, d) for r in (2, 8, 32) for d in (125, 250, 500, 1000, 2000)], dtype=float)
    truth = scaling._Law(20.0, 0.1, 0.7, 0.2)
    found = scaling._fit(size, truth(size))
    assert (found.rank, found.rows, found.floor) == pytest.approx((0.1, 0.7, 0.2), abs=0.01)
    assert found(size) == pytest.approx(truth(size), rel=1e-3)
    assert scaling._fit(size, truth(size), by_rank=False).rank == pytest.approx(0, abs=1e-6)


def test_few_rows_get_more_passes() -> None:
    seen = {}

    def plan(recipe: Asked, seed: int) -> Any:
        seen[recipe.get("rows", "limit")] = recipe.get("budget", "epochs")
        return classified(0.5, log_loss=1.0 + 0.01 * seed)

    scaling.data_and_rank(PlantedLab(plan))  # type: ignore[arg-type]
    assert seen == {125: 96 * 16 / 125, 250: 96 * 16 / 250, 500: 96 * 16 / 500, 1000: 3.0}


# ---------------------------------------------------------------------- 151: selection


class Encoded:
    """Encoded rows of a table of texts with a class each."""

    def __init__(self, table: Any, labels: list[int]):
        self.rows, self._table, self._labels = np.arange(len(table)), table, labels

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Any) -> list[dict[str, Any]]:
        return [{"labels": self._labels[int(i)]} for i in places]

    def original(self, place: int) -> dict[str, Any]:
        return self._table[int(place)]


class SelectionLab(PlantedLab):
    """A pool of 60 texts, text i has i + 1 letters and lies at i on a line; the rows given are remembered."""

    def __init__(self, worth: Any):
        super().__init__(lambda recipe, seed: classified(worth(recipe.get("chosen"), seed), tokens=100))
        table = read([{"text": "x" * (i + 1), "label": str(i % 2)} for i in range(60)])
        self.given_rows: list[list[int]] = []
        self._prepared = SimpleNamespace(
            encoded={"train": Encoded(table, [i % 2 for i in range(60)])},
            parted=SimpleNamespace(tables={"train": table}),
            task=SimpleNamespace(columns={"text": "text"}),
        )

    def prepared(self, recipe: Asked) -> Any:
        return self._prepared

    def features(self, recipe: Asked) -> np.ndarray:
        return np.stack([np.arange(60), np.zeros(60)], axis=1)

    def given(self, recipe: Asked, *, train: Any, test: Any = None) -> Asked:
        chosen = [len(train[i]["text"]) - 1 for i in range(len(train))]
        self.given_rows.append(chosen)
        return recipe.updated({"chosen": tuple(chosen)})


RULES = ["longest", "shortest", "central", "outlying", "diverse"]


def chosen_by(rule: str) -> list[int]:
    lab = SelectionLab(lambda chosen, seed: 0.5)
    selection.selection_rules(lab, tasks={"intent": [rule]}, keep=10)  # type: ignore[arg-type]
    return lab.given_rows[-1]


def test_rules_choose_what_they_say() -> None:
    assert chosen_by("longest") == list(range(50, 60))
    assert chosen_by("shortest") == list(range(10))
    assert all(20 <= i < 40 for i in chosen_by("central"))
    assert all(i < 10 or i >= 50 for i in chosen_by("outlying"))
    diverse = chosen_by("diverse")
    assert {0, 1, 58, 59} <= set(diverse) and max(np.diff(diverse)) < 20, "spread over the whole line"


def test_each_class_keeps_its_share_and_each_seed_draws_its_own() -> None:
    lab = SelectionLab(lambda chosen, seed: 0.5)
    selection.selection_rules(lab, tasks={"intent": ["longest"]}, keep=10)  # type: ignore[arg-type]
    assert all(len(rows) == 10 and sum(i % 2 for i in rows) == 5 for rows in lab.given_rows)
    assert len({tuple(rows) for rows in lab.given_rows[:5]}) == 5


def test_a_rule_that_helps_is_found_and_one_that_does_not_is_not() -> None:
    def worth(chosen: tuple[int, ...], seed: int) -> float:
        return 0.6 + 0.005 * (seed % 3) + (0.3 if min(chosen) >= 50 else 0.0)

    lab = SelectionLab(worth)
    figures = selection.selection_rules(lab, tasks={"intent": RULES}, keep=10).figures  # type: ignore[arg-type]
    assert figures["intent.longest"].low > 0.1 and figures["intent.longest"].unit == "points"
    for rule in RULES[1:]:
        assert figures[f"intent.{rule}"].low <= 0 <= figures[f"intent.{rule}"].high
    assert figures["intent.diversity"].value == 0 and figures["intent.longest.tokens"].value == 1


def test_an_unknown_rule_is_named() -> None:
    lab = SelectionLab(lambda chosen, seed: 0.5)
    with pytest.raises(InputError, match="longest"):
        selection.selection_rules(lab, tasks={"intent": ["longst"]})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- 128: intruder dimensions


def test_a_planted_direction_is_an_intruder_and_a_small_change_is_none() -> None:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(48, 32, generator=draw)
    small = base + 0.01 * torch.randn(48, 32, generator=draw)
    assert (intruders._nearest(base, small, 10) > 0.9).all()
    new = torch.randn(48, 1, generator=draw) @ torch.randn(1, 32, generator=draw)
    nearest = intruders._nearest(base, base + 3 * new, 10)
    assert nearest[0] < 0.9 and nearest[0] == nearest.min(), "the strongest direction is the new one"
    assert intruders._nearest(base, base * 2, 10) == pytest.approx(np.ones(10))


def test_counts_of_techniques_are_compared_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(lab: Any, recipe: Asked, seed: int, top: int, threshold: float) -> tuple[float, float, float]:
        rank = recipe.get("adapter", "lora", "rank")
        return (0.0 if rank is None else 3.0 / rank + 0.01 * seed), 0.1, 0.8 + 0.01 * seed

    monkeypatch.setattr(intruders, "_look", look)
    lab = PlantedLab(lambda recipe, seed: None, range(3))
    figures = intruders.intruder_dimensions(lab).figures  # type: ignore[arg-type]
    assert (figures["full.intruders"].low, figures["full.intruders"].high) == (0, 0)
    assert figures["low_rank.intruders"].low > 2.5 and figures["high_rank.intruders"].low > 2.5
    assert figures["low_rank.novelty"].high == 0


# ---------------------------------------------------------------------- 196: elasticity


class TaughtLab(PlantedLab):
    """A model whose leaning is ``taught(rows) - lost(rows, opposite rows)``; the base leans by 0.5."""

    def __init__(self, taught: Any, lost: Any):
        super().__init__(self._plan, range(3))
        self.taught, self.lost = taught, lost
        table = read([{"prompt": f"p{i}", "answer": ("no", "yes")[i % 2]} for i in range(400)])
        indices = {"train": np.arange(300), "test": np.arange(300, 400)}
        self._prepared = SimpleNamespace(
            task=SimpleNamespace(columns={"prompt": "prompt", "completion": "answer"}),
            parted=SimpleNamespace(tables=dict.fromkeys(indices, table), indices=indices),
        )
        self.trained: dict[str, list[Any]] = {}

    def _plan(self, recipe: Asked, seed: int) -> Any:
        base, train, test = recipe.get("base"), recipe.get("train"), recipe.get("test")
        leaning = 0.5
        if base is not None:
            rows, own = (int(v) for v in base.split("/")[-2].split("-"))
            leaning += self.taught(rows) + 0.01 * own - (0.0 if seed == -1 else self.lost(rows, len(train)))
        half = len(test) // 2
        return written([1.0] * half + [1.0 + leaning] * half)

    def prepared(self, recipe: Asked) -> Any:
        return self._prepared

    def given(self, recipe: Asked, *, train: Any, test: Any = None) -> Asked:
        assert not {r["prompt"] for r in train} & {r["prompt"] for r in test}
        return recipe.updated({"train": train, "test": test})

    def tuned(self, recipe: Asked) -> Any:
        from labs import folder_of

        name = f"{len(recipe.get('train'))}-{recipe.seed}"
        self.trained[name] = recipe.get("train")
        return folder_of(name)


def test_a_model_that_was_taught_more_rebounds_faster() -> None:
    lab = TaughtLab(lambda n: n / 20, lambda n, m: n / 20 * (0.6 if m == 8 else 0.7))
    figures = elastic.elasticity(lab).figures  # type: ignore[arg-type]
    assert figures["taught"].value == pytest.approx(96 / 20 + 0.01)
    assert figures["rebound"].low > 0 and figures["rebound"].value == pytest.approx(0.6 * (96 - 32) / 20)
    assert figures["rebound_share"].low < 0.01, "the share that is lost is the same"
    assert figures["flattening"].low > 0
    assert figures["beyond"].value == pytest.approx(0.3 * 96 / 20 + 0.01)


def test_equal_loss_is_no_rebound() -> None:
    figures = elastic.elasticity(TaughtLab(lambda n: 3.0, lambda n, m: m / 10)).figures  # type: ignore[arg-type]
    assert figures["rebound"].value == pytest.approx(0) and figures["rebound"].high < 1e-9
    assert figures["flattening"].value == pytest.approx(0)


def test_opposite_rows_are_other_prompts_with_the_wrong_completion() -> None:
    lab = TaughtLab(lambda n: 1.0, lambda n, m: 0.1)
    stock = elastic._Stock(lab, lab.recipe("spam", {}), 10)  # type: ignore[arg-type]
    right, wrong = stock.rows(96, 0, flip=False), stock.rows(24, 0, flip=True)
    assert all((int(r["prompt"][1:]) % 2 == 1) == (r["answer"] == "yes") for r in right)
    assert all((int(r["prompt"][1:]) % 2 == 1) == (r["answer"] == "no") for r in wrong)
    assert not {r["prompt"] for r in right} & {r["prompt"] for r in wrong}
    assert [r["answer"] for r in right].count("yes") == 48


def test_a_task_of_more_completions_is_refused() -> None:
    lab = TaughtLab(lambda n: 1.0, lambda n, m: 0.1)
    lab._prepared.task.columns["completion"] = "prompt"
    with pytest.raises(InputError, match="different completions"):
        elastic.elasticity(lab)  # type: ignore[arg-type]
