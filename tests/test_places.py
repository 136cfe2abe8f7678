"""Sites that are more than one module: prompts in the input, prefixes in attentions, sub-layers, layers, heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tiny import BOTH, CONFIGS, DECODERS, batch, tiny
from tunesmith import artefacts, parts
from tunesmith.engine.step import Step
from tunesmith.errors import InputError
from tunesmith.host import Host

FAMILIES = list(CONFIGS)
SETTINGS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"length": 3},
    "prefix_tuning": {"length": 3},
    "bottleneck": {"size": 4, "parallel": True},
    "connected": {"size": 4},
    "reft": {"rank": 2},
    "lofit": {},
    "apt": {"length": 5},
    "prompt_bank": {"length": 2, "memories": 7, "asking": 4},
    "ept": {"length": 2, "places": 7, "asking": 4},
    "mosa": {"size": 4},
}
KINDS = ("prompt_tuning", "prefix_tuning", "bottleneck", "reft", "lofit")
"""One technique of each kind of place: these meet every family; what differs between families is not theirs to hide."""


def meetings(families: list[str], few: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, family) for name in SETTINGS for family in families if name in KINDS or family in few]


def hosted(family: str, *names: str, head: str | None = None, **settings: Any) -> Host:
    host = Host(tiny(family, head))
    for name in names:
        host.attach(parts.find("adapter", name).choose({**SETTINGS.get(name, {}), **settings}))
    torch.manual_seed(1)
    for parameter in (*host.adapters.parameters(), *host.shared.parameters()):
        nn.init.normal_(parameter, std=0.3)
    return host.eval()


def takes(family: str, name: str) -> bool:
    return not (family == "deberta-v2" and name == "prefix_tuning")


def padded(family: str, width: int, seed: int = 0, left: bool = False) -> dict[str, Tensor]:
    """One row of 5 tokens in a batch of this width."""
    real = batch(family, rows=1, length=5, seed=seed)
    extra = torch.zeros(1, width - 5, dtype=torch.long)
    made = {k: torch.cat([extra, v] if left else [v, extra], 1) for k, v in real.items() if k != "decoder_input_ids"}
    return made | ({"decoder_input_ids": real["decoder_input_ids"]} if family in BOTH else {})


@pytest.mark.parametrize(("name", "family"), meetings(FAMILIES, ("bert", "gpt2", "t5")))
@torch.no_grad()
def test_every_family_has_every_place_and_padding_changes_nothing(name: str, family: str) -> None:
    if not takes(family, name):
        with pytest.raises(InputError, match="computes attention by 'eager' and takes no extra keys"):
            hosted(family, name)
        return
    host = hosted(family, name)
    base = tiny(family)(**padded(family, 5)).logits
    alone = host(**padded(family, 5)).logits
    assert alone.shape == base.shape and not torch.allclose(alone, base, atol=1e-3)
    with host.off():
        assert torch.equal(host(**padded(family, 5)).logits, base)
    places = slice(0, 5)
    longer = host(**padded(family, 9)).logits
    longer = longer if longer.ndim == 2 else longer[:, places]
    torch.testing.assert_close(longer, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "family"), [m for m in meetings([*DECODERS, "t5"], ("llama", "t5")) if m[0] != "lofit"]
)
@torch.no_grad()
def test_what_is_written_is_what_the_model_says_without_a_cache(name: str, family: str) -> None:
    host = hosted(family, name)
    rows = [padded(family, 5, seed=s) for s in (1, 2)]
    rows = [{k: v for k, v in r.items() if k != "decoder_input_ids"} for r in rows]
    rows[1] = {k: v[:, :4] for k, v in rows[1].items()}
    together = {k: torch.cat([rows[0][k], nn.functional.pad(rows[1][k], (1, 0))]) for k in rows[0]}
    written = host.model.generate(**together, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    for number, row in enumerate(rows):
        if family in BOTH:
            said = written[number : number + 1]
            logits = host(**row, decoder_input_ids=said[:, :-1]).logits
            wanted, got = said[:, 1:], logits
        else:
            said = written[number : number + 1, -6:]
            ids = torch.cat([row["input_ids"], said], 1)
            got = host(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -7:-1]
            wanted = said
        got[..., host.model.generation_config.eos_token_id] = -torch.inf
        assert torch.equal(got.argmax(-1), wanted)


@pytest.mark.parametrize(("name", "family"), meetings(["bert", "llama", "t5"], ("t5",)))
def test_gradient_checkpointing_changes_no_gradient(name: str, family: str) -> None:
    found = []
    for checkpointing in (False, True):
        host = hosted(family, name).train()
        for module in host.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(0)
        for seed in (0, 1):
            host(**batch(family, seed=seed)).logits.square().mean().backward()
        found.append({n: p.grad for n, p in host.trainable().items()})
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "family"), meetings(["bert", "llama", "t5"], ("bert",)))
def test_bf16(name: str, family: str) -> None:
    host = hosted(family, name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = host(**batch(family)).logits.float().square().mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in host.trainable().values())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_all_places_stack(family: str) -> None:
    host = hosted(
        family, "prompt_tuning", "prefix_tuning", "bottleneck", "reft", "lora", "prompt_tuning", "prefix_tuning"
    )
    host(**batch(family)).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in host.trainable().values())


@torch.no_grad()
def test_a_prompt_is_embeddings_in_front_and_supervised_places_stay() -> None:
    for family in ("llama", "bert"):
        host = hosted(family, "prompt_tuning", head=None if family == "llama" else "token-classification")
        given = batch(family)
        (prompt,) = host.adapters.values()
        embeddings = host.model.get_input_embeddings()(given["input_ids"])
        longer = torch.cat([prompt.prompt.expand(3, -1, -1), embeddings], 1)
        expected = tiny(family, None if family == "llama" else "token-classification")(inputs_embeds=longer).logits
        torch.testing.assert_close(host(**given).logits, expected[:, 3:])


@torch.no_grad()
def test_an_encoders_classifier_still_sees_the_first_token() -> None:
    host = hosted("bert", "prompt_tuning")
    given, model = batch("bert"), tiny("bert")
    (prompt,) = host.adapters.values()
    longer = torch.cat([prompt.prompt.expand(3, -1, -1), model.get_input_embeddings()(given["input_ids"])], 1)
    hidden = model.bert(inputs_embeds=longer).last_hidden_state
    expected = model.classifier(model.bert.pooler(hidden[:, 3:]))
    torch.testing.assert_close(host(**given).logits, expected)


@torch.no_grad()
def test_a_decoder_sees_the_encoded_prompt() -> None:
    host, model, given = hosted("t5", "prompt_tuning"), tiny("t5"), padded("t5", 8)
    (prompt,) = host.adapters.values()
    longer = torch.cat([prompt.prompt.expand(1, -1, -1), model.get_input_embeddings()(given["input_ids"])], 1)
    mask = nn.functional.pad(given["attention_mask"], (3, 0), value=1)
    expected = model(inputs_embeds=longer, attention_mask=mask, decoder_input_ids=given["decoder_input_ids"]).logits
    torch.testing.assert_close(host(**given).logits, expected)


def test_too_many_virtual_tokens_are_refused_in_one_line() -> None:
    host = hosted("bert", "prompt_tuning", length=60)
    with pytest.raises(
        InputError, match="7 tokens and 60 virtual ones; expected at most 64 together; set length.max to 4"
    ):
        host(**batch("bert"))


@torch.no_grad()
def test_a_prefix_is_a_gated_parallel_adapter() -> None:
    """He et al. 2022, eq. 7: (1 - g) attention + g softmax(q P_k) P_v, with g the attention's mass on the prefix."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from tunesmith.models import attention

    torch.manual_seed(0)
    module = nn.Module()
    q, k, v = (torch.randn(2, 2, n, 8) for n in (4, 6, 6))
    extra = torch.randn(2, 3, 16)
    key, value, mask = attention._joined(q, k, v, None, extra, False)
    joint = sdpa_attention_forward(module, q, key, value, mask, is_causal=False)[0].transpose(1, 2)
    Pk, Pv = extra.unflatten(-1, (2, 8)).transpose(1, 2)
    own, theirs = q @ k.transpose(-1, -2) * 8**-0.5, q @ Pk.transpose(-1, -2) * 8**-0.5
    gate = theirs.exp().sum(-1, keepdim=True) / (theirs.exp().sum(-1, keepdim=True) + own.exp().sum(-1, keepdim=True))
    split = (1 - gate) * (own.softmax(-1) @ v) + gate * (theirs.softmax(-1) @ Pv)
    torch.testing.assert_close(joint, split, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- techniques that act while they train


def test_lofit_chooses_heads_and_then_moves_only_these() -> None:
    host = hosted("bert", "lofit", share=0.25, first=0.5)
    with torch.no_grad():
        for number, adapter in enumerate(host.adapters.values()):
            adapter.a.zero_()
            adapter.v.zero_()
            adapter.a[0] = 1.0 - number
    assert host.penalty() is not None and host.after_step(0.4) == []
    forgotten = host.after_step(0.5)
    first, second = host.adapters.values()
    assert len(forgotten) == 4 and first.chosen[:, 0].tolist() == [1, 0] and not second.chosen.any()
    assert not host.penalty().any() and not first.a.any()
    host(**batch("bert")).logits.square().mean().backward()
    assert first.v.grad[0].any() and not first.v.grad[1].any() and not second.v.grad.any()
    assert host.after_step(0.9) == []


def test_cpt_begins_as_context_and_stays_in_its_ball() -> None:
    model, given = tiny("llama"), batch("llama")
    host = Host(tiny("llama")).eval()
    host.attach(parts.find("adapter", "cpt").choose({"context": [7, 8, 9], "fixed": [2], "radius": 0.5}))
    ids = torch.cat([torch.tensor([[7, 8, 9]] * 3), given["input_ids"]], 1)
    with torch.no_grad():
        torch.testing.assert_close(host(**given).logits, model(input_ids=ids).logits[:, 3:])
        (adapter,) = host.adapters.values()
        adapter.move += 5.0
        host.after_step(0.1)
        lengths = adapter.move.norm(dim=1)
    radius = 0.5 * (16 / 2048) ** 0.5
    torch.testing.assert_close(lengths, torch.tensor([radius, radius, 0.0]))


@pytest.mark.parametrize(
    ("settings", "message"), [({}, "cpt's context is"), ({"context": [500]}, "0 to 99"), ({"context": [5], "fixed": [1]}, "0 to 0")]
)  # fmt: skip
def test_cpt_says_what_it_needs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Host(tiny("llama")).attach(parts.find("adapter", "cpt").choose(settings))


@pytest.mark.parametrize("family", ["bert", "llama", "t5-gated"])
def test_a_routed_mlp_begins_with_the_blocks_that_say_most_and_leaves_the_others_out(family: str) -> None:
    host = hosted(family, "routed", blocks=4, active=2).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), host.observing(None):
        host(**batch(family))
    host.settle()
    adapter = next(iter(host.adapters.values()))
    inputs: list[Tensor] = []
    handle = adapter.site.partner.register_forward_pre_hook(lambda m, a: inputs.append(a[0]))
    held: list[int] = []
    adapter.site.parts["up"].module.register_forward_hook(lambda m, a, y: held.append(y.shape[-1]))
    with torch.no_grad():
        host(**batch(family))
        handle.remove()
        x = inputs[0].flatten(0, -2)
        norms = torch.stack([adapter._block(i, x).norm(dim=-1) for i in range(4)], -1)
    shares, scores = norms / norms.mean(-1, keepdim=True), x @ adapter.R.T + adapter.c
    assert float(torch.corrcoef(torch.stack([shares.flatten(), scores.flatten()]))[0, 1]) > 0.5
    assert held == [2], "nothing of the MLP's own is computed"


def test_an_adapter_of_a_matrix_that_is_left_out_is_named() -> None:
    with pytest.raises(InputError, match="adapter lora acts on .* which adapter routed leaves out; give lora other"):
        hosted("bert", "routed", "lora")
    with pytest.raises(InputError, match="adapter routed leaves out .* which an adapter before it acts on"):
        hosted("bert", "lora", "routed")
    with pytest.raises(InputError, match="3 of 2 blocks"):
        hosted("bert", "routed", blocks=2, active=3)


def test_a_sparse_module_trains_alone() -> None:
    host = hosted("bert", "mosa", modules=2).train()
    host(**batch("bert")).logits.square().mean().backward()
    for adapter in host.adapters.values():
        trained = adapter.up.weight.grad != 0
        assert not (trained & (adapter.of_up == 0)).any() or not (trained & (adapter.of_up == 1)).any()


def edited(host: Host, *rows: dict[str, Tensor], **given: Any) -> list[list[int]]:
    """For each pass the places of its first row at which the first edited layer's states change."""
    (adapter, *_) = host.adapters.values()
    found, edit = [], adapter.edited
    adapter.edited = lambda y: found.append(edit(y)[0, :, 0].nonzero()[:, 0].tolist()) or edit(y)
    for row in rows:
        host(**row, **given)
    return found


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@torch.no_grad()
def test_reft_edits_the_first_and_the_last_places_of_the_text(family: str) -> None:
    host = hosted(family, "reft", places=[1, 2])
    left = [] if family == "bert" else [padded(family, 9, left=True)]
    assert edited(host, padded(family, 5), padded(family, 9), *left) == [
        [0, 3, 4],
        [0, 3, 4],
        *([[4, 7, 8]] if left else []),
    ]
    assert edited(hosted(family, "reft", places=[7, 7]), padded(family, 9)) == [[0, 1, 2, 3, 4]]
    every, all_named = hosted(family, "reft"), hosted(family, "reft", places=[5, 0])
    torch.testing.assert_close(all_named(**padded(family, 5)).logits, every(**padded(family, 5)).logits)


@torch.no_grad()
def test_reft_counts_no_virtual_tokens() -> None:
    host = Host(tiny("llama"))
    host.attach(parts.find("adapter", "reft").choose({"rank": 2, "places": [1, 1]}))
    host.attach(parts.find("adapter", "prompt_tuning").choose({"length": 3}))
    assert edited(host.eval(), padded("llama", 9)) == [[3, 7]]


@torch.no_grad()
def test_reft_edits_the_prompt_whether_the_answer_follows_or_is_written() -> None:
    host = hosted("llama", "reft", places=[1, 2])
    row = padded("llama", 5)
    written = host.model.generate(**row, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    labels = torch.where(torch.arange(9) < 5, -100, written)
    batch_ = {"input_ids": written, "attention_mask": torch.ones_like(written), "labels": labels}
    step = Step(host, batch_, "causal-lm")
    logits = step.logits.clone()
    logits[..., host.model.generation_config.eos_token_id] = -torch.inf
    assert torch.equal(logits.argmax(-1), written[0, 5:])
    plain = host(input_ids=written, attention_mask=torch.ones_like(written)).logits
    assert not torch.allclose(plain[0, 4:8], step.logits)


@pytest.mark.parametrize("places", [[1], [0, 0], [1, 2, 3]])
def test_reft_says_what_its_places_are(places: list[int]) -> None:
    with pytest.raises(InputError, match="how many first and how many last ones"):
        hosted("bert", "reft", places=places)


# ---------------------------------------------------------------------- compositions


def two(family: str = "bert", **settings: Any) -> Host:
    return hosted(family, "bottleneck", "bottleneck", **settings)


def composed(name: str, **settings: Any) -> Host:
    host = two()
    host.attach(parts.find("adapter", name).choose(settings))
    return host.eval()


@torch.no_grad()
def test_the_average_of_one_and_nothing_is_that_one() -> None:
    first = hosted("bert", "bottleneck")
    host = composed("average", weights=[1.0, 0.0])
    own = {k: v for k, v in first.state().items()}
    host.load({**host.state(), **own})
    torch.testing.assert_close(host(**batch("bert")).logits, first(**batch("bert")).logits)


@torch.no_grad()
def test_rows_that_are_split_go_through_their_own_adapter() -> None:
    host, given = composed("split", along="rows"), batch("bert", rows=2)
    twice = {k: torch.cat([v, v]) for k, v in given.items()}
    both = host(**twice).logits
    state = host.state()
    for number, logits in enumerate(both.chunk(2)):
        alone = hosted("bert", "bottleneck")
        names = {k: k.replace(".bottleneck.", ".bottleneck.1.") if number else k for k in alone.state()}
        alone.load({k: state[theirs] for k, theirs in names.items()})
        torch.testing.assert_close(alone(**given).logits, logits)


@torch.no_grad()
def test_fusion_with_whole_matrices_is_the_papers() -> None:
    host = composed("fuse", dim=0)
    torch.manual_seed(4)
    for parameter in host.trainable().values():
        nn.init.normal_(parameter, std=0.3)
    adapter: Any = next(a for a in host.adapters.values() if hasattr(a, "query"))
    y = torch.randn(2, 3, adapter.site.outputs)
    z = torch.stack(adapter.outputs(y, y), -2)
    scores = (adapter.key(z) @ adapter.query(y)[..., None])[..., 0].softmax(-1)
    torch.testing.assert_close(adapter(y, y), (scores[..., None] * z).sum(-2) @ adapter.value.T)


def test_fusion_is_smaller_than_what_it_stands_on() -> None:
    host = Host(tiny("bert"))
    for _ in range(2):
        host.attach(parts.find("adapter", "lora").choose({"rank": 2}))
    host.attach(parts.find("adapter", "fuse").choose({"dim": 2}))
    assert sum(p.numel() for p in host.trainable().values()) < sum(p.numel() for p in host.model.parameters())


def test_fusion_learns_and_its_members_do_not() -> None:
    host = composed("fuse")
    for name, parameter in host.trainable().items():
        if name.endswith(".up"):  # while it is 0, the other side of the value gets no gradient
            nn.init.normal_(parameter)
    before = {k: v.clone() for k, v in host.state().items()}
    assert host.trainable() and all(".fuse." in name for name in host.trainable())
    host(**batch("bert")).logits.square().mean().backward()
    for parameter in host.trainable().values():
        parameter.data -= 0.1 * parameter.grad
    after = host.state()
    assert all(torch.equal(after[k], v) == (".fuse." not in k) for k, v in before.items())


@pytest.mark.parametrize("name", ["average", "fuse", "split"])
def test_a_composition_needs_two(name: str) -> None:
    host = hosted("bert", "bottleneck")
    with pytest.raises(InputError, match="no site has two adapters to combine"):
        host.attach(parts.find("adapter", name).choose())


def test_wrong_numbers_of_weights_and_sizes_are_named() -> None:
    for name, settings in (("average", {"weights": [1.0]}), ("split", {"sizes": [1, 1, 1]})):
        with pytest.raises(InputError, match=f"{name} has . (weights|sizes) for 2 adapters"):
            composed(name, **settings)(**batch("bert"))


# ---------------------------------------------------------------------- adapters of earlier runs


def saved(host: Host, folder: Path, head: str = "sequence-classification") -> Path:
    artefacts.save_adapter(host, folder, base="b", revision=None, head=head)
    return folder


def begun(family: str, *wanted: tuple[str, dict[str, Any]]) -> Host:
    host = Host(tiny(family)).eval()
    for name, settings in wanted:
        part = parts.find("adapter", name).choose({**SETTINGS.get(name, {}), **settings})
        names = host.attach(part)
        if settings.get("tuned"):
            artefacts.begin(host, names, Path(settings["tuned"]))
    return host


def test_a_task_learns_above_a_language_that_stays_and_the_language_is_exchanged(tmp_path: Path) -> None:
    """Base + language A (frozen) + task, then base + language B + task (Litschko et al. 2022, MAD-X)."""
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, seed in ((a, 1), (b, 2)):
        folder.mkdir()
        language = hosted("bert", "bottleneck")
        torch.manual_seed(seed)
        for parameter in language.adapters.parameters():
            nn.init.normal_(parameter, std=0.3)
        saved(language, folder)
    host = begun("bert", ("bottleneck", {"tuned": str(a), "frozen": True}), ("bottleneck", {}))
    alone = begun("bert", ("bottleneck", {"tuned": str(a)}))
    with torch.no_grad():
        assert torch.equal(host(**batch("bert")).logits, alone(**batch("bert")).logits)
    assert host.trainable() and all(".bottleneck.1." in n for n in host.trainable())
    with torch.no_grad():
        for parameter in host.trainable().values():
            nn.init.normal_(parameter, std=0.3)
    (tmp_path / "task").mkdir()
    task = saved(host, tmp_path / "task")
    other = begun("bert", ("bottleneck", {"tuned": str(b)}), ("bottleneck", {"tuned": str(task)}))
    states = host.state(), other.state(), begun("bert", ("bottleneck", {"tuned": str(b)})).state()
    assert all(torch.equal(states[1][k], states[0 if ".1." in k.partition("dense")[2] else 2][k]) for k in states[1])


@pytest.mark.parametrize("name", ["lora", "prompt_tuning", "prefix_tuning", "compacter"])
def test_adapters_begin_where_an_earlier_run_ended(name: str, tmp_path: Path) -> None:
    first = hosted("llama", name)
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    saved(first, run / "adapter", "causal-lm")
    second = begun("llama", (name, {"tuned": str(run)}))
    assert all(torch.equal(t, second.state()[k]) for k, t in first.state().items())
    twice = begun("llama", (name, {"tuned": str(run)}), (name, {"tuned": str(run)}))
    assert len(twice.state()) == 2 * len(first.state())


def test_what_cannot_be_begun_with_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no adapter"):
        begun("bert", ("bottleneck", {"tuned": str(tmp_path)}))
    saved(hosted("bert", "bottleneck"), tmp_path)
    with pytest.raises(InputError, match=r"was saved as .* use the settings that it was made with"):
        begun("bert", ("bottleneck", {"tuned": str(tmp_path), "size": 5}))
    with pytest.raises(InputError, match="has no adapter.*lofit"):
        begun("bert", ("lofit", {"tuned": str(tmp_path)}))
