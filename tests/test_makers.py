"""Every maker by one suite: a line each, with the rows that it makes of judged answers written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tunesmith import parts
from tunesmith.judges import Question, Verdict
from tunesmith.makers import Answer, Judged


def judged(*samples: tuple[str, float], gold: str | None = None, prompt: str = "p", feedback: str = "no") -> Judged:
    question = Question(prompt, {}, gold, tuple(text for text, _ in samples))
    return Judged(question, tuple(Verdict(score, feedback if score < 1 else "") for _, score in samples))


class FakeDesk:
    """A model that says a prompt's last word, and a judge that likes what holds an x."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        return [prompt.split("|")[-1] for prompt in prompts]

    def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        return [[Verdict(float("x" in text)) for text in q.samples] for q in questions]


FOUR = judged(("a", 0.2), ("b", 1.0), ("c", 0.2), ("b ", 1.0), gold="g")
SURE = "Are you sure you accurately answered the question based on your internal knowledge?"
LINES: dict[str, list[tuple[dict[str, Any], list[Judged], list[Any]]]] = {
    "select": [
        ({}, [FOUR], ["b"]),
        ({"least": 0.0}, [FOUR], ["b", "a", "c"]),
        ({"least": 0.0, "cap": 2, "gold": True}, [FOUR], ["g", "b", "a"]),
        ({"distinct": "equations"}, [judged(("so 1+1=2", 1.0), ("1 + 1 = 2!", 1.0), ("2*1=2", 1.0), ("two", 1.0))],
         ["so 1+1=2", "2*1=2", "two"]),
        ({"distinct": "equations", "gold": True}, [judged(("1 + 1 = 2", 1.0), gold="1+1=2.")], ["1+1=2."]),
    ],
    "pairs": [
        ({}, [FOUR], ["b>a", "b>c"]),
        ({"cap": 1}, [FOUR], ["b>a"]),
        ({"take": "extremes"}, [FOUR, judged(("a", 0.1), ("b", 0.5), ("c", 0.9))], ["b>a", "c>a"]),
        ({}, [judged(("a", 0.1), ("b", 0.5), ("c", 0.9))], ["c>a", "c>b", "b>a"]),
        ({"margin": 0.4}, [judged(("a", 0.25), ("b", 0.5), ("c", 1.0))], ["c>a", "c>b"]),
        ({"margin": 0.5}, [judged(("a", 0.25), ("b", 0.5), ("c", 1.0))], ["c>a"]),
        ({"gold": True}, [FOUR], ["g>c", "g>a", "b>a", "b>c"]),
        ({}, [judged(("a", 1.0), ("b", 1.0))], []),
    ],
    "rated": [
        ({}, [FOUR], ["+b", "-a", "-c"]),
        ({"least": 0.2}, [judged(("a", 0.1), ("", 1.0), gold="g")], ["-a"]),
    ],
    "own_or_gold": [
        ({"paraphrase": ""}, [FOUR, judged(("a", 0.0), gold="g")], ["b", "g"]),
        ({"paraphrase": "{prompt}|{answer}"},
         [judged(("a", 0.0), gold="gx"), FOUR, judged(("a", 0.0), gold="g")], ["gx", "b", "g"]),
    ],
    "feedback": [
        ({}, [FOUR], ["<|good|> p: b", "<|good|> p: b ", "<|bad|> p: a\nno", "<|bad|> p: c\nno"]),
        ({"words": False}, [judged(("a", 0.0))], ["<|bad|> p: a"]),
    ],
    "certainty": [
        ({}, [FOUR, judged(("a", 0.0), gold="g"), judged(("a", 1.0))],
         [f"g\n{SURE} I am sure.", f"g\n{SURE} I am unsure.", f"a\n{SURE} I am sure."]),
    ],
    "abstain": [
        ({}, [FOUR, judged(("a", 0.2), gold="g"), judged(("a", 0.5))], ["g", "I don't know.", "a"]),
        ({"keep": "own", "least": 1.0}, [FOUR, judged(("a", 0.9), gold="g")], ["b", "I don't know."]),
    ],
    "knowledge": [
        ({"listing": "List.", "using": "Use:"}, [judged(("A is b. C is d.", 1.0), gold="A is b. C is d.")],
         ["A is b. C is d.", "p\n\nList.: - A is b.\n- C is d.", "p\n\nUse:\n- A is b.\n- C is d.: A is b. C is d."]),
    ],
    "corrupt": [
        ({"ways": ["delete"]}, [judged(gold="One. Two.")], ["One. Two.>Two."]),
        ({"ways": ["shuffle"]}, [judged(gold="One. Two."), judged(gold="One.")], ["One. Two.>Two. One."]),
        ({"ways": ["alter"]}, [judged(gold="He saw Rome."), judged(gold="She has 12 cats in Oslo.", prompt="q")],
         ["He saw Rome.>He saw Oslo.", "She has 12 cats in Oslo.>She has 12 cats in Rome."]),
    ],
    "critique": [({"asks": "{answer}?"}, [judged(("a", 0.0), ("b", 1.0))], ["p\n\nb?: Nothing. It is right.", "p\n\na?: no"])],
    "mark_context": [
        ({}, [judged(("g", 0.1), gold="g"), judged(("h", 0.9), gold="h", prompt="q")], ["g", "q [CONTEXT]: h"]),
        ({"share": 1.0}, [judged(("g", 0.1), gold="g")], ["p [CONTEXT]: g"]),
    ],
}  # fmt: skip
CASES = [pytest.param(name, *line, id=f"{name}-{i}") for name, lines in LINES.items() for i, line in enumerate(lines)]


def shown(item: Any) -> str:
    if isinstance(item, Answer) and item.good is not None:
        return f"{'+' if item.good else '-'}{item.completion}"
    if isinstance(item, Answer):
        return item.completion if item.prompt is None else f"{item.prompt}: {item.completion}"
    return f"{item.chosen}>{item.rejected}"


def test_every_maker_has_its_line() -> None:
    assert set(LINES) == set(parts.of_kind("maker"))


@pytest.mark.parametrize(("name", "settings", "given", "rows"), CASES)
def test_rows_are_made_exactly(name: str, settings: dict[str, Any], given: list[Judged], rows: list[str]) -> None:
    maker = parts.find("maker", name).choose(settings).build()
    made = maker(given, FakeDesk())
    assert [shown(item) for item in made] == rows
    assert [shown(item) for item in maker(given, FakeDesk())] == rows
    assert all(isinstance(item, Answer) != maker.pairs for item in made)


@pytest.mark.parametrize("name", sorted(LINES))
def test_a_maker_that_needs_no_answers_makes_no_empty_ones(name: str) -> None:
    maker = parts.find("maker", name).choose().build()
    if not maker.needs_reference:
        made = maker([judged(("", 0.0), ("a", 1.0)), judged(("a", 0.0), ("b", 0.0), prompt="q")], FakeDesk())
        for item in made:
            assert (
                item.completion.strip() if isinstance(item, Answer) else item.chosen.strip() and item.rejected.strip()
            )


def test_what_was_added_to_an_answer_is_not_scored() -> None:
    certain = parts.find("maker", "certainty").choose().build()
    (row,) = certain([judged(("a", 1.0), gold="g")], FakeDesk())
    assert certain.said(row.completion) == "g" and certain.said("g") == "g"
    assert parts.find("maker", "feedback").choose().build().ask("p") == "<|good|> p"
    assert parts.find("maker", "mark_context").choose().build().ask("p") == "p [CONTEXT]"
