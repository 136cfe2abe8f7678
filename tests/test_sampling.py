"""Texts that are drawn: from the right distribution, and the same whatever stands beside them in a batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import transformers as tf

from tiny import CONFIGS
from tokens import gpt
from tunesmith.engine.generate import Sampling, _Draw, _outside, generate, stop_ids, stream
from tunesmith.host import Host

PROMPTS = [[20, 21, 22], [30, 31], [40, 41, 42, 43, 44]]
DRAWN = Sampling(max_tokens=8, temperature=1.0, top_p=0.9, seed=3, samples=3)


@pytest.fixture(scope="module")
def model() -> tuple[Host, Any]:
    tokenizer = gpt()
    config = CONFIGS["llama"]()
    config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    torch.manual_seed(0)
    return Host(tf.AutoModelForCausalLM.from_config(config).eval(), []), tokenizer


def test_a_sample_does_not_depend_on_its_batch(model: tuple[Host, Any]) -> None:
    host, tokenizer = model
    together = list(generate(host, PROMPTS, tokenizer, sampling=DRAWN))
    assert len(together) == 9 and len({tuple(w.ids) for w in together}) == 9
    torch.manual_seed(123)
    for i, prompt in enumerate(PROMPTS):
        assert list(generate(host, [prompt], tokenizer, sampling=DRAWN, rows=2)) == together[3 * i : 3 * i + 3]
    fewer = Sampling(8, 1.0, 0.9, 3)
    assert list(generate(host, PROMPTS, tokenizer, sampling=fewer)) == together[::3]
    assert list(generate(host, PROMPTS, tokenizer, sampling=Sampling(8, 1.0, 0.9, 4))) != together[::3]


def test_draws_have_the_shares_of_the_distribution() -> None:
    """4,000 draws of four tokens: each share within four standard errors; none outside the nucleus."""
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    for share, temperature in ((1.0, 1.0), (0.8, 1.0), (1.0, 0.5)):
        draw = _Draw(Sampling(temperature=temperature, top_p=share), [([1], 0)])
        seen = Counter(int(draw(torch.tensor([[1]]), scores).argmax()) for _ in range(4000))
        wanted = (scores[0] / temperature).softmax(0)
        if share < 1:
            wanted = torch.tensor([wanted[0], wanted[1], 0, 0]) / wanted[:2].sum()
        for token, p in enumerate(wanted.tolist()):
            assert abs(seen[token] / 4000 - p) <= 4 * (p * (1 - p) / 4000) ** 0.5


def test_the_nucleus_is_the_smallest_set_with_its_share() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert _outside(logits, 0.74).tolist() == [[True, False, True, False]]
    assert _outside(logits, 0.76).tolist() == [[True, False, False, False]]
    assert _outside(logits, 1e-9).tolist() == [[True, False, True, True]]


@pytest.mark.parametrize("sampling", [Sampling(8), Sampling(8, 1.0, 0.9, 3)], ids=["likeliest", "drawn"])
def test_a_stream_says_what_generate_gives(model: tuple[Host, Any], sampling: Sampling) -> None:
    host, tokenizer = model
    for prompt in PROMPTS:
        said: list[str] = []
        written = stream(host, prompt, tokenizer, said.append, sampling=sampling)
        assert written == next(generate(host, [prompt], tokenizer, sampling=sampling))
        assert "".join(said) == tokenizer.decode(written.ids, skip_special_tokens=True)


def test_an_interrupted_stream_keeps_what_was_said(model: tuple[Host, Any]) -> None:
    host, tokenizer = model
    whole = next(generate(host, PROMPTS[:1], tokenizer, sampling=DRAWN))
    pieces: list[str] = []

    def hear(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    cut = stream(host, PROMPTS[0], tokenizer, hear, sampling=DRAWN)
    assert not cut.stopped and 2 <= len(cut.ids) < len(whole.ids) and whole.ids[: len(cut.ids)] == cut.ids


def test_a_stream_stops_at_every_stop(model: tuple[Host, Any]) -> None:
    """Whatever the likeliest first token is, once it ends a text nothing is said."""
    host, tokenizer = model
    first = next(generate(host, PROMPTS[:1], tokenizer, sampling=Sampling(4))).ids[0]
    before = host.model.generation_config.eos_token_id
    host.model.generation_config.eos_token_id = [before, first] if isinstance(before, int) else [*(before or []), first]
    try:
        assert first in stop_ids(host.model, tokenizer)
        said: list[str] = []
        written = stream(host, PROMPTS[0], tokenizer, said.append, sampling=Sampling(4))
        assert written.stopped and not written.ids and not said
    finally:
        host.model.generation_config.eos_token_id = before
