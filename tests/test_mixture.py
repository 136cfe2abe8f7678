"""Several row sets as one: what a row becomes, which rows are taken, what is wrong; and the recipes that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith import recipe as recipes
from tunesmith.data.mixture import mix
from tunesmith.data.rows import read
from tunesmith.errors import InputError
from tunesmith.run.carry_out import score

RECIPES = Path(__file__).parent.parent / "recipes"
LETTERS = [{"text": f"text {{x}} {i}", "label": "ab"[i % 2]} for i in range(40)]
WORDS = [{"sentence1": f"question {i}", "sentence2": f"passage {i}", "label": ("no", "yes")[i % 2]} for i in range(30)]
SETS: dict[str, Any] = {
    "letters": {"rows": LETTERS, "prompts": ["Which? {text}\n{options}", "{text}:"], "answer": "{label}", "limit": 10},
    "words": {"rows": WORDS, "prompts": "Ask: {sentence2}", "answer": "{sentence1}", "where": {"label": "yes"}},
}


def test_rows_are_told_by_their_sets_templates() -> None:
    made = mix(SETS)
    letters = [row for row in made if row["source"] == "letters"]
    assert len(letters) == 10 and len(made) == 10 + 15 and mix(SETS) == made
    texts = {row["text"]: row["label"] for row in LETTERS}
    forms = set()
    for row in letters:
        text = row["prompt"].removeprefix("Which? ").removesuffix("\nOptions:\n- a\n- b").removesuffix(":")
        assert texts[text] == row["completion"], "braces inside a value stay"
        forms.add("Which" in row["prompt"])
    assert forms == {True, False}, "both templates are used"
    assert made[-1] == {"prompt": "Ask: passage 29", "completion": "question 29", "source": "words"}


def test_a_table_is_made_of_them_wherever_rows_are_read() -> None:
    rows = read(SETS)
    assert rows.columns == ["prompt", "completion", "source"] and len(rows) == 25
    assert rows.fingerprint == read(SETS).fingerprint != read({"words": SETS["words"]}).fingerprint


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "rows: names no row set"),
        ({"a": "b.csv"}, "rows.a: is 'b.csv'; expected {rows"),
        ({"a": {"rows": LETTERS, "prompts": ["x"]}}, "rows.a: says no answer"),
        ({"a": {**SETS["letters"], "prompt": "x"}}, "rows.a: unknown setting 'prompt'.*did you mean 'prompts'"),
        ({"a": {**SETS["letters"], "answer": "{lable}"}}, "column 'lable' is missing.*did you mean 'label'"),
        ({"a": {**SETS["words"], "where": {"label": "maybe"}}}, "rows.a.where: no row fits"),
        ({"a": {**SETS["letters"], "limit": 0}}, "rows.a.limit: is 0"),
        ({"a": {**SETS["letters"], "answer": "{text}"}}, "rows.a: has 40 different answers"),
    ],
)
def test_a_mistake_is_named_with_its_set(how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        mix(how)


@pytest.mark.parametrize("name", ["flan", "anytasktune"])
def test_recipes_of_several_sets_train(
    name: str, bases: dict[str, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small tables in place of the packaged ones."""
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    for split in ("train", "test"):
        for own in values["rows"].get(split, {}).values():
            pairs = "privacy" in own["rows"]
            own |= {
                "rows": WORDS if pairs else LETTERS,
                "limit": 20,
                **({"where": {"label": "yes"}} if "where" in own else {}),
            }
    short = {
        "base": str(bases["llama"]),
        "budget.steps": 2,
        "checks.rows": 4,
        "checks.generate": 0,
        "length.max": 48,
        "batch.rows": 8,
    }
    made = recipes.make(recipes.override(values, short))
    scored = score(made, tmp_path, listen=lambda event: None)
    assert len([e for e in scored.events if e["event"] == "step"]) == 2
    task = scored.prepared.task
    assert task.name == "generate" and task.columns["prompt"] == "prompt"
    assert (task.sources or []) == ([] if name == "flan" else ["answering", "asking", "relevance"])
    if name == "flan":
        assert {row["source"] for row in map(scored.prepared.parted.tables["test"].__getitem__, range(5))} == {
            "reviews"
        }
