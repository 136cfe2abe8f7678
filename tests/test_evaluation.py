"""Metrics against the libraries that define them, intervals against simulation, baselines against what they must do."""

from __future__ import annotations

import importlib.util
import json
import time
import warnings
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import InputError
from tunesmith.evaluation import baselines, calibration, intervals, metrics
from tunesmith.evaluation.answers import Answers, Measured
from tunesmith.evaluation.intervals import difference, measure, verdict
from tunesmith.evaluation.metrics import names_for, spans
from tunesmith.evaluation.scores import score

draw = np.random.default_rng(7)
LABELS = ["a", "b", "c", "d"]


@pytest.fixture(autouse=True)
def _same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws the same numbers, whichever tests ran before it."""
    monkeypatch.setitem(globals(), "draw", np.random.default_rng(7))


def classes(rows: int = 300, kinds: int = 4) -> tuple[list[int], list[int], np.ndarray]:
    """Truth, answers that are mostly right, and probabilities that go with them. The last kind is never true."""
    truth = draw.integers(0, kinds - 1, rows)
    logits = draw.normal(size=(rows, kinds)) + 1.5 * np.eye(kinds)[truth]
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth.tolist(), chance.argmax(1).tolist(), chance


def weighted_value(name: str, answers: Answers, weights: np.ndarray) -> float:
    return float(metrics.METRICS[name].weighted(answers)(weights[None, :].astype(float))[0])


# ---------------------------------------------------------------------- figures


def test_classification_as_sklearn() -> None:
    from sklearn import metrics as sk

    truth, said, chance = classes()
    found = score("classify", truth, said, probabilities=chance, labels=LABELS)
    assert list(found) == ["accuracy", "macro_f1", "mcc", "log_loss", "ece"] and not found.notes
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(truth, said))
    assert found["macro_f1"].value == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert found["mcc"].value == pytest.approx(sk.matthews_corrcoef(truth, said))
    assert found["log_loss"].value == pytest.approx(sk.log_loss(truth, chance, labels=range(4)))
    assert all(m.low <= m.value <= m.high for n, m in found.items() if n != "ece")
    never = score("classify", [0, 1, 1], [0, 1, 0], labels=LABELS)["macro_f1"].value
    assert never == pytest.approx(sk.f1_score([0, 1, 1], [0, 1, 0], average="macro"))


def test_the_calibration_error_has_no_interval_and_no_verdict() -> None:
    """Its bootstrap is biased (see its docstring); two models far apart are still not called different by it."""
    truth, said, chance = classes()
    tuned, base = Answers(truth, said, chance, LABELS), Answers(truth, said, np.eye(4)[said], LABELS)
    found, change = measure("ece", tuned), difference("ece", tuned, base)
    assert np.isnan([found.low, found.high]).all() and found.note.startswith("no interval")
    assert abs(change.value) > 0.1 and verdict(change) == "no difference seen"
    assert all("ece" not in names_for(task) for task in ("classify", "pair"))


def test_multi_label_as_sklearn() -> None:
    from sklearn import metrics as sk

    truth, chance = draw.integers(0, 2, (200, 5)), draw.random((200, 5))
    said = (chance > 0.5).astype(int)
    found = score("classify", truth.tolist(), said.tolist(), probabilities=chance, labels=list("vwxyz"), multi=True)
    assert found["micro_f1"].value == pytest.approx(sk.f1_score(truth, said, average="micro"))
    assert found["macro_f1"].value == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(truth, said))
    expected = np.mean([sk.log_loss(truth[:, k], chance[:, k], labels=[0, 1]) for k in range(5)])
    assert found["log_loss"].value == pytest.approx(expected)


def test_auroc_as_sklearn_with_ties_and_weights() -> None:
    from sklearn.metrics import roc_auc_score

    truth = draw.integers(0, 2, 150)
    sure = np.round(draw.random(150) * 0.7 + 0.3 * truth, 1)  # rounding makes ties
    answers = Answers(truth.tolist(), [0] * 150, np.stack([1 - sure, sure], 1), ["no", "yes"])
    weights = draw.integers(0, 4, 150)
    assert weighted_value("auroc", answers, weights) == pytest.approx(roc_auc_score(truth, sure, sample_weight=weights))
    assert "auroc" in score("classify", truth.tolist(), probabilities=answers.probabilities, labels=["no", "yes"])


def test_regression_as_scipy() -> None:
    from scipy import stats

    truth = draw.integers(0, 6, 120).astype(float)  # whole numbers: ties
    said = truth + draw.normal(size=120)
    found = score("regress", truth.tolist(), said.tolist())
    assert found["pearson"].value == pytest.approx(stats.pearsonr(truth, said).statistic)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(truth, said).statistic)
    assert found["rmse"].value == pytest.approx(np.sqrt(np.mean((truth - said) ** 2)))
    assert found["mae"].value == pytest.approx(np.mean(np.abs(truth - said)))


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_a_row_of_weight_two_is_two_rows(name: str) -> None:
    """The premise of every interval: weights stand for repeated rows, ranks included."""
    truth, said = draw.integers(0, 9, 40).astype(float), draw.integers(0, 9, 40).astype(float)
    weights = draw.integers(0, 4, 40)
    again = Answers(np.repeat(truth, weights).tolist(), np.repeat(said, weights).tolist())
    expected = weighted_value(name, again, np.ones(len(again)))
    assert weighted_value(name, Answers(truth.tolist(), said.tolist()), weights) == pytest.approx(expected)


def test_spans_as_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    for _ in range(20):
        truth, said = ([[tags[i] for i in draw.integers(0, 5, n)] for n in range(1, 30)] for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = seqeval.f1_score(truth, said)
        assert score("tag", truth, said)["span_f1"].value == pytest.approx(expected)


def test_tags_without_spans_are_scored_by_word() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    truth, said = ([[LABELS[i] for i in draw.integers(0, 4, n)] for n in range(1, 20)] for _ in range(2))
    found = score("tag", truth, said)
    flat = [[tag for row in rows for tag in row] for rows in (truth, said)]
    assert list(found) == ["token_macro_f1", "token_accuracy"]
    assert found["token_macro_f1"].value == pytest.approx(f1_score(*flat, average="macro"))
    assert found["token_accuracy"].value == pytest.approx(accuracy_score(*flat))
    assert found.notes == ["loss was not measured: no loss given"]


def test_a_span_that_i_begins() -> None:
    assert spans(["I-A", "I-A", "I-B", "O", "B-B", "B-B"]) == {("A", 0, 1), ("B", 2, 2), ("B", 4, 4), ("B", 5, 5)}


TEXTS = ["The cat sat on the mat.", "Grüße aus Köln!", "今日は良い天気です", "", "one two three four", "Привет, мир"]
WRITTEN = ["A cat sat on a mat.", "Grüße aus Bonn", "今日は天気です", "something", "four three two one", "Привет мир"]


def test_chrf_as_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found = score("generate", TEXTS, WRITTEN)
    assert found["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(WRITTEN, [TEXTS]).score)


def test_rouge_as_rouge_score_and_beyond_ascii() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    english = [(TEXTS[i], WRITTEN[i]) for i in (0, 4)]
    expected = np.mean([scorer.score(r, p)["rougeL"].fmeasure for r, p in english])
    found = score("generate", *map(list, zip(*english, strict=True)))
    assert found["rouge_l"].value == pytest.approx(expected)
    assert score("generate", ["Привет, мир"], ["привет мир"])["rouge_l"].value == 1.0


def test_texts() -> None:
    found = score("chat", ["a b c d", " yes "], ["a b", "yes"], loss=[6.0, 2.0], units=[3, 1])
    assert found["exact_match"].value == 0.5
    assert found["length_ratio"].value == pytest.approx(3 / 5) and found["length_ratio"].greater is None
    assert found["loss"].value == 2.0 and found["perplexity"].value == pytest.approx(np.exp(2))


def test_calibration_error_by_hand() -> None:
    """Two bins: 4 rows at 0.9 of which 3 are right, 2 rows at 0.6 of which none is."""
    sure = np.array([0.9] * 4 + [0.6] * 2)
    answers = Answers([0, 0, 0, 1, 1, 1], [0] * 6, np.stack([sure, 1 - sure], 1), ["x", "y"])
    assert calibration.expected_calibration_error(answers) == pytest.approx((4 * 0.15 + 2 * 0.6) / 6)
    groups = calibration.reliability(answers)
    assert [g["rows"] for g in groups] == [2, 4] and groups[1]["accuracy"] == 0.75
    assert sum(g["rows"] * abs(g["confidence"] - g["accuracy"]) for g in groups) / 6 == pytest.approx(
        calibration.expected_calibration_error(answers)
    )


def test_confusion_and_worst() -> None:
    chance = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    answers = Answers([0, 1, 1], [0, 1, 0], chance, ["cold", "hot"])
    assert calibration.confusion(answers) == [[1, 0], [1, 1]]
    first = calibration.worst(answers, ["p", "q", "r"], count=1)[0]
    assert first == {
        "text": "r", "reference": "hot", "prediction": "cold", "probability": 0.7, "loss": pytest.approx(-np.log(0.3))
    }  # fmt: skip
    assert calibration.worst(Answers([1.0, 5.0], [1.5, 2.0]), ["p", "q"])[0]["loss"] == 3.0
    assert calibration.worst(Answers(["x"], ["y"]), ["p"]) == []


# ---------------------------------------------------------------------- what cannot be measured is said


def test_absent_metrics_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(metrics, "find_spec", lambda n: None if n in ("sacrebleu", "rouge_score") else real(n))
    found = score("generate", ["a"], ["a"])
    assert list(found) == ["exact_match", "length_ratio"]
    assert len(found.notes) == 2 and all("tunesmith[metrics]" in note for note in found.notes)
    with pytest.raises(InputError, match=r"tunesmith\[metrics\]"):
        measure("chrf", Answers(["a"], ["a"]))


def test_one_class_has_no_auroc() -> None:
    found = score("classify", [1, 1], [1, 0], probabilities=[[0.2, 0.8], [0.6, 0.4]], labels=["no", "yes"])
    assert "auroc" not in found and found.notes == ["auroc was not measured: the rows hold one class only"]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("classify", [], []), {}, "no rows"),
        (("classify", ["a", "b"], ["a"]), {}, "1 predictions for 2 rows"),
        (("classify", ["a", "b"], ["a", "z"]), {"labels": ["a", "b"]}, "row 1: class 'z'; expected one of a, b"),
        (("classify", [0, 1], [0, 5]), {"labels": ["a", "b"]}, "row 1: class 5"),
        (("classify", [0, 1]), {"probabilities": [[1.0], [0.5]], "labels": ["a", "b"]}, r"shape \(2, 1\)"),
        (("classify", [0, 1]), {"probabilities": [[1, 0], [np.nan, 0.5]], "labels": ["a", "b"]}, "row 1: prob"),
        (("classify", ["a", "b"]), {"probabilities": [[1, 0], [0, 1]]}, "expected labels"),
        (("regress", [1.0, 2.0], [1.0, float("nan")]), {}, "row 1: prediction nan; expected a finite number"),
        (("tag", [["O", "O"]], [["O"]]), {}, "row 0: 1 tags; expected 2"),
        (("lm", ["x"]), {"loss": [1.0]}, "loss and units go together"),
        (("generate", ["x"]), {}, "nothing to score"),
        (("clasify", ["x"], ["x"]), {}, "did you mean 'classify'"),
    ],
)
def test_wrong_input_is_one_line(arguments: tuple[Any, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score(*arguments, **settings)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- intervals


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "spearman", "auroc"])
def test_the_interval_is_that_of_resampled_rows(name: str) -> None:
    """Against the plain bootstrap, which scores every resample anew."""
    truth, said, chance = classes(200, 3)
    truth, chance = [min(t, 1) for t in truth], chance[:, :2] / chance[:, :2].sum(1, keepdims=True)
    said = chance.argmax(1).tolist()
    answers = Answers(truth, chance[:, 1].tolist() if name == "spearman" else said, chance, ["n", "y"])
    plain = []
    for _ in range(1500):
        i = draw.integers(0, 200, 200)
        picked = Answers(np.array(truth)[i].tolist(), np.array(answers.predictions)[i].tolist(), chance[i], ["n", "y"])
        plain.append(weighted_value(name, picked, np.ones(200)))
    found = measure(name, answers)
    width = found.high - found.low
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.15 * width)


def test_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 95 % interval holds the truth in about 95 % of 400 simulated test sets (binomial error 1.1 %)."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    random, held, held_difference = np.random.default_rng(3), 0, 0
    for trial in range(400):
        ours, theirs = random.random(150) < 0.8, random.random(150) < 0.7
        tuned, base = (Answers([1] * 150, right.astype(int).tolist()) for right in (ours, theirs))
        found, change = measure("accuracy", tuned, seed=trial), difference("accuracy", tuned, base, seed=trial)
        held += found.low <= 0.8 <= found.high
        held_difference += change.low <= 0.1 <= change.high
    assert 0.91 <= held / 400 <= 0.98
    assert 0.91 <= held_difference / 400 <= 0.98


def test_a_difference_is_paired() -> None:
    """Where both models stumble over the same rows, the paired interval is far narrower than two apart would allow."""
    hard = draw.random(400) < 0.4
    base = Answers([1] * 400, (~hard).astype(int).tolist())
    better = ~hard | (draw.random(400) < 0.08)
    tuned = Answers([1] * 400, better.astype(int).tolist())
    change, alone = difference("accuracy", tuned, base), measure("accuracy", base)
    assert change.high - change.low < 0.6 * (alone.high - alone.low)
    assert verdict(change) == "better" and verdict(difference("accuracy", base, tuned)) == "worse"
    same = difference("accuracy", tuned, tuned)
    assert same.value == same.low == same.high == 0 and verdict(same) == "no difference seen"
    with pytest.raises(ValueError, match="not paired"):
        difference("accuracy", tuned, Answers([1], [1]))


@pytest.mark.parametrize(
    ("low", "high", "rows", "greater", "expected"),
    [
        (0.01, 0.2, 100, True, "better"), (0.01, 0.2, 100, False, "worse"), (-0.2, -0.01, 100, False, "better"),
        (-0.01, 0.2, 100, True, "no difference seen"), (0.0, 0.2, 100, True, "no difference seen"),
        (1.0, 1.0, 5, True, "no difference seen"), (1.0, 1.0, 6, True, "better"), (0.1, 0.2, 100, None, "higher"),
    ],
)  # fmt: skip
def test_verdict(low: float, high: float, rows: int, greater: bool | None, expected: str) -> None:
    assert verdict(Measured((low + high) / 2, low, high, rows, greater)) == expected


def test_a_false_better_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equally good models: at most about 5 % of comparisons may claim a difference."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    random, claims = np.random.default_rng(5), 0
    for trial in range(300):
        pair = [Answers([1] * 100, (random.random(100) < 0.75).astype(int).tolist()) for _ in range(2)]
        claims += verdict(difference("accuracy", *pair, seed=trial)) != "no difference seen"
    assert claims / 300 <= 0.09


def test_seeded_and_quick() -> None:
    truth, said, chance = classes(10_000)
    start = time.perf_counter()
    first = score("classify", truth, said, probabilities=chance, labels=LABELS)
    assert time.perf_counter() - start < 10  # about 1 s on an idle core; all five metrics
    assert first == score("classify", truth, said, probabilities=chance, labels=LABELS)
    assert first["accuracy"] != score("classify", truth, said, probabilities=chance, labels=LABELS, seed=1)["accuracy"]


def test_no_spread_is_noted() -> None:
    assert "says nothing" in measure("accuracy", Answers([1] * 9, [1] * 9)).note


# ---------------------------------------------------------------------- baselines


def test_constants() -> None:
    said = baselines.constant([0, 1, 1, 2], [1, 0], ["a", "b", "c"])
    assert said.predictions == [1, 1] and said.probabilities[0] == pytest.approx([0.25, 0.5, 0.25])
    assert baselines.constant([1.0, 4.0], [9.0]).predictions == [2.5]
    assert baselines.commonest_tag([["O", "O", "B-A"]], [["B-A", "O"]]).predictions == [["O", "O"]]
    assert baselines.constant([[1, 0], [1, 1], [1, 0]], [[0, 1]], ["a", "b"], multi=True).predictions == [[1.0, 0.0]]


def features(truth: np.ndarray, width: int = 12) -> np.ndarray:
    return np.asarray(draw.normal(size=(len(truth), width)) + 1.5 * np.eye(width)[truth])


def test_probe_of_classes() -> None:
    train, test = draw.integers(0, 4, 300), draw.integers(0, 4, 200)
    said = baselines.probe(features(train), train.tolist(), features(test), test.tolist(), LABELS)
    assert measure("accuracy", said).low > measure("accuracy", baselines.constant(train, test, LABELS)).high
    assert said.probabilities.sum(1) == pytest.approx(np.ones(200))


def test_probe_of_numbers_and_of_several_labels() -> None:
    x = draw.normal(size=(400, 6))
    y = (x @ np.arange(6.0) + draw.normal(size=400)).tolist()
    assert measure("pearson", baselines.probe(x[:300], y[:300], x[300:], y[300:])).value > 0.95
    several = (x[:, :3] > 0).astype(int).tolist()
    said = baselines.probe(x[:300], several[:300], x[300:], several[300:], list("abc"), multi=True)
    assert measure("micro_f1", said).value > 0.9 and said.probabilities.shape == (100, 3)


def test_probe_of_rare_classes_and_of_one_class() -> None:
    """A class with one row neither stops the probe nor its choice of strength; a class without a row is never said."""
    train = np.array([0] * 40 + [1] * 40 + [2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fold without the rare class would warn, and the choice would rest on nan
        said = baselines.probe(features(train), train.tolist(), features(train), train.tolist(), LABELS)
    assert said.probabilities.shape == (81, 4) and not said.probabilities[:, 3].any()
    assert measure("accuracy", said).low > 41 / 81 > measure("accuracy", baselines.constant(train, train, LABELS)).value
    alone = baselines.probe(np.zeros((5, 2)), [1] * 5, np.zeros((2, 2)), [1, 0], LABELS)
    assert alone.predictions == [1, 1]


def test_names_for() -> None:
    assert names_for("classify", labels=["n", "y"])[3] == "auroc"
    assert "auroc" not in names_for("classify", labels=["x", "y", "z"])
    assert names_for("tag", labels=["O", "B-A"])[0] == "span_f1"
    assert all(name in metrics.METRICS for task in metrics._BY_TASK for name in names_for(task))
    with pytest.raises(InputError):
        names_for("poetry")


def test_figures_are_json() -> None:
    from dataclasses import asdict

    json.dumps(asdict(measure("accuracy", Answers([1, 0, 1], [1, 1, 1]))), allow_nan=False)
