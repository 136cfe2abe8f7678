"""Experiments that many claims share: what is planted is found, and the recipes are those that were asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labs import Asked, PlantedLab, classified, written
from tunesmith.claims import claim as claims
from tunesmith.comparing import arena
from tunesmith.errors import InputError
from tunesmith.experiments._held import Held
from tunesmith.experiments.accounting import accounting
from tunesmith.experiments.aside import _read, aside
from tunesmith.experiments.begun import begun
from tunesmith.experiments.context import STILL, examples_in_context
from tunesmith.experiments.over_rates import over_rates
from tunesmith.experiments.rivals import rivals
from tunesmith.experiments.space import SEARCH_SEED, _draw, searched_configuration
from tunesmith.experiments.stacked import stacked
from tunesmith.experiments.step_costs import step_costs
from tunesmith.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]


def named(recipe: Asked) -> str:
    """The adapter or the mask of what was asked."""
    value = recipe.get("adapter") or recipe.get("mask")
    return next(iter(value)) if isinstance(value, dict) else str(value)


def scored(accuracy: float, seed: int = 0, **more: Any) -> Any:
    result = classified(accuracy + 0.01 * (seed % 3), rows=400)
    result.cost = {"tokens": 1000, "trainable": 100, "peak_bytes": 10.0, **more.pop("cost", {})}
    for name, value in more.items():
        setattr(result, name, value)
    return result


# ---------------------------------------------------------------------- rivals


def test_a_technique_is_held_against_each_rival() -> None:
    worth = {"lora": 0.8, "head": 0.6, "everything": 0.9}
    lab: Any = PlantedLab(
        lambda recipe, seed: scored(worth[named(recipe)], seed, cost={"trainable": worth[named(recipe)]})
    )
    others = {"poor": {"mask": "head"}, "good": {"mask": "everything"}}
    found = rivals(lab, technique={"adapter": "lora"}, others=others, tasks=["intent"])
    assert found.figures["poor.difference"].low > 0.15 and found.figures["good.difference"].high < -0.05
    assert found.figures["poor.trainable"].value == pytest.approx(0.8 / 0.6)
    assert set(found.series) == {"technique", "poor", "good"}


def test_losses_are_in_nats_and_a_mean_over_unlike_metrics_has_no_unit() -> None:
    def plan(recipe: Asked, seed: int) -> Any:
        better = 0.2 * (named(recipe) == "lora")
        made = written(list(2.0 - better + 0.01 * np.arange(40) + 0.005 * seed))
        made.cost = {}
        return scored(0.5 + better, seed) if recipe.task == "intent" else made

    lab: Any = PlantedLab(plan)
    others = {"head": {"mask": "head"}}
    both = rivals(lab, technique={"adapter": "lora"}, others=others, tasks=["spam", "intent"]).figures
    assert [both[f"head.{n}difference"].unit for n in ("spam.", "intent.", "")] == ["nats", "points", ""]
    assert both["head.spam.difference"].value == pytest.approx(0.2)
    alone = rivals(lab, technique={"adapter": "lora"}, others=others, tasks=["spam"]).figures
    assert alone["head.difference"].unit == "nats"


@pytest.mark.parametrize("precision,shown", [("float32", True), ("bfloat16", False)])
def test_memory_and_time_of_two_machines_are_not_compared(precision: str, shown: bool) -> None:
    def planted(recipe: Asked, seed: int) -> Any:
        told = {"processor": "a", "precision": "float32" if named(recipe) == "lora" else precision}
        return scored(0.8, seed, environment=told, cost={"training_seconds": 5.0, "flops": 7})

    lab: Any = PlantedLab(planted)
    found = rivals(
        lab, technique={"adapter": "lora"}, others={"full": {"mask": "everything"}}, tasks=["intent"]
    ).figures
    assert {"full.trainable", "full.flops"} <= found.keys()
    assert {name in found for name in ("full.memory", "full.time")} == {shown}


# ---------------------------------------------------------------------- a figure aside


def test_a_figure_aside_is_compared_with_the_score_beside_it() -> None:
    def plan(recipe: Asked, seed: int) -> Any:
        ours = named(recipe) == "lora"
        return scored(0.8 if ours else 0.7, seed, cost={"peak_bytes": (5.0 if ours else 10.0) + 0.1 * seed})

    lab: Any = PlantedLab(plan, range(3))
    figures = aside(lab, technique={"adapter": "lora"}, baseline={"mask": "everything"}).figures
    assert figures["score"].value == pytest.approx(0.1) and figures["score"].low > 0
    assert figures["change"].value == pytest.approx(-5) and figures["change"].high < -4.9
    assert len(figures["change"].values) == 6 and 0.5 < figures["times"].value < 0.52


def test_what_an_audit_found_and_a_metric_are_figures() -> None:
    found = {"findings": [{"audit": "forgetting", "figure": "loss", "change": {"value": 0.25}}]}
    result = scored(0.7, audit=found, health={"validation_loss": 0.3})
    assert _read(result, "audit.forgetting.loss") == 0.25 and _read(result, "scores.accuracy") == pytest.approx(0.7)
    assert _read(result, "health.validation_loss") == 0.3
    for wrong in ("cost.gold", "audit.forgetting.joy", "texts.x"):
        with pytest.raises(InputError, match="no figure"):
            _read(result, wrong)


def test_a_figure_that_is_not_above_zero_has_no_ratio() -> None:
    audit = {"findings": [{"audit": "forgetting", "figure": "loss", "change": {"value": -0.1}}]}
    lab: Any = PlantedLab(lambda recipe, seed: scored(0.7, seed, audit=audit), range(3))
    figures = aside(
        lab, technique={"mask": "hft"}, baseline={"mask": "everything"}, figure="audit.forgetting.loss"
    ).figures
    assert "times" not in figures and figures["change"].value == 0


# ---------------------------------------------------------------------- learning rates


def test_one_that_is_good_at_every_rate_is_found() -> None:
    def plan(recipe: Asked, seed: int) -> Any:
        rate = recipe.get("optimizer")[-1]["adamw"]["lr"]
        accuracy = 0.8 if named(recipe) == "mip" or rate == 1e-3 else 0.5
        return scored(accuracy, seed, health={"last_loss": 1 - accuracy + 0.001 * seed})

    lab: Any = PlantedLab(plan, range(3))
    figures = over_rates(
        lab, technique={"adapter": "mip"}, baseline={"adapter": "lora"}, rates=[1e-4, 1e-3, 1e-2]
    ).figures
    assert figures["mean"].value == pytest.approx(0.2) and figures["worst"].value == pytest.approx(0.3)
    assert figures["best"].value == 0 and figures["loss"].value == pytest.approx(-0.2)


# ---------------------------------------------------------------------- examples in the context


class Rows(list[dict[str, Any]]):
    """Encoded rows."""

    def take(self, places: Any) -> list[dict[str, Any]]:
        return [self[int(place)] for place in places]


class ContextLab(PlantedLab):
    """Rows of three tokens, the last one the answer; what learns is better than what stands still."""

    def __init__(self) -> None:
        super().__init__(self._plan, range(3))
        self.asked: list[Asked] = []

    def _plan(self, recipe: Asked, seed: int) -> Any:
        self.asked.append(recipe)
        still = recipe.get("adapter", "cpt", "radius") == STILL
        gain = 0.0 if still else 0.5 if "cpt" in recipe.get("adapter") else 0.2
        return written(list(2.0 - gain + 0.01 * np.arange(40) + 0.005 * seed))

    def prepared(self, recipe: Asked) -> Any:
        rows = [{"input_ids": [10 + i, 20 + i, 30 + i], "labels": [-100, -100, 30 + i]} for i in range(8)]
        encoded = Rows(rows)
        return SimpleNamespace(encoded={"train": encoded})


def test_examples_are_drawn_with_their_answers_fixed_and_learning_is_compared() -> None:
    lab = ContextLab()
    found = examples_in_context(lab, shots=2)  # type: ignore[arg-type]
    learned = [r.get("adapter", "cpt") for r in lab.asked if r.get("adapter", "cpt", "radius") == 0.1]
    assert all(len(c["context"]) == 6 and c["fixed"] == [2, 5] for c in learned)
    assert len({tuple(c["context"]) for c in learned}) == 3, "each seed draws its own"
    assert [c["context"][place] >= 30 for c in learned for place in c["fixed"]] == [True] * 6
    assert {r.get("adapter", "prompt_tuning", "length") for r in lab.asked} - {None} == {6}
    assert found.figures["over_examples"].value == pytest.approx(0.5) and found.figures["over_examples"].low > 0
    assert found.figures["over_prompt"].value == pytest.approx(0.3)


# ---------------------------------------------------------------------- a search over configurations


def test_configurations_are_never_empty_and_stay_in_the_space() -> None:
    draws = np.random.default_rng(1)
    for chosen in [_draw(draws, 4) for _ in range(50)]:
        assert chosen and len({str(next(iter(c.values()))["layers"]) for c in chosen}) == 1
        assert all(layer in range(4) for c in chosen for layer in next(iter(c.values()))["layers"])


def test_the_best_cheap_trial_that_is_small_enough_is_compared() -> None:
    cheap: list[list[Any]] = []
    compared: list[Any] = []

    def plan(recipe: Asked, seed: int) -> Any:
        adapter = recipe.get("adapter")
        if adapter == "lora":
            return scored(0.7, seed, cost={"trainable": 1000})
        (cheap if seed == SEARCH_SEED else compared).append(adapter)
        size = 100 * len(str(adapter))
        return scored(
            0.75, seed, cost={"trainable": min(size, 900 + 10 * len(cheap))}, health={"validation_loss": 1 / size}
        )

    lab: Any = PlantedLab(plan, range(3))
    found = searched_configuration(lab, trials=6)
    largest = max(cheap[:6], key=lambda a: len(str(a)))
    assert all(c == largest for c in compared) and len(compared) == 6
    assert found.figures["intent.difference"].value == pytest.approx(0.05)
    assert found.figures["trainable"].value < 1 <= found.figures["front"].value


# ---------------------------------------------------------------------- the claims' own recipes


def recipes_of(claim: Any) -> list[Recipe]:
    """Every recipe that a claim of a general experiment spells out, on its first task."""
    own = claim.experiment.own if claim.experiment else {}
    given = [
        own.get("technique"),
        own.get("baseline"),
        *dict(own.get("others", {}) if "technique" in own else {}).values(),
    ]
    task = own["tasks"][0] if isinstance(own.get("tasks"), list) else own.get("task", "intent")
    return [arena.find(task).recipe(technique, **own.get("options", {})) for technique in given if technique]


@pytest.mark.parametrize("claim", claims.every(ROOT / "claims").values(), ids=lambda c: c.stem)
def test_the_recipes_of_a_claim_are_recipes(claim: Any) -> None:
    made = recipes_of(claim)
    general = claim.experiment and claim.experiment.name in ("paired", "rivals", "aside", "over_rates", "step_costs")
    assert made or not general
    assert all(a.to_dict() != b.to_dict() for i, a in enumerate(made) for b in made[:i]), "two sides are the same"


# ---------------------------------------------------------------------- what a step takes


class StepLab(PlantedLab):
    """Loops over tiny models in place of the arena's."""

    def __init__(self) -> None:
        super().__init__(lambda recipe, seed: None, [0, 1])

    def loop(self, recipe: Asked) -> Any:
        from test_engine import work
        from tunesmith import parts
        from tunesmith.engine.loop import Budget, Loop

        given = {"gradient": "backprop", "optimizer": "adamw", **recipe.values}
        made = work(
            "llama", None, "everything", seed=recipe.seed, transforms=[],
            gradient=parts.find("gradient", given["gradient"]).choose().build(),
            stepper=parts.find("optimizer", given["optimizer"]).choose({"lr": 1e-4}).build(),
            budget=Budget(**given["budget"]),
        )  # fmt: skip
        return Loop(made)


def test_the_memory_of_a_step_is_counted_and_steps_are_timed_in_turn() -> None:
    others = {"adam": {"mask": "everything"}, "sgd": {"optimizer": "sgd"}}
    lab: Any = StepLab()
    found = step_costs(lab, technique={"gradient": "mezo", "optimizer": "sgd"}, others=others, steps=3).figures
    assert 0 < found["adam.memory"].value < found["sgd.memory"].value < 1
    assert found["adam.memory"].value < found["adam.whole"].value < 1
    assert found["adam.time"].value > 0 and len(found["adam.time"].values) == 2
    again = step_costs(lab, technique={"gradient": "mezo", "optimizer": "sgd"}, others={}, steps=1).figures
    assert again["memory"].values == found["memory"].values, "counted, and so the same at every repetition"


def test_memory_is_counted_from_birth_to_end() -> None:
    before = torch.zeros(100)
    with Held() as held:
        kept = before + 1
        view = kept.view(10, 10)
        assert held.now == 400
        del kept
        assert held.now == 400, "a view holds the memory"
        del view
        before.add_(torch.ones(100))
        assert held.now == 0 and held.peak == 400


def test_the_estimate_lies_below_renyi_accounting() -> None:
    pytest.importorskip("opacus")
    lab: Any = PlantedLab(lambda recipe, seed: None)
    found = accounting(lab, epsilons=[8.0], rates=[0.05], steps=[50]).figures
    assert found["over_rdp"].value < 1 and 0.9 < found["over_prv"].value < 1.05


# ---------------------------------------------------------------------- what stands on an earlier run


def test_what_began_well_is_better_on_few_rows_and_by_less_on_many() -> None:
    def plan(recipe: Asked, seed: int) -> Any:
        assert recipe.get("rows.seed", default=recipe.get("rows", "seed")) == seed
        count = recipe.get("rows", "shots")
        tuned = recipe.get("adapter", "lora", "tuned") if isinstance(recipe.get("adapter"), dict) else None
        assert tuned in (None, f"runs/{seed}")
        return scored(0.5 + 0.01 * count + (0.2 / count if tuned else 0.0), seed)

    lab: Any = PlantedLab(plan)
    lab.tuned = lambda recipe: Path("runs") / str(recipe.seed)
    found = begun(lab, targets=["intent"], shots=[1, 4]).figures
    assert found["shots1.difference"].value == pytest.approx(0.2, abs=0.005)
    assert found["shots4.difference"].value == pytest.approx(0.05, abs=0.005)
    assert found["shrinks"].low > 0.1


def test_another_domain_takes_the_place_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    worth = {"everything": 0.5, "bottleneck": 0.6}

    def opened(folder: Path, *, exchange: Any = None) -> Any:
        name = str(folder).partition("-")[2]
        assert exchange is None or exchange == {"runs/lm-film": "runs/lm-editorial"}
        value = worth[name] + (0.1 if exchange else 0.0)
        report = {"tuned": {"accuracy": {"value": value}}}
        return SimpleNamespace(evaluate=lambda rows: report, results=report)

    def tuned(recipe: Asked) -> Path:
        if recipe.get("task") == "lm":
            return Path("runs") / f"lm-{recipe.get('about')}"
        below = recipe.get("adapter")
        assert recipe.get("mask") or below == [{"bottleneck": {"tuned": "runs/lm-film", "frozen": True}}, "bottleneck"]
        return Path("runs") / f"task-{'everything' if recipe.get('mask') else 'bottleneck'}"

    lab: Any = PlantedLab(lambda recipe, seed: None)
    lab.tuned = tuned
    lab.given = lambda recipe, train, test: recipe.updated({"about": train[0]["text"]})
    monkeypatch.setattr("tunesmith.run.api.open_run", opened)
    monkeypatch.setattr(
        "tunesmith.experiments.stacked._rows",
        lambda texts, test: ([[{"text": t}] * 60 for t in ("film", "editorial")], []),
    )
    found = stacked(lab).figures
    assert found["exchanged"].value == pytest.approx(0.7) and found["home"].value == pytest.approx(0.6)
    assert found["exchanged.stayed"].value == pytest.approx(0.1) and found["exchanged.full"].value == pytest.approx(0.2)
