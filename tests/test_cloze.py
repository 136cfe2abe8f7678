"""Classes told by filling a blank: the same ids in training and in use, and scores that are the language model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor

import tunesmith as ts
from tiny import CONFIGS
from tokens import bert, gpt, llama
from tunesmith import parts, recipe
from tunesmith.data import blanks, cloze
from tunesmith.data.reader import Reader
from tunesmith.data.rows import read
from tunesmith.data.tasks.classify import Classify
from tunesmith.engine.step import Step
from tunesmith.errors import InputError
from tunesmith.evaluation.answers import Answers
from tunesmith.host import Host
from tunesmith.models.bases import resolve
from tunesmith.run import few_shot
from tunesmith.run.few_shot import stratified
from tunesmith.run.prepare import few
from tunesmith.run.settling import settle, spelled

WORDS = {"cat": {"cat": 1.0}, "dog": {"dog": 2.0, "fox": 1.0}, "day": {"today": 1.0, "catfox": 0.5}}
TEXTS = ["The quick brown fox", "What is the capital of France?", "Hello there, how are you", "12 + 30 = 42 jumps over"]


def masked_tokenizer() -> Any:
    tokenizer = bert()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


def model_of(family: str, tokenizer: Any) -> Any:
    config = CONFIGS[family]()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    config.max_position_embeddings = 256
    torch.manual_seed(0)
    auto = tf.AutoModelForMaskedLM if family == "bert" else tf.AutoModelForCausalLM
    model = auto.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


class Kit:
    """A tiny language model with its reader, and a cloze of either kind."""

    def __init__(self, architecture: str, tokenizer: Any, family: str):
        self.architecture, self.family = architecture, family
        self.reader = Reader(tokenizer, architecture, max_length=200)
        self.model = model_of(family, tokenizer)
        self.host = Host(self.model).eval()

    def cloze(self, words: Any = None, template: Any = None, **more: Any) -> blanks.Cloze:
        words = words or WORDS
        template = template or cloze.PLAIN[self.architecture, False]
        templates = template if isinstance(template, list) else [template]
        return blanks.Cloze(list(words), self.architecture, templates, words, spelled(words, self.reader), **more)

    def batch(
        self, asked: blanks.Cloze, texts: list[str], pad: int = 0, labels: list[int] | None = None
    ) -> dict[str, Tensor]:
        made = asked.encode(texts, [""] * len(texts), self.reader)
        records = [
            {"views": e.views, "asked": e.asked, "labels": c}
            for e, c in zip(made, labels or [0] * len(made), strict=True)
        ]
        return blanks.collate(records, asked, pad)

    def step(self, asked: blanks.Cloze, texts: list[str], pad: int = 0, labels: list[int] | None = None) -> Step:
        return Step(self.host, self.batch(asked, texts, pad, labels), cloze.HEADS[self.architecture])

    @torch.no_grad()
    def scores(self, asked: blanks.Cloze, texts: list[str], pad: int = 0) -> Tensor:
        return self.step(asked, texts, pad).logits

    @torch.no_grad()
    def log_probabilities(self, ids: list[int]) -> Tensor:
        """Of every token at every place of one sequence."""
        return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)


KITS = {
    "encoder": lambda: Kit("encoder", masked_tokenizer(), "bert"),
    "decoder": lambda: Kit("decoder", gpt(), "llama"),
    "decoder-begin": lambda: Kit("decoder", llama(), "gpt2"),
}


@pytest.fixture(scope="module", params=KITS)
def kit(request: pytest.FixtureRequest) -> Kit:
    return KITS[request.param]()


@pytest.fixture(scope="module")
def encoder() -> Kit:
    return KITS["encoder"]()


POOL = [blanks.Shown(f"{text} {i}", "", label) for i, text in enumerate(TEXTS) for label in WORDS]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"combine": "sum"},
    "two templates": {"template": ["{text} It was {mask}.", "{text}\n{mask}"]},
    "demonstrations": {"demonstrations": 1, "sets": 2, "similar": 0.5, "pool": POOL},
    "prior": {"prior": [-0.5, -1.0, -2.0]},
}


# ---------------------------------------------------------------------- scores


def by_hand(kit: Kit, asked: blanks.Cloze, text: str) -> Tensor:
    """The class scores of one text, word by word and piece by piece, one forward pass each."""
    total = {label: [] for label in asked.labels}
    for template in asked.template:
        for number in range(asked.sets if asked.demonstrations else 1):
            shown = asked.shown_with(text, number) if asked.demonstrations else []
            examples = [
                template.format(text=s.text, mask=max(asked.verbalised[s.label], key=asked.verbalised[s.label].get))
                for s in shown
            ]
            for label, words in asked.verbalised.items():
                for word, weight in words.items():
                    total[label].append((weight, word_score(kit, template, text, examples, word)))
    found = []
    for scored in total.values():
        weights = torch.tensor([w for w, _ in scored])
        values = torch.stack([s for _, s in scored])
        share = weights / weights.sum()
        found.append((share * values).sum() if asked.combine == "mean" else (share * values.exp()).sum().log())
    return torch.stack(found) - (torch.tensor(asked.prior) if asked.prior else 0)


def word_score(kit: Kit, template: str, text: str, examples: list[str], word: str) -> Tensor:
    tokenizer = kit.reader.tokenizer
    if kit.architecture == "encoder":
        whole = " ".join([template.format(text=text, mask=tokenizer.mask_token), *examples])
        ids = tokenizer(whole)["input_ids"]
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        return kit.log_probabilities(ids)[ids.index(tokenizer.mask_token_id), pieces].mean()
    before = "".join(f"{e}\n\n" for e in examples) + template.split("{mask}")[0].format(text=text)
    spaced = before.endswith(" ")
    prompt = kit.reader.beginning(before.removesuffix(" "))
    pieces = kit.reader.word(word, spaced)
    said = kit.log_probabilities([*prompt, *pieces])
    return sum(said[len(prompt) - 1 + j, t] for j, t in enumerate(pieces))


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_the_formula(form: str, kit: Kit) -> None:
    asked = kit.cloze(**FORMS[form])
    wanted = torch.stack([by_hand(kit, asked, text) for text in TEXTS])
    assert torch.allclose(kit.scores(asked, TEXTS), wanted, atol=1e-4)
    assert wanted.std(0).max() > 1e-3, "the texts make no difference: nothing is tested"


def test_scores_are_those_of_fill_mask(encoder: Kit) -> None:
    """transformers' own pipeline says the same probabilities of single-piece words at the mask."""
    words = {w: {w: 1.0} for w in ("dog", "fox", "cat")}
    single = {w: a for w, a in words.items() if len(encoder.reader.word(w, True)) == 1}
    assert len(single) >= 2
    pipeline = tf.pipeline("fill-mask", model=encoder.model, tokenizer=encoder.reader.tokenizer)
    asked = encoder.cloze(single)
    for text, scores in zip(TEXTS, encoder.scores(asked, TEXTS), strict=True):
        said = {r["token_str"]: r["score"] for r in pipeline(f"{text} It was [MASK].", targets=list(single))}
        assert torch.allclose(scores.exp(), torch.tensor([said[w] for w in single]), rtol=1e-4)


def test_words_of_several_pieces_are_there(kit: Kit) -> None:
    """So that the formula above is one of sums over pieces, with a shared beginning read once."""
    assert any(len(ids) > 1 for ids in kit.cloze().pieces.values())


@pytest.mark.parametrize("form", FORMS)
def test_padding_and_order_make_no_difference(form: str, kit: Kit) -> None:
    asked = kit.cloze(**FORMS[form])
    together = kit.scores(asked, TEXTS)
    alone = torch.cat([kit.scores(asked, [text]) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(kit.scores(asked, TEXTS[::-1]).flip(0), together, atol=1e-4)
    assert torch.allclose(kit.scores(asked, TEXTS, pad=7), together, atol=1e-5)


def test_plausibility_asks_for_every_token_of_the_text(kit: Kit) -> None:
    template = "{mask}: {text} now"
    asked = kit.cloze({"cat": {"cat": 1.0}, "dog": {"dog": 1.0}}, template=template, plausibility=True)
    tokenizer = kit.reader.tokenizer
    for text, found in zip(TEXTS, kit.scores(asked, TEXTS), strict=True):
        for word, score in zip(("cat", "dog"), found, strict=True):
            whole, start = template.format(mask=word, text=text), len(word) + 2
            special = kit.architecture == "encoder"
            read_ = tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True)
            begin = [] if special else kit.reader.beginning("")
            ids = [*begin, *read_["input_ids"]]
            places = [
                i + len(begin)
                for i, (a, b) in enumerate(read_["offset_mapping"])
                if a < start + len(text) and b > max(a, start)
            ]
            if special:
                masked = [[*ids[:p], tokenizer.mask_token_id, *ids[p + 1 :]] for p in places]
                wanted = sum(kit.log_probabilities(m)[p, ids[p]] for m, p in zip(masked, places, strict=True))
            else:
                wanted = sum(kit.log_probabilities(ids)[p - 1, ids[p]] for p in places if p)
            assert torch.allclose(score, wanted, atol=1e-3)


def test_features_are_the_states_at_the_blank(encoder: Kit) -> None:
    asked = encoder.cloze()
    step = encoder.step(asked, TEXTS)
    mask = step.batch["input_ids"] == encoder.reader.tokenizer.mask_token_id
    with torch.no_grad():
        hidden = encoder.model.bert(**step.inputs).last_hidden_state
    assert torch.allclose(step.main.features, hidden[mask], atol=1e-5)


def test_gradients_flow_to_the_words(kit: Kit) -> None:
    step = kit.step(kit.cloze(), TEXTS, labels=[0, 1, 2, 1])
    table = kit.model.get_input_embeddings().weight.requires_grad_()
    torch.nn.functional.cross_entropy(step.logits, step.targets).backward()
    assert table.grad is not None and table.grad.abs().sum() > 0
    table.grad = None


@pytest.mark.parametrize(("kind", "shift"), [("gold", 0), ("shuffled", 1)])
def test_prompted_pretraining_is_its_formula(kind: str, shift: int, encoder: Kit) -> None:
    """First the language model's loss at the masked places of the filled prompt, later the loss of the classes."""
    labels, mask = [0, 1, 2, 1], encoder.reader.tokenizer.mask_token_id
    asked = encoder.cloze({**WORDS, "day": {"catfox": 1.0}}, ["{text} It was {mask}.", "{mask}: {text}"])
    term = parts.find("loss", "prompted_pretraining").choose({"labels": kind, "share": 0.3}).build()
    step = encoder.step(asked, TEXTS, labels=labels)
    torch.manual_seed(4)
    places = term.chosen(encoder.step(asked, TEXTS, labels=labels))
    torch.manual_seed(4)
    with torch.no_grad():
        found = term(step)
    each = []
    for s, ids in enumerate(step.batch["input_ids"].tolist()):
        word = ["cat", "dog", "catfox"][(labels[s // 2] + shift) % 3]
        there = int(step.batch["attention_mask"][s].sum())
        full = [encoder.reader.word(word, True)[0] if t == mask else t for t in ids[:there]]
        holes = places[s].nonzero()[:, 0].tolist()
        assert holes and max(holes) < there
        said = encoder.log_probabilities([mask if i in holes else t for i, t in enumerate(full)])
        each.append(-said[holes, [full[i] for i in holes]].mean())
    assert torch.allclose(found, torch.stack(each).mean(), atol=1e-4), torch.stack(each)
    late = Step(encoder.host, step.batch, "masked-cloze", progress=0.6)
    with torch.no_grad():
        assert torch.allclose(term(late), torch.nn.functional.cross_entropy(late.logits, late.targets))


@pytest.mark.parametrize("dummies", [0.0, 0.95])
def test_answer_modelling_asks_for_the_answer_or_for_any_word(dummies: float, encoder: Kit) -> None:
    """At the blank it is the vocabulary's loss of the label's word; in a dummy that of hidden tokens of the filled prompt."""
    labels, mask = [0, 1, 2, 1], encoder.reader.tokenizer.mask_token_id
    words = {"cat": {"cat": 1.0}, "dog": {"dog": 1.0}, "day": {"fox": 1.0}}
    asked = encoder.cloze(words)
    term = parts.find("loss", "answer_modelling").choose({"dummies": dummies}).build()
    torch.manual_seed(6)
    places = term.hidden(encoder.step(asked, TEXTS, labels=labels))
    torch.manual_seed(6)
    step = encoder.step(asked, TEXTS, labels=labels)
    with torch.no_grad():
        found = term(step)
    each, plain = [], 0
    for row, (ids, label) in enumerate(zip(step.batch["input_ids"].tolist(), labels, strict=True)):
        ids = ids[: int(step.batch["attention_mask"][row].sum())]
        full = [encoder.reader.word(next(iter(list(words.values())[label])), True)[0] if t == mask else t for t in ids]
        holes = places[row].nonzero()[:, 0].tolist()
        plain += holes != [ids.index(mask)]
        said = encoder.log_probabilities([mask if i in holes else t for i, t in enumerate(full)])
        each.append(-said[holes, [full[i] for i in holes]].mean())
    assert (plain > 0) == (dummies > 0)
    assert torch.allclose(found, torch.stack(each).mean(), atol=1e-4)


# ---------------------------------------------------------------------- ids


def task_of(form: Any, rows: Any, labels: list[str]) -> Classify:
    return Classify({"text": "text", "label": "label"}, labels=labels, options={"multi": False, "cloze": form})


@pytest.mark.parametrize("template", ["{text} It was {mask}.", "{text}\n{mask}", "A {{x}} {text}: {mask}"])
@pytest.mark.parametrize("shown", [0, 2])
def test_ids_are_the_same_in_training_and_in_use(template: str, shown: int, kit: Kit) -> None:
    task = task_of({"template": template, "demonstrations": shown}, None, list(WORDS))
    asked = kit.cloze(template=template, demonstrations=shown, pool=POOL)
    task.__dict__["blanks"] = asked
    trained = task.encode([{"text": s.text, "label": s.label} for s in POOL], kit.reader)
    used = task.encode([{"text": s.text} for s in POOL], kit.reader)
    assert [e.views for [e] in trained] == [e.views for [e] in used]
    assert [e.labels for [e] in trained] == [list(WORDS).index(s.label) for s in POOL]


def test_examples_never_hold_the_row_and_are_the_nearest() -> None:
    kit = KITS["encoder"]()
    near = kit.cloze(demonstrations=1, similar=0.01, pool=POOL)
    for row in POOL:
        shown = near.shown_with(row.text, 0)
        assert sorted(s.label for s in shown) == sorted(WORDS) and all(s.text != row.text for s in shown)
    assert all(s.text.startswith("Hello there") for s in near.shown_with("Hello there, how", 0))
    far = kit.cloze(demonstrations=2, pool=POOL)
    assert far.shown_with("x", 0) == far.shown_with("x", 0) != far.shown_with("x", 1)


@pytest.mark.parametrize("limit", [24, 30, 40])
def test_a_long_text_is_cut_and_the_template_stays(limit: int, kit: Kit) -> None:
    reader = Reader(kit.reader.tokenizer, kit.architecture, max_length=limit)
    asked = kit.cloze(template="{text} It was {mask}.")
    long = "The quick brown fox jumps over the lazy dog. " * 9
    (made,) = asked.encode([long], [""], reader)
    assert made.views and max(map(len, made.views)) <= limit < made.full
    text = reader.tokenizer.decode(made.views[0])
    assert "It was" in text.replace(" ", "  ").replace("  ", " ")
    with pytest.raises(InputError, match="leaves no room"):
        asked.encode([long], [""], Reader(kit.reader.tokenizer, kit.architecture, max_length=4))


def test_a_mask_in_the_text_is_not_the_blank(encoder: Kit) -> None:
    asked = encoder.cloze()
    (made,) = asked.encode(["a [MASK] b"], [""], encoder.reader)
    assert made.views and made.asked
    masks = [i for i, t in enumerate(made.views[0]) if t == encoder.reader.tokenizer.mask_token_id]
    assert len(masks) == 2 and set(made.asked[1]) == {masks[1]}


# ---------------------------------------------------------------------- verbalisers


class Fake:
    """A base of ten words that says what it is told to say."""

    labels, names = ("L0", "L1"), ("w0", "w1")
    classes = torch.tensor([0, 0, 1, 1])

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.said = (torch.randn(4, 10) * 2).log_softmax(-1)
        self.table = torch.randn(10, 6)

    def pieces(self, word: str) -> list[int]:
        return [int(word[1:])]

    def word(self, token: int) -> str | None:
        return f"w{token}" if token != 9 else None


def names(view: Fake, **_: Any) -> dict[str, dict[str, float]]:
    return {"L0": {"w0": 1.0}, "L1": {"w1": 1.0}}


def search(view: Fake, top: int, **_: Any) -> dict[str, dict[str, float]]:
    """Every assignment of the likeliest words, counted out."""
    lists = [
        [t for t in view.said[view.classes == c].sum(0).argsort(descending=True).tolist() if t != 9][:top]
        for c in (0, 1)
    ]

    def told(a: int, b: int) -> tuple[float, float]:
        scores = view.said[:, [a, b]].log_softmax(-1)
        return (scores.argmax(-1) == view.classes).sum().item(), scores.gather(1, view.classes[:, None]).mean().item()

    best = max(((a, b) for a in lists[0] for b in lists[1] if a != b), key=lambda pair: told(*pair))
    return {"L0": {f"w{best[0]}": 1.0}, "L1": {f"w{best[1]}": 1.0}}


def expand(view: Fake, terms: int, least: float, calibrated: bool) -> dict[str, dict[str, float]]:
    table = view.table - view.table.mean(0)
    near = torch.nn.functional.cosine_similarity(table[:, None], table[None, :2], dim=-1)
    usual = view.said.exp().mean(0) if calibrated else torch.ones(10)
    made: dict[str, dict[str, float]] = {}
    for c in (0, 1):
        others = [t for t in range(2, 9) if near[t].argmax() == c and near[t, c] >= least]
        kept = sorted(others, key=lambda t: -near[t, c])[: terms - 1]
        made[f"L{c}"] = {f"w{t}": float((1.0 if t == c else near[t, c]) / usual[t]) for t in [c, *kept]}
    return made


def known_terms(view: Fake, terms: dict[str, list[str]], **_: Any) -> dict[str, dict[str, float]]:
    """Terms that are nearer to their own label than to the other one, by relevance."""
    table = view.table - view.table.mean(0)
    made: dict[str, dict[str, float]] = {}
    for c, label in enumerate(view.labels):
        near = {t: torch.nn.functional.cosine_similarity(table[int(t[1:])], table[[0, 1]]) for t in terms[label]}
        made[label] = {f"w{c}": 1.0} | {t: float(v[c]) for t, v in near.items() if v[c] > max(0.0, float(v[1 - c]))}
    return made


LINES: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "names": (names, {}),
    "known_terms": (
        known_terms,
        {"terms": {"L0": ["w2", "w3", "w4", "w0"], "L1": ["w5", "w6", "w7", "w8"]}, "least": 0.0, "most": 9},
    ),
    "search": (search, {"top": 4, "rounds": 10}),
    "expand": (expand, {"terms": 3, "least": 0.0, "calibrated": True}),
}


def test_every_verbaliser_has_its_line() -> None:
    assert set(LINES) == set(parts.of_kind("verbaliser"))


@pytest.mark.parametrize("name", LINES)
def test_verbalisers_are_their_formula(name: str) -> None:
    again, settings = LINES[name]
    found = parts.find("verbaliser", name).choose(settings).build()(Fake())
    wanted = again(Fake(), **settings)
    assert {k: set(v) for k, v in found.items()} == {k: set(v) for k, v in wanted.items()}
    for label, words in wanted.items():
        assert found[label] == pytest.approx(words, rel=1e-4)


# ---------------------------------------------------------------------- settled, and whole runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, kit in KITS.items():
        made[name] = tmp_path_factory.mktemp("bases") / name
        built = kit()
        built.model.save_pretrained(made[name])
        built.reader.tokenizer.save_pretrained(made[name])
    return made


ROWS = [{"text": f"the {w} is {i}", "label": label} for i in range(20) for w, label in (("fox", "fox"), ("dog", "dog"))]


@pytest.mark.parametrize("words", ["names", "search", {"expand": {"terms": 2}}, {"fox": ["fox", "cat"], "dog": "dog"}])
def test_a_task_is_settled_and_described(words: Any, folders: dict[str, Path]) -> None:
    table = read(ROWS)
    task = task_of({"words": words, "calibrate": True, "demonstrations": 1}, ROWS, ["dog", "fox"])
    base = resolve(str(folders["encoder"]))
    kit = KITS["encoder"]()
    settle(task, base, table, np.arange(len(table)), 0, kit.reader)
    again = Classify(task.columns, labels=task.labels, options=task.settings)
    encoded = [t.encode([ROWS[0]], kit.reader)[0][0].views for t in (task, again)]
    assert encoded[0] == encoded[1] and task.describe() == again.describe()
    assert task.blanks and len(task.blanks.prior) == 2
    assert sum(np.exp(task.blanks.prior)) == pytest.approx(1, abs=1e-4)


def test_the_prior_takes_off_what_is_said_of_nothing(folders: dict[str, Path]) -> None:
    """With one text without content the calibrated shares of that text would be even; with three, their mean is."""
    table, kit = read(ROWS), KITS["decoder"]()
    task = task_of({"calibrate": True}, ROWS, ["dog", "fox"])
    settle(task, resolve(str(folders["decoder"])), table, np.arange(len(table)), 0, kit.reader)
    assert task.blanks is not None
    free = ["N/A", "none", "..."]
    plain = blanks.Cloze(**{**vars(task.blanks), "prior": []})  # type: ignore[arg-type]
    shares = kit.scores(plain, free).softmax(-1).mean(0)
    assert torch.allclose(torch.tensor(task.blanks.prior).exp(), shares, atol=1e-4)


RUNS = [
    ("encoder", {"adapter": {"lora": {"rank": 2}}}, {"template": ["{text} It was {mask}.", "{mask}: {text}"]}),
    ("decoder", {"mask": "everything"}, {"demonstrations": 1, "calibrate": True}),
]


@pytest.mark.parametrize("name,options,form", RUNS, ids=["encoder", "decoder"])
def test_a_run_is_whole(
    name: str, options: dict[str, Any], form: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    run = ts.tune(ROWS, base=str(folders[name]), task={"classify": {"cloze": form}}, out=tmp_path, name="r", epochs=1,
                  progress="quiet", batch={"rows": 8}, **options)  # fmt: skip
    report = run.results
    wanted = "base (in context)" if form.get("demonstrations") else "base (zero-shot)"
    assert wanted in report["before"] and "base (linear probe)" in report["before"]
    said = run.predict(["the fox is 3", "a dog"])
    assert ts.open_run(run.folder).predict(["the fox is 3", "a dog"]) == said
    assert run.evaluate(ROWS)["rows"] == len(ROWS)
    merged = run.save_pretrained(tmp_path / "merged")
    auto = tf.AutoModelForMaskedLM if name == "encoder" else tf.AutoModelForCausalLM
    _, loaded = auto.from_pretrained(merged, output_loading_info=True)
    assert not loaded["missing_keys"]


def test_the_base_is_scored_without_what_is_attached(folders: dict[str, Path], tmp_path: Path) -> None:
    """Virtual tokens change what a prompt says even before they have learned."""
    before = [
        ts.tune(ROWS, base=str(folders["encoder"]), task={"classify": {"cloze": {}}}, out=tmp_path, name=adapter, epochs=1,
                progress="quiet", batch={"rows": 8}, adapter=adapter).results["before"]["base (zero-shot)"]
        for adapter in ("prompt_tuning", "lora")
    ]  # fmt: skip
    assert before[0] == before[1]


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "form,message",
    [
        ({"template": "{text} was"}, "one {mask}"),
        ({"template": "{text} {mask} {label}"}, "has text, mask, label"),
        ({"tempalte": "x"}, "did you mean 'template'"),
        ({"combine": "max"}, "mean or sum"),
        ({"demonstrations": -1}, "demonstrations a label"),
        ({"words": 3}, "a verbaliser, or words"),
        (3, "true, a template, or settings"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(form: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task_of(form, None, ["a", "b"])


@pytest.mark.parametrize(
    "name,form,message",
    [
        ("encoder", {"words": {"fox": "fox", "dgo": "dog"}}, "did you mean 'dog'"),
        ("encoder", {"words": {"fox": "fox", "dog": []}}, "has no word"),
        ("encoder", {"words": {"fox": "fox", "dog": "Ω"}}, "not in the base's vocabulary"),
        ("encoder", {"words": {"fox": "fox", "dog": "fox"}}, "have the same words"),
        ("encoder", {"words": "serach"}, "did you mean 'search'"),
        ("decoder", {"template": "{mask} is {text}"}, "goes on after the mask"),
        ("encoder", {"template": "{text} {second} {mask}"}, "no {second}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_base_or_rows_is_named(name: str, form: Any, message: str, folders: dict[str, Path]) -> None:
    task, table = task_of(form, ROWS, ["dog", "fox"]), read(ROWS)
    with pytest.raises(InputError, match=message):
        settle(task, resolve(str(folders[name])), table, np.arange(len(table)), 0, KITS[name]().reader)


def test_a_base_without_the_head_is_named(bases: dict[str, Path]) -> None:
    from tunesmith.models.bases import load

    with pytest.raises(InputError, match="no masked-language-model head.*splade-tiny"):
        load(resolve(str(bases["bert"])), "masked-cloze")
    with pytest.raises(InputError, match="fills no blanks"):
        task_of(True, None, ["a", "b"]).head("encoder-decoder")


def test_a_task_with_a_head_says_nothing_of_it() -> None:
    """So that what is cached and stored for it keeps its name."""
    for off in (None, False):
        assert "cloze" not in str(task_of(off, None, ["a", "b"]).describe())


# ---------------------------------------------------------------------- few labels


def test_few_rows_of_each_label_are_drawn() -> None:
    table = read([{"text": f"t{i}", "label": "ab"[i % 5 == 0]} for i in range(50)])
    task = task_of(None, None, ["a", "b"])
    kept, counts = few(table, task, np.arange(5, 50), 6, 0)
    labels = [table[int(i)]["label"] for i in kept]
    assert counts == {"a": 6, "b": 6} == {label: labels.count(label) for label in "ab"} and min(kept) >= 5
    assert (
        kept.tolist()
        == few(table, task, np.arange(5, 50), 6, 0)[0].tolist()
        != few(table, task, np.arange(5, 50), 6, 1)[0].tolist()
    )
    assert few(table, task, np.arange(50), 30, 0)[1] == {"a": 30, "b": 10}


def test_folds_hold_every_row_once_and_every_label() -> None:
    labels = ["a"] * 9 + ["b"] * 5
    folds = stratified(labels, 0)
    assert len(folds) == 4 and sorted(np.concatenate(folds)) == list(range(14))
    assert all({labels[i] for i in fold} == {"a", "b"} for fold in folds)
    assert len(stratified(["a"] * 9 + ["b"] * 2, 0)) == 2
    with pytest.raises(InputError, match="one row only"):
        stratified(["a", "a", "b"], 0)


def test_prompt_or_head_by_what_is_measured(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    """The way that tells more held-out rows right is taken; a base without blanks gets a head, and says so."""
    right = {few_shot.HEAD: 0.5, few_shot.PROMPT: 1.0}
    seen = []

    def held_out(trial: Any, rows: Any, task: Any, fold: Any, *, tuned: bool) -> Answers:
        name = (
            few_shot.CONTEXT if not tuned else few_shot.PROMPT if "cloze" in trial.task["classify"] else few_shot.HEAD
        )
        seen.append((name, len(fold)))
        if name == few_shot.CONTEXT or right[name] is None:
            raise InputError("has no masked-language-model head")
        truth = [i % 2 for i in range(len(fold))]
        said = [t if i < right[name] * len(fold) else 1 - t for i, t in enumerate(truth)]
        return Answers(truth, said, np.eye(2)[said] * 0.8 + 0.1, ["dog", "fox"])

    monkeypatch.setattr(few_shot, "_held_out", held_out)
    made = recipe.make({"rows": {"train": ROWS, "shots": 4}, "base": str(folders["encoder"])})
    notes: list[str] = []
    choice = few_shot.choose(made, listen=lambda e: notes.append(e["text"]))
    assert choice.chosen == few_shot.PROMPT and choice.recipe.task == {"classify": {"multi": False, "cloze": True}}
    assert choice.accuracy[few_shot.PROMPT].value == 1 and choice.accuracy[few_shot.HEAD].value == 0.5
    assert few_shot.CONTEXT in choice.left_out and "prompt - head = +0.500" in notes[-1]
    assert sum(n for name, n in seen if name == few_shot.HEAD) == 8
    right[few_shot.PROMPT] = None  # type: ignore[assignment]
    choice = few_shot.choose(made, listen=lambda e: None)
    assert choice.chosen == few_shot.HEAD and "cloze" not in str(choice.recipe.task)
    assert "no masked-language-model head" in choice.lines[-1]
