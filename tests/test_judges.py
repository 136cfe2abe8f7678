"""Every judge by one suite: a line each, with answers whose worth is known; and what only some of them do."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tunesmith import parts
from tunesmith.errors import InputError
from tunesmith.judges import Question, Verdict
from tunesmith.judges._texts import groups, number, program, sentences


def ask(*samples: str, reference: str | None = None, **row: Any) -> Question:
    return Question("what?", row, reference, samples)


class FakeBench:
    """Models whose answers are known."""

    def log_probabilities(self, questions: Sequence[Question], *, base: bool, total: bool = False) -> list[np.ndarray]:
        return [-np.array([float(len(s)) for s in q.samples]) - 10 * base for q in questions]

    def predictions(self, run: str, texts: Sequence[tuple[str, str]]) -> list[Any]:
        if run == "number":
            return [float(len(two)) for _, two in texts]
        alike = [one.split()[-1] == two.split()[-1] for one, two in texts]
        return [
            {"label": "entailment" if a else "no", "probabilities": {"entailment": 0.9 if a else 0.2}} for a in alike
        ]

    def embeddings(self, base: str, texts: Sequence[str]) -> np.ndarray:
        angles = np.array([float(t) for t in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def context_attention(self, questions: Sequence[Question]) -> list[np.ndarray]:
        return [np.array([len(s) / 10 for s in q.samples]) for q in questions]


H = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
LINES: dict[str, list[tuple[dict[str, Any], Question, list[float]]]] = {
    "exact_match": [
        ({}, ask("The Paris!", "Lyon", "", reference="paris"), [1, 0, 0]),
        ({"normalise": False}, ask("Paris", "paris", reference="Paris"), [1, 0]),
        ({"where": "first_line"}, ask("Paris\nor so", "It is Paris", reference="Paris"), [1, 0]),
        ({"where": "contains"}, ask("It is Paris, I think", "comparison", reference="paris"), [1, 0]),
    ],
    "numeric_answer": [
        ({}, ask("3 + 4 = 7", "#### 7.0 apples, 2 pears", "7 of 8", "none", "-7", reference="so #### 7"), [1, 1, 0, 0, 0]),
        ({}, ask("1,200", "$1200", "1,200.5", reference="1200"), [1, 1, 0]),
        ({"tolerance": 0.01}, ask("100.9", "102", reference="100"), [1, 0]),
    ],
    "unit_tests": [
        ({"allow": "confined"},
         ask("def f(x): return x + 1", "```python\ndef f(x):\n    return x + 1\n```", "def f(x): return x",
             "import sys; sys.exit(0)", tests=["assert f(1) == 2", "assert f(2) == 3"]), [1, 1, 0, 0]),
    ],
    "scorer": [
        ({"run": "pairs", "label": "entailment"}, ask("what?", "else"), [0.9, 0.2]),
        ({"run": "number"}, ask("a", "abc"), [1, 3]),
    ],
    "self_consistency": [
        ({}, ask("Paris", "paris.", "Lyon"), [1, 1, 0]),
        ({"form": "share"}, ask("Paris", "paris.", "Lyon"), [2 / 3, 2 / 3, 1 / 3]),
        ({"by": "number"}, ask("so 4", "2 + 2 = 4", "5", "none"), [1, 1, 0, 0]),
    ],
    "semantic_entropy": [
        ({}, ask("Paris", "paris.", "Lyon"), [1 - H / math.log(3)] * 3),
        ({}, ask("a1", "b1", "c1"), [0] * 3),
        ({}, ask("same", "same"), [1, 1]),
        ({"by": "embedding", "least": 0.9}, ask("0.0", "0.1", "1.5"), [1 - H / math.log(3)] * 3),
        ({"by": "entailment", "run": "pairs"}, ask("in Paris", "it is Paris", "Lyon"), [1 - H / math.log(3)] * 3),
    ],
    "likelihood": [({}, ask("ab", "a"), [-2, -1]), ({"base": True}, ask("ab"), [-12])],
    "claims": [
        ({"facts": "facts"}, ask("Ada was a poet. Ada wrote programs.", "Ada was a poet.", "Bob slept.", "",
                                facts=["Ada was once a poet.", "She lived in London."]), [1 / 2, 1, 0, 0]),
        ({}, ask("Ada was a poet. Ada slept.", "Ada was a poet.", "Ada was a poet. Bob ran."), [1 / 2, 1, 1 / 2]),
    ],
    "stated_certainty": [
        ({"question": "Sure?", "sure": "Yes", "unsure": "No"}, ask("a", "ab"), [1 / (1 + math.e)] * 2),
        ({"question": "Sure?", "sure": "No", "unsure": "No way at all"}, ask("a"), [1 / (1 + math.exp(-11))]),
    ],
    "context_dependency": [({}, ask("abc", "a"), [0.3, 0.1])],
}  # fmt: skip
CASES = [pytest.param(name, *line, id=f"{name}-{i}") for name, lines in LINES.items() for i, line in enumerate(lines)]


def test_every_judge_has_its_line() -> None:
    assert set(LINES) == set(parts.of_kind("judge"))


def scores(verdicts: Sequence[Sequence[Verdict]]) -> list[list[float]]:
    return [[v.score for v in one] for one in verdicts]


@pytest.mark.parametrize(("name", "settings", "question", "worth"), CASES)
def test_answers_are_worth_what_they_are(
    name: str, settings: dict[str, Any], question: Question, worth: list[float]
) -> None:
    judge = parts.find("judge", name).choose(settings).build()
    judge.check([question.row])
    (found,) = scores(judge([question], FakeBench()))
    assert found == pytest.approx(worth)
    assert judge.needs_reference == (question.reference is not None)


@pytest.mark.parametrize(("name", "settings", "question", "worth"), [c for c in CASES if "unit_tests" not in str(c.id)])
def test_the_order_of_answers_and_questions_is_nothing(
    name: str, settings: dict[str, Any], question: Question, worth: list[float]
) -> None:
    judge = parts.find("judge", name).choose(settings).build()
    order = random.Random(0).sample(range(len(worth)), len(worth))
    turned = Question(question.prompt, question.row, question.reference, tuple(question.samples[i] for i in order))
    one, two, three = scores(judge([question, turned, question], FakeBench()))
    assert one == three == pytest.approx(worth) and two == pytest.approx([worth[i] for i in order])


def test_nothing_runs_without_leave() -> None:
    judge = parts.find("judge", "unit_tests").choose().build()
    question = ask("open('/tmp/never', 'w')", tests="pass")
    with pytest.raises(InputError, match="leave to do so"):
        judge.check([question.row])
    with pytest.raises(InputError, match="leave to do so"):
        judge([question], FakeBench())


def test_a_failed_program_says_why() -> None:
    judge = parts.find("judge", "unit_tests").choose({"allow": "confined", "before": "head"}).build()
    question = ask("def f(): return ONE", "def f(): return 2", tests="assert f() == 1, 'not one'", head="ONE = 1")
    ((good, bad),) = judge([question], FakeBench())
    assert good == Verdict(1.0, "") and bad == Verdict(0.0, "AssertionError: not one")


@pytest.mark.parametrize(
    ("name", "settings", "question", "says"),
    [
        ("exact_match", {}, ask("a"), "needs a right answer"),
        ("numeric_answer", {}, ask("1", reference="none"), "holds no number"),
        ("unit_tests", {"allow": "confined"}, ask("a"), "nothing in column 'tests'"),
        ("scorer", {}, ask("a"), "names no run"),
        ("scorer", {"run": "pairs", "label": "no such"}, ask("a"), "expected one of entailment"),
        ("claims", {"facts": "facts"}, ask("a"), "nothing in column 'facts'"),
    ],
)
def test_what_cannot_be_judged_is_one_clear_line(
    name: str, settings: dict[str, Any], question: Question, says: str
) -> None:
    judge = parts.find("judge", name).choose(settings).build()
    with pytest.raises(InputError, match=says):
        judge([question], FakeBench())


def test_semantic_entropy_names_its_run_or_another_way() -> None:
    with pytest.raises(InputError, match="names no run"):
        parts.find("judge", "semantic_entropy").choose({"by": "entailment"}).build()


@pytest.mark.parametrize(
    ("text", "found"),
    [("x = 1,234.5", "1234.5"), ("v2 is -3", "-3"), ("the answer is 4. Then 5", "4"), ("#### -0.5", "-0.5"), ("1e3", "1e3"),
     ("step 1: 2. Total: $80.", "80"), ("10%", "10"), ("a1b2", None), ("", None), ("3/4", "4"), (".5", ".5"),
     ("1,2 and 3", "3"), ("12,34", "34")],
)  # fmt: skip
def test_the_number_that_a_text_ends_on(text: str, found: str | None) -> None:
    assert number(text) == (None if found is None else Decimal(found))


def test_texts_are_cut_where_they_should_be() -> None:
    assert sentences("Dr. no") == ["Dr.", "no"] and sentences(" \n ") == []
    assert program("```\nx\n```") == "x\n" and program("```py\nx") == "x" and program("x") == "x"
    assert groups("abcab", lambda i, j: "abcab"[i] == "abcab"[j]) == [0, 1, 2, 0, 1]
