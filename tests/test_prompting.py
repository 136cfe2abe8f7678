"""Few labels and none: soft labels, self-training, samples of a domain, choices of tokens, collections, searched prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tunesmith as ts
from labs import Asked, PlantedLab, classified
from loss_batches import make_batch, make_host, make_step
from test_cloze import KITS, POOL, Fake, Kit
from test_recipes import even
from tiny import tiny
from tunesmith import parts
from tunesmith import recipe as recipes
from tunesmith.adapters import _stein
from tunesmith.claims.claim import every
from tunesmith.claims.lab import Lab
from tunesmith.comparing.store import Store
from tunesmith.data import blanks
from tunesmith.data.collection import Source, collect, sources_of
from tunesmith.data.encode import collator, encode
from tunesmith.data.rows import read
from tunesmith.data.tasks.classify import Classify
from tunesmith.engine.loop import Loop
from tunesmith.errors import InputError
from tunesmith.evaluation.answers import Answers
from tunesmith.experiments.asked_untuned import asked_untuned
from tunesmith.experiments.self_labelled import _Seed
from tunesmith.host import Host
from tunesmith.improving import labelling, self_training
from tunesmith.improving.labelling import labelled, surest
from tunesmith.losses._common import likelihoods
from tunesmith.run import carry_out, prompt_search
from tunesmith.run.prompt_search import assignments, write_templates

# ---------------------------------------------------------------------- soft labels and weights by held-out rows


def soft_labels(**settings: Any) -> Any:
    return parts.find("loss", "soft_labels").choose(settings).build()


def guided(kind: str = "row") -> tuple[Any, Any]:
    """A step with held-out rows, and the rows."""
    host = make_host(kind)
    step, held = make_step(host, kind, make_batch(kind)), make_step(host, kind, make_batch(kind, 5, seed=3))
    step._held_out = lambda: held
    return step, held


def test_a_row_counts_by_the_product_of_its_gradient_and_that_of_the_held_out_rows() -> None:
    step, held = guided()
    del step.batch["soft"]
    term = soft_labels(reweighted=True, reach=1e-4)
    weights = list(step.host.trainable().values())

    def slope(value: Tensor) -> Tensor:
        found = torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True)
        return torch.cat(
            [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found, strict=True)]
        )

    wanted = slope(likelihoods(held.logits, held).mean())
    each = term.apart(step.logits, step)
    products = torch.stack([slope(value) @ wanted for value in each]) / wanted.norm()
    torch.testing.assert_close(term.gains(step), products, rtol=1e-4, atol=1e-6)
    kept = products.clamp(min=0)
    assert 0 < int((kept > 0).sum()) < len(kept), "some rows help and others do not"
    torch.testing.assert_close(term(step), (kept * each).sum() / kept.sum(), rtol=1e-4, atol=1e-6)


def test_without_held_out_rows_there_is_nothing_to_weigh_by() -> None:
    with pytest.raises(InputError, match="validation rows; hold some out"):
        soft_labels(reweighted=True)(make_step(make_host("row"), "row", make_batch("row")))


def test_held_out_rows_follow_from_the_step_alone() -> None:
    from test_engine import work

    made = work("bert", "lora")
    made.held_out, made.rows_per_step = made.rows, 4
    loop = Loop(made)
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        torch.rand(seen.__len__())
        held = loop._held_out()
        assert held is not None
        seen.append(held.batch["input_ids"])
    assert len(seen[0]) == 4 and torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    made.held_out = None
    assert loop._held_out() is None


ROWS = [{"text": f"the fox is {i}", "label": "ab"[i % 2], "soft": None} for i in range(6)]


def task_of(**options: Any) -> Classify:
    columns = {"text": "text", "label": "label", "soft": "soft"}
    return Classify(columns, labels=["a", "b"], options={"multi": False, **options})


def test_soft_labels_go_from_the_rows_into_the_batch(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "soft": {"a": 0.25, "b": 0.75}}, *ROWS[1:]]
    table, reader = read(rows), KITS["encoder"]().reader
    found = encode(table, np.arange(6), task_of(), reader, cache=tmp_path)
    batch = collator(task_of(), 0)(found.take([0, 1, 2]))
    assert batch["soft"].tolist() == [[0.25, 0.75], [0, 1], [1, 0]]
    for wrong in ({"a": 0.4, "b": 0.4}, {"a": 0.5, "c": 0.5}):
        with pytest.raises(InputError, match="column 'soft' holds .*expected shares of a, b, 1 in all"):
            encode(read([{**ROWS[0], "soft": wrong}]), np.arange(1), task_of(), reader, cache=tmp_path)


# ---------------------------------------------------------------------- labelling


SHARES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.45, 0.55]])


@pytest.mark.parametrize("keep,wanted", [(1.0, [0, 1, 2, 3, 4]), (0.5, [0, 2, 3]), (0.01, [0, 2])])
def test_the_surest_of_each_class_are_kept(keep: float, wanted: list[int]) -> None:
    assert surest(SHARES, keep).tolist() == wanted
    columns = {"text": "text", "label": "label"}
    made = labelled([{"text": f"t{i}", "label": "?"} for i in range(5)], SHARES, ["a", "b"], columns, keep=keep)
    assert [row["text"] for row in made] == [f"t{i}" for i in wanted]
    assert made[0] == {"text": "t0", "label": "a", "soft": {"a": 0.9, "b": 0.1}}
    with pytest.raises(InputError, match="gives label 'c' to none of 5 rows"):
        labelled([{"text": "t"}] * 5, np.pad(SHARES, ((0, 0), (0, 1))), ["a", "b", "c"], columns)


@pytest.mark.parametrize("values,message", [
    ({"label": {"rows": "x", "round": 2}}, "did you mean 'label.rounds'"),
    ({"label": {"rows": "x", "keep": 0}}, "label.keep is 0"),
    ({"label": {}}, "label.rows"),
    ({"label": {"rows": "x", "student": {"los": "focal"}}}, "did you mean 'loss'"),
    ({"label": {"rows": "x", "teacher": "base", "views": {"a": {}}}}, "label.views are tuned"),
])  # fmt: skip
def test_a_wrong_labelling_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        labelling.make({"rows": "x.csv", **values})


def test_a_student_learns_what_its_teacher_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base labels, a student is tuned on the surer half, guided by the rows by people; and it is not done twice."""
    kit = KITS["encoder"]()
    kit.model.save_pretrained(tmp_path / "base")
    kit.reader.tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"text": f"the {w} is {i}", "label": w} for i in range(20) for w in ("fox", "dog")]
    words = {"fox": "fox", "dog": "dog"}
    values = {
        "base": str(tmp_path / "base"), "rows": rows[:24], "task": {"classify": {"cloze": {"words": words, "calibrate": True, "template": "{mask}: {text}"}}},
        "adapter": {"lora": {"rank": 2}}, "budget": {"steps": 2}, "batch": {"rows": 4},
        "label": {"rows": rows, "teacher": "base", "keep": 0.5, "labelled": "guide",
                  "student": {"loss": {"soft_labels": {"reweighted": True}}}},
    }  # fmt: skip
    monkeypatch.setattr(self_training, "labelled", even)
    monkeypatch.setattr(carry_out, "prove", lambda folder: {})
    heard: list[str] = []
    done = ts.self_train(values, out=tmp_path, name="s", progress=lambda e: heard.append(str(e.get("text"))))
    report = done.results
    assert [m["name"] for m in report["models"]] == ["student 1"] and 0 <= report["rounds"][0]["right"] <= 1
    assert report["rounds"][0]["asked"] == 16 and report["rounds"][0]["labelled"] < 12
    recipe = done.run.recipe
    assert recipe.rows.columns["soft"] == "soft" and [c.name for c in recipe.loss] == ["soft_labels"]
    train, guide = ([r["text"] for r in read(source)] for source in (recipe.rows.train, recipe.rows.validation))  # type: ignore[misc]
    assert not set(train) & set(guide) and set(guide) <= {r["text"] for r in rows[:24]} and len(train) < 12
    with pytest.raises(InputError, match="is there already"):
        ts.self_train(values, out=tmp_path, name="s", progress="quiet")
    again = ts.self_train(values, out=tmp_path, name="s", resume=True, progress="quiet")
    assert again.results == report


# ---------------------------------------------------------------------- samples of a domain, choices of tokens


def test_stein_descent_is_its_equation() -> None:
    """Liu and Wang 2016, eq. 8, by two loops; the kernel's bandwidth is ``width^2 / log n``."""
    torch.manual_seed(0)
    x, scores, width = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.tensor(1.5).double()
    h = width**2 / np.log(4)
    wanted = torch.zeros(4, 3).double()
    for i in range(4):
        for j in range(4):
            k = (-(x[j] - x[i]).square().sum() / h).exp()
            wanted[i] += (k * scores[j] - 2 / h * (x[j] - x[i]) * k) / 4
    torch.testing.assert_close(_stein.stein(x, scores, width), wanted)
    domain = torch.randn(6, 3).double()
    x.requires_grad_(True)
    density = (-torch.cdist(x, domain).square() / (2 * 0.7**2)).exp().mean(1).log().sum()
    torch.testing.assert_close(_stein.score(x, domain, torch.tensor(0.7)), torch.autograd.grad(density, x)[0])


def test_particles_stand_for_both_parts_of_a_domain() -> None:
    torch.manual_seed(0)
    domain = torch.cat([torch.randn(60, 2) * 0.3 + 4, torch.randn(60, 2) * 0.3 - 4])
    found = _stein.descend(torch.randn(12, 2), domain, torch.tensor(2.0), 300, 0.2)
    assert torch.cdist(found, domain).min(1).values.max() < 1.5
    low = found[found[:, 0] < 0]
    assert 2 < len(low) < 10 and low.std(0).min() > 0.3, "attraction alone would gather them at the middle"


def shown(name: str, ids: Tensor, **settings: Any) -> Any:
    """An adapter that has seen these ids before training."""
    host = Host(tiny("llama"))
    host.attach(parts.find("adapter", name).choose({"length": 4, **settings}))
    with torch.no_grad(), host.observing(torch.ones_like(ids)):
        host(input_ids=ids, attention_mask=torch.ones_like(ids))
    host.settle()
    (adapter,) = host.adapters.values()
    return host, adapter


def test_a_bayesian_prompt_begins_near_the_rows_tokens() -> None:
    ids = torch.tensor([[7, 8, 9, 7], [8, 9, 9, 7]])
    torch.manual_seed(0)
    host, adapter = shown("bayes_prompt", ids, particles=3, spread=0.05)
    table = host.model.get_input_embeddings().weight.detach()
    near = torch.cdist(adapter.prompt.detach(), table[[7, 8, 9]])
    assert (
        near.min(1).values.max()
        < torch.pdist(table[[7, 8, 9]]).max()
        < torch.cdist(table[[7]], table[30:]).median() * 2
    )


def test_a_discrete_prompt_chooses_among_the_rows_tokens() -> None:
    ids = torch.tensor([[7, 7, 7, 8], [8, 8, 9, 7]])
    host, adapter = shown("discrete_prompt", ids, candidates=3)
    assert adapter.ids.tolist() == [7, 8, 9]
    with torch.no_grad():
        adapter.logits.copy_(torch.tensor([[0, 1, 0], [5, 0, 0], [0, 0, 1], [1, 0, 0]]))
        assert adapter.prompt_ids() == [8, 7, 9, 7]
        asked = torch.cat([torch.tensor([[8, 7, 9, 7]] * 2), ids], 1)
        wanted = tiny("llama")(input_ids=asked).logits[:, 4:]
        torch.testing.assert_close(host.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, wanted)


# ---------------------------------------------------------------------- collections


NEWS = [{"text": f"goal {i}", "label": "sport"} for i in range(4)] + [
    {"text": f"price {i}", "label": "money"} for i in range(4)
]
PEOPLE = [{"text": f"{a} met {b}", "label": label, "head": a, "tail": b}
          for a, b, label in [("Ann", "Bo", "wed"), ("Cy", "Di", "none"), ("Ed", "Flo", "wed"), ("Gil", "Hal", "none")]]  # fmt: skip


def test_every_row_is_a_question_with_its_answer() -> None:
    told = {"wed": "{head} is married to {tail}", "none": "{head} and {tail} are not related"}
    sources = {"news": Source(NEWS, "What is it about?"), "people": Source(PEOPLE, labels=told)}
    made = collect(sources, "options", 3, seed=1)
    assert len(made) == 6 and made == collect(sources, "options", 3, seed=1) != collect(sources, "options", 3, seed=2)
    for row in made:
        lines = row["text"].splitlines()
        right = next(line for line in lines if line.startswith(f"{row['label']}: "))
        if row["source"] == "news":
            assert lines[0] == "What is it about?" and ("sport" in right) == ("goal" in lines[1])
        else:
            name = lines[0].split()[0]
            assert name in right and ("married" in right) == (name in ("Ann", "Ed"))
    asked = collect(sources, "yes_no", 4)
    assert len(asked) == 16 and sum(row["label"] == "yes" for row in asked) == 8
    assert all(("goal" in r["text"]) == ("sport" in r["text"]) == (r["label"] == "yes") or r["label"] == "no" or "price" in r["text"]
               for r in asked if r["source"] == "news")  # fmt: skip


@pytest.mark.parametrize("source,message", [
    (Source(PEOPLE, labels={"wed": "{nobody}", "none": "x"}), "cannot be filled in.*columns text, label, head, tail"),
    (Source(PEOPLE, labels={"wed": "x"}), "unknown label 'none'"),
    (Source([{"text": "a", "score": 0.5}, {"text": "b", "score": 1.5}]), "rows of task classify or pair"),
])  # fmt: skip
def test_a_source_that_does_not_fit_is_named(source: Source, message: str) -> None:
    with pytest.raises(InputError, match=message):
        collect({"one": source})
    with pytest.raises(InputError, match="no rows are named"):
        sources_of({"one": {"question": "?"}})


# ---------------------------------------------------------------------- searched prompts


def test_assignments_are_the_best_of_all() -> None:
    view: Any = Fake()
    words = [t for t in range(9)]

    def told(a: int, b: int) -> float:
        scores = view.said[:, [a, b]].log_softmax(-1)
        likely = scores.gather(1, view.classes[:, None]).mean().exp()
        return float((scores.argmax(-1) == view.classes).float().mean() + 0.01 * likely)

    ranked = sorted(((a, b) for a in words for b in words if a != b), key=lambda pair: -told(*pair))
    assert [tuple(w.values()) for w in assignments(view, 4, top=9)] == [(f"w{a}", f"w{b}") for a, b in ranked[:4]]


def test_a_template_is_the_likeliest_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one token between text and blank: the token with the largest sum over rows of its log-probability."""
    kit: Kit = KITS["encoder"]()
    monkeypatch.setattr(prompt_search, "SHAPES", ((1, 0),))
    rows, tokenizer = POOL[:3], kit.reader.tokenizer
    words = {row.label: "fox" for row in rows}

    class Base:
        def fills(self, ids: list[list[int]], places: list[int]) -> Tensor:
            return torch.stack([kit.log_probabilities(one)[p] for one, p in zip(ids, places, strict=True)])

    total = torch.zeros(len(tokenizer))
    for row in rows:
        ids = tokenizer(f"{row.text} [MASK] fox")["input_ids"]
        total += kit.log_probabilities(ids)[ids.index(tokenizer.mask_token_id)]
    base: Any = Base()
    (template,) = write_templates(base, rows, words, kit.reader, 1)
    fits = prompt_search._fits(kit.reader)
    best = int(total.masked_fill(~fits, -torch.inf).argmax())
    assert template == f"{{text}} {tokenizer.decode([best])} {{mask}}"
    with pytest.raises(InputError, match="single texts"):
        write_templates(base, [blanks.Shown("a", "b", "cat")], words, kit.reader, 1)


# ---------------------------------------------------------------------- experiments


def test_ways_to_ask_a_base_are_held_against_each_other() -> None:
    class Lab(PlantedLab):
        def before(self, recipe: Asked) -> Any:
            return classified(0.5 + 0.05 * recipe.get("shown", default=0), rows=400)

    lab: Any = Lab(lambda recipe, seed: classified(0.9, rows=400), range(3))
    found = asked_untuned(
        lab, variants={"none": {}, "two": {"shown": 2}}, tuned={"head": {"mask": "head"}}, task="topic"
    )
    assert found.figures["two.over.none"].value == pytest.approx(0.1) and found.figures["head.over.two"].low > 0.2
    assert found.figures["none.score"].value == pytest.approx(0.5) and found.figures["none.spread"].value == 0


def test_labels_made_wrong_on_purpose_are_wrong_in_both_columns() -> None:
    seed: Any = SimpleNamespace(seed=0, columns={"label": "label"}, labels=["a", "b"])
    rows = [{"text": "t", "label": "a", "soft": {"a": 0.8, "b": 0.2}} for _ in range(10)]
    made = _Seed._flipped(seed, rows, 0.3)
    wrong = [row for row in made if row["label"] == "b"]
    assert len(wrong) == 3 and all(row["soft"] == {"a": 0.2, "b": 0.8} for row in wrong)
    assert all(row["label"] == "a" and row["soft"]["a"] == 0.8 for row in rows)


# ---------------------------------------------------------------------- the claims of few labels, without a training


class Small(Lab):
    """Checks every recipe of a claim, reads its rows with a tiny base, and answers with what is planted."""

    def __init__(self, folder: Path, base: Path, rows: Path):
        super().__init__(Store(folder), [0, 1])
        self.base, self.file, self.asked = base, rows, []  # type: ignore[var-annotated]

    def recipe(self, task: str, technique: Any, **changes: Any) -> Any:
        super().recipe(task, technique, **changes)
        given = {k: v for k, v in {**technique, **changes}.items() if k not in ("base", "length") and "cloze." not in k}
        cloze = isinstance(given.get("task"), dict)
        given["task"] = {"classify": {"cloze": True}} if cloze else "classify"
        values = {"base": str(self.base), "rows": {"train": str(self.file)}, "length": {"max": 60, "over": "truncate"}}
        return recipes.make(recipes.override(values, given))

    def tuned(self, recipe: Any) -> Path:
        self._read(recipe)
        return Path("runs/made")

    def results(self, *asked: Any, seeds: Any = None) -> list[list[Any]]:
        return [[self.before(one) for _ in (self.seeds if seeds is None else seeds)] for one in asked]

    def before(self, recipe: Any) -> Any:
        rows = self._read(recipe)
        return SimpleNamespace(metric="accuracy", score=0.8, scores={"accuracy": 0.8}, answers=Answers(
            [1] * rows, [1] * rows, np.random.default_rng(0).dirichlet([1, 1], rows), labels=("dog", "fox")))  # fmt: skip

    def _read(self, recipe: Any) -> int:
        self.asked.append(recipe)
        made = recipe if Path(recipe.base).exists() else recipe.updated({"base": str(self.base)})
        return len(self.prepared(made).encoded["test"])


class Opened:
    """Stands for a run that says something of every row."""

    def __init__(self, folder: Path):
        self.folder = folder

    def probabilities(self, rows: Any) -> np.ndarray:
        return np.random.default_rng(1).dirichlet([1, 1], len(rows))


CLAIMS = {
    name: claim for name, claim in every(Path(__file__).parent.parent / "claims").items()
    if claim.experiment and claim.experiment.name in ("self_labelled", "asked_untuned", "instructed")
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_the_claims_recipes_are_valid_and_every_figure_is_given(
    name: str, masked: Path, reviews: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(home))
    monkeypatch.setattr("tunesmith.run.opened.Run", Opened)
    lab, claim = Small(tmp_path, masked, reviews), CLAIMS[name]
    own = {**claim.experiment.own, **({"sources": [str(reviews)]} if claim.experiment.name == "instructed" else {})}  # type: ignore[union-attr]
    outcome = claim.experiment.part.load()(lab, **own)  # type: ignore[union-attr]
    assert {e.figure for e in claim.expect} <= outcome.figures.keys()
    if claim.experiment.name == "self_labelled":  # type: ignore[union-attr]
        held = [r for r in lab.asked if r.rows.validation]
        assert bool(held) == any(how.get("labelled") == "guide" for how in own["students"].values())
        for recipe in held:
            train, guide, test = (
                {r["text"] for r in rows_of(getattr(recipe.rows, n))} for n in ("train", "validation", "test")
            )
            assert not train & guide and not train & test and not guide & test


def rows_of(source: Any) -> list[dict[str, Any]]:
    table = read(source)
    return [table[i] for i in range(len(table))]
