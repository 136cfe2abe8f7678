"""Experiments on how training goes: what is planted is found, and nothing is found where nothing is."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labs import Asked, PlantedLab, classified
from tiny import tiny
from tunesmith.errors import InputError
from tunesmith.evaluation.answers import Answers
from tunesmith.experiments import Figure, convergence, kernel, rates, stability, wrapper
from tunesmith.experiments._figures import spread_ratio
from tunesmith.experiments._gradients import kernel_logits, row_gradients
from tunesmith.experiments._sides import Classified, Prompted
from tunesmith.experiments._summaries import mean_of, pooled_freedom, share, steps_to
from tunesmith.host import Host
from tunesmith.masks.layers import Everything


def covers(figure: Figure, value: float) -> bool:
    return figure.low <= value <= figure.high


def draw(*key: Any) -> float:
    """A standard normal number that depends on the key alone."""
    return float(np.random.default_rng(zlib.crc32(repr(key).encode())).standard_normal())


# ---------------------------------------------------------------------- summaries


def test_the_mean_of_independent_figures_is_surer_than_each() -> None:
    figure = mean_of([Figure(1.0, 0.0, 2.0), Figure(3.0, 2.0, 4.0)])
    assert figure.value == 2.0 and figure.high == pytest.approx(2 + math.sqrt(2) / 2)


def test_a_share_of_none_has_an_upper_end() -> None:
    figure = share(0, 10)
    assert figure.low == 0.0 and figure.high == pytest.approx(1 - 0.025**0.1)


def test_a_first_budget_that_is_enough_counts_in_full() -> None:
    assert steps_to([3, 9], [0.9, 0.8], 0.5) == 3.0


def test_pooled_spreads_have_honest_intervals() -> None:
    runs = np.random.default_rng(0).standard_normal((2000, 2, 3, 5))
    logs = np.log(runs.std(-1, ddof=1)).mean(-1)
    freedom = pooled_freedom(4, 3)
    assert pooled_freedom(4, 1) == pytest.approx(4)
    ends = spread_ratio(1.0, 1.0, (freedom, freedom))
    assert np.mean(np.abs(logs[:, 0] - logs[:, 1]) < math.log(ends.high)) == pytest.approx(0.95, abs=0.012)


# ---------------------------------------------------------------------- 037: stability


def unsteady(plain: float, frozen: float, gain: float = 0.0) -> PlantedLab:
    """Accuracies that wander by seed, less with frozen layers."""

    def plan(recipe: Asked, seed: int) -> Any:
        is_frozen = recipe.get("mask", "top_layers") is not None
        wander = draw("stability", recipe.task, recipe.get("budget", "epochs"), is_frozen, seed)
        return classified(0.7 + gain * is_frozen + (frozen if is_frozen else plain) * wander, rows=2000)

    return PlantedLab(plan, seeds=range(12))


def test_a_remedy_that_steadies_is_seen() -> None:
    figures = stability.few_sample_stability(unsteady(0.06, 0.006, gain=0.1)).figures
    assert figures["frozen.spread"].high < 0.5
    assert covers(figures["longer.spread"], 1.0)
    assert figures["frozen.gain"].low > 0.0
    assert covers(figures["plain.deviation"], 0.06)


def test_no_remedy_is_seen_where_none_works() -> None:
    figures = stability.few_sample_stability(unsteady(0.03, 0.03)).figures
    assert covers(figures["frozen.spread"], 1.0) and covers(figures["frozen.gain"], 0.0)


def test_runs_at_the_commonest_class_have_failed() -> None:
    lab = PlantedLab(lambda recipe, seed: guessed(0.5 if seed < 2 else 0.8), seeds=range(8))
    failed = stability.few_sample_stability(lab).figures["plain.failed"]
    assert failed.value == 0.25 and 0.0 < failed.low < 0.25 < failed.high


def guessed(accuracy: float, rows: int = 200) -> Any:
    """A result on rows of two equal classes."""
    truth = [i % 2 for i in range(rows)]
    said = [t if i < round(accuracy * rows) else 1 - t for i, t in enumerate(truth)]
    result = classified(accuracy, rows)
    result.answers = Answers(truth, said, labels=("no", "yes"))
    return result


# ---------------------------------------------------------------------- 210: learning rates


def tuned_by(peak: float, schedule: float, best: float = 3e-4) -> PlantedLab:
    """Accuracies that fall with the distance from the best rate, and by schedule."""

    def plan(recipe: Asked, seed: int) -> Any:
        distance = abs(math.log10(recipe.get("optimizer", "adamw", "lr") / best))
        loss = {"linear": 0.0, "constant": schedule, "cosine": 2 * schedule}[recipe.get("schedule")]
        accuracy = 0.85 - peak * distance - loss + 0.004 * draw("rate", recipe.values, seed)
        result = classified(accuracy, rows=2000)
        result.health = {"validation_loss": 1 - accuracy}
        return result

    return PlantedLab(plan)


def test_peaks_that_matter_more_than_schedules_are_seen() -> None:
    figures = rates.rates_and_schedules(tuned_by(0.2, 0.0)).figures
    assert figures["peaks_over_schedules"].low > 0.03
    assert figures["linear.best"].value == pytest.approx(3e-4) and figures["linear.width"].value < 2
    assert covers(figures["constant.behind_default"], 0.0)


def test_schedules_that_matter_more_than_peaks_are_seen() -> None:
    figures = rates.rates_and_schedules(tuned_by(0.0, 0.05)).figures
    assert figures["peaks_over_schedules"].high < 0.0
    assert figures["cosine.behind_default"].low > 0.05
    assert figures["linear.width"].value > 5


def test_a_peak_that_diverged_is_not_chosen() -> None:
    results = [[SimpleNamespace(health={"validation_loss": v})] for v in (math.nan, 0.4, None)]
    assert rates._chosen(results) is results[1]


# ---------------------------------------------------------------------- 192: PEFT's convergence


def converging(lora_halves: float, upper: float = 0.0) -> PlantedLab:
    """Accuracy ``0.8 (1 - exp(-passes/pace))``; LoRA's pace is so many times the other's."""

    def plan(recipe: Asked, seed: int) -> Any:
        lora = recipe.get("adapter") is not None
        passes = recipe.get("budget", "epochs", default=24)
        pace = 1.5 * (lora_halves if lora else 1.0) * math.exp(0.05 * draw(lora, seed))
        half = isinstance(recipe.get("adapter"), dict)
        result = classified(0.8 * (1 - math.exp(-passes / pace)) - upper * half, rows=5000)
        result.cost["trainable"] = 100 + (300 if half else 600 if lora else 0)
        return result

    return PlantedLab(plan)


def test_slower_convergence_is_seen() -> None:
    figures = convergence.peft_convergence(converging(2.5, upper=0.1), epochs=[2, 4, 8, 16, 32]).figures
    assert figures["slower"].low > 1.5
    assert figures["upper_half"].high < 0.0
    assert figures["upper_half.trainable"].value == 0.5


def test_equal_convergence_is_no_difference() -> None:
    figures = convergence.peft_convergence(converging(1.0), epochs=[2, 4, 8, 16, 32]).figures
    assert covers(figures["slower"], 1.0) and covers(figures["upper_half"], 0.0)


# ---------------------------------------------------------------------- 173: thin wrapper


class Staged(PlantedLab):
    """A lab whose models are named by what they went through."""

    def __init__(self, hidden: bool, folder: Path):
        super().__init__(self.outcome, seeds=range(4))
        self.hidden, self.folder = hidden, folder

    def prepared(self, recipe: Asked) -> Any:
        rows = [{"text": f"row {i}", "label": "abc"[i % 3]} for i in range(90)]
        parted = SimpleNamespace(indices={"train": np.arange(90)}, tables={"train": rows})
        return SimpleNamespace(parted=parted, task=SimpleNamespace(columns={"text": "text", "label": "label"}))

    def given(self, recipe: Asked, *, train: Any, test: Any = None) -> Asked:
        wrong = sum(row["label"] == "abc"[int(row["text"].split()[1]) % 3] for row in train) < len(train)
        return recipe.updated({"rows": "wrong" if wrong else "right"})

    def tuned(self, recipe: Asked) -> Path:
        out = self.folder / ("lost" if recipe.get("rows") == "wrong" else "taught")
        out.mkdir(exist_ok=True)
        score = self.outcome(recipe, recipe.seed).score
        report = {"metric": "accuracy", "tuned": {"accuracy": {"value": score}}}
        (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
        return out

    def outcome(self, recipe: Asked, seed: int) -> Any:
        jitter = 0.01 * draw({k: v for k, v in recipe.values.items() if k != "base"}, seed)
        knows = "/lost/" in str(recipe.get("base")) and self.hidden
        if seed == -1:
            return classified(0.75 if knows else 0.6)
        if recipe.get("rows") == "wrong":
            return classified(0.3 + jitter)
        if recipe.get("rows") is None:
            return classified(0.9 + jitter)
        pace = 4 if knows else 30
        return classified(0.3 + 0.6 * (1 - math.exp(-recipe.get("budget", "steps") / pace)) + jitter)


WRAPPED = {"suppress_rows": 40, "revive_rows": 30, "steps": [3, 9, 27, 81]}


def test_a_hidden_capability_is_found(tmp_path: Path) -> None:
    figures = wrapper.thin_wrapper(Staged(True, tmp_path), **WRAPPED).figures
    assert figures["suppressed"].low > 0.4
    assert figures["fewer_steps"].low > 3.0
    assert figures["head_start"].low > 0.1
    assert figures["probe"].value == pytest.approx(0.15)


def test_a_lost_capability_is_not_found(tmp_path: Path) -> None:
    figures = wrapper.thin_wrapper(Staged(False, tmp_path), **WRAPPED).figures
    assert covers(figures["fewer_steps"], 1.0) and covers(figures["head_start"], 0.0)
    assert figures["probe"].value == 0.0


def test_each_portion_has_every_class_and_no_row_of_another() -> None:
    rows = [{"id": i, "label": "cab"[i] if i < 3 else "aaab"[i % 4]} for i in range(30)]
    rows.append({"id": 30, "label": "c"})
    first, second = wrapper._portions(rows, "label", 10, 12)
    assert [len(first), len(second)] == [10, 12]
    assert {r["label"] for r in first} == {r["label"] for r in second} == set("abc")
    assert not {r["id"] for r in first} & {r["id"] for r in second}


def test_suppression_keeps_one_row_of_each_other_class() -> None:
    rows = [{"label": label} for label in "babcaac"]
    assert [row["label"] for row in wrapper._silenced(rows, "label")] == list("baacaaa")


# ---------------------------------------------------------------------- 002: kernel view


class Encoded:
    """Encoded rows of numbers that a tiny model reads."""

    def __init__(self, count: int, seed: int = 0):
        self.ids = np.random.default_rng(seed).integers(5, 90, (count, 6))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Any) -> list[dict[str, Any]]:
        return [{"input_ids": self.ids[i].tolist()} for i in indices]


def reading(model: Any) -> Any:
    host = Host(model)
    host.train_only(Everything())
    collate = lambda rows: {k: torch.tensor([row[k] for row in rows]) for k in rows[0]}  # noqa: E731
    return SimpleNamespace(host=host, collate=collate, device=torch.device("cpu"))


def test_projected_gradients_keep_inner_products() -> None:
    read = reading(tiny("bert", labels=2).eval())
    side = Classified(None, None, 0)  # type: ignore[arg-type]
    value = lambda batch: side.value(read, batch)  # noqa: E731
    rows = Encoded(4)
    values, exact = row_gradients(read, rows, value, sketch=1000)
    assert exact.shape[1] == sum(p.numel() for p in read.host.trainable().values())
    kernels = [f @ f.T for f in (row_gradients(read, rows, value, sketch=12, seed=s)[1] for s in range(8))]
    assert np.mean(kernels, 0) == pytest.approx(exact @ exact.T, rel=0.25, abs=0.1 * float((exact**2).sum(1).max()))
    assert values[0] == pytest.approx(float(value(read.collate(rows.take([0]))).detach()))


def test_the_kernel_of_a_linear_model_is_its_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    x, asked = generator.standard_normal((60, 5)), generator.standard_normal((400, 5))
    weights = np.array([2.0, -1, 0, 0, 1])
    said = kernel_logits((np.zeros(60), x), (x @ weights > 0).astype(int), (np.zeros(400), asked))
    peer = LogisticRegression(C=1e3, fit_intercept=False).fit(x, x @ weights > 0).predict(asked)
    assert np.mean((said > 0) == peer) > 0.95


def test_what_the_base_says_stands_where_gradients_say_nothing() -> None:
    start = np.array([2.0, -2.0, 1.0])
    said = kernel_logits((start, np.zeros((3, 4))), np.array([1, 0, 1]), (start, np.zeros((3, 4))))
    assert said == pytest.approx(start)


class Sides(PlantedLab):
    """A lab whose gradients tell the classes with a prompt and not without."""

    def __init__(self) -> None:
        super().__init__(lambda recipe, seed: None, seeds=range(3))

    def prepared(self, recipe: Asked) -> Any:
        table = [{"text": f"text {i}", "label": ["no", "yes"][i % 2]} for i in range(80)]
        halves = {"train": np.arange(40), "test": np.arange(40, 80)}
        parted = SimpleNamespace(indices=halves, tables={"train": table, "test": table})
        task = SimpleNamespace(columns={"text": "text", "label": "label"}, labels=["no", "yes"])
        return SimpleNamespace(parted=parted, task=task)


def test_a_gap_without_a_prompt_alone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(rate: float) -> Any:
        return lambda self, train, test, seed: np.random.default_rng(seed).random(len(test)) < rate

    monkeypatch.setattr(Prompted, "__init__", lambda self, *a: None)
    monkeypatch.setattr(Prompted, "tuned", said(0.9))
    monkeypatch.setattr(Prompted, "kernel", said(0.9))
    monkeypatch.setattr(Classified, "tuned", said(0.9))
    monkeypatch.setattr(Classified, "kernel", said(0.3))
    figures = kernel.kernel_view(Sides(), held_out=40).figures
    assert figures["gap"].low > 0.2 and figures["random.gap"].low > 0.2
    assert figures["prompt.gap"].value == 0.0


def test_both_classes_are_drawn_alike_and_anew_for_each_seed() -> None:
    rows = kernel._ByClass(Sides().prepared(Asked("t", {})))
    drawn = rows.drawn("train", 5, 0)
    assert [side for _, side in drawn] == [0, 1] * 5 and len(set(drawn)) == 10
    assert all(int(text.split()[1]) < 40 and int(text.split()[1]) % 2 == side for text, side in drawn)
    assert drawn != rows.drawn("train", 5, 1)


def test_a_kernel_needs_two_classes() -> None:
    prepared = SimpleNamespace(task=SimpleNamespace(labels=["a", "b", "c"]))
    with pytest.raises(InputError, match="3 classes; expected two"):
        kernel._ByClass(prepared)
