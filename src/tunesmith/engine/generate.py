"""Text from a model: the same ids, stops and precision for evaluation, the command line and chat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..host import Host
from .precision import arithmetic

PREPACK = 0.8
"""Prompts are read without padding where their tokens are at most this share of them with it: below, to move keys and values
costs more than is saved."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_tokens: most tokens to write.
        temperature: 0 always takes the likeliest token.
        top_p: share of the probability that is drawn from; 1 takes all.
        seed: seed of the draw.
        samples: texts for each prompt. What is drawn depends on the seed, the prompt's ids and the sample's number,
            and on nothing that goes through the model beside it.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1


@dataclass(frozen=True)
class Written:
    """What was written: its ids without the prompt and the stop, and whether the model stopped by itself."""

    ids: list[int]
    stopped: bool


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a text: the tokenizer's, the model's, and the end of a turn where there is one."""
    configured = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)]
    found = {int(i) for entry in configured for i in (entry if isinstance(entry, list) else [entry]) if i is not None}
    vocabulary = tokenizer.get_vocab()
    ends = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")
    return sorted(found | {vocabulary[end] for end in ends if end in vocabulary})


def generate(
    host: Host,
    prompts: Sequence[Sequence[int]],
    tokenizer: Any,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008
    dtype: torch.dtype = torch.float32,
    rows: int = 16,
) -> Iterator[Written]:
    """Continue each prompt.

    Args:
        host: the model with its parts.
        prompts: token ids of each prompt, as the reader makes them.
        tokenizer: the base's tokenizer.
        sampling: how the next token is chosen.
        dtype: precision of matrix products.
        rows: prompts that go through the model together; they are padded on the left. Where the host packs, prompts
            of very different lengths are first read end to end (prepacking, Zhao et al. 2024, arXiv:2404.09529).

    Yields:
        ``sampling.samples`` results for each prompt, prompt by prompt in their order.
    """
    host.eval()
    stops = stop_ids(host.model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    device = next(host.model.parameters()).device
    asked = [(list(p), sample) for p in prompts for sample in range(sampling.samples)]
    for start in range(0, len(asked), rows):
        group = asked[start : start + rows]
        width = max(len(p) for p, _ in group)
        ids = torch.tensor([[pad] * (width - len(p)) + p for p, _ in group], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in group], device=device)
        with torch.inference_mode(), arithmetic(dtype, device):
            written = host.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_tokens, eos_token_id=stops,
                pad_token_id=pad, **_choice(sampling, group), **_prefilled(host, [p for p, _ in group], device),
            )  # fmt: skip
        skip = 1 if host.model.config.is_encoder_decoder else width
        for row in written[:, skip:].tolist():
            yield _cut(row, stops)


def stream(
    host: Host,
    prompt: Sequence[int],
    tokenizer: Any,
    hear: Callable[[str], None],
    *,
    sampling: Sampling = Sampling(),  # noqa: B008
    dtype: torch.dtype = torch.float32,
) -> Written:
    """Continue one prompt, and say each piece of text as soon as it is there.

    Args:
        host: the model with its parts.
        prompt: token ids, as the reader makes them.
        tokenizer: the base's tokenizer.
        hear: hears the text piece by piece; special tokens are left out.
        sampling: how the next token is chosen.
        dtype: precision of matrix products.

    Returns:
        The same as `generate` gives; after a KeyboardInterrupt what was written until then, not ``stopped``.
    """
    host.eval()
    stops = stop_ids(host.model, tokenizer)
    device = next(host.model.parameters()).device
    ids = torch.tensor([list(prompt)], device=device)
    heard = _Pieces(tokenizer, hear, stops)
    try:
        with torch.inference_mode(), arithmetic(dtype, device):
            host.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=sampling.max_tokens,
                eos_token_id=stops, pad_token_id=stops[0], streamer=heard, **_choice(sampling, [(list(prompt), 0)]),
            )  # fmt: skip
    except KeyboardInterrupt:
        return Written(heard.ids, False)
    return _cut(heard.ids, stops)


@dataclass
class _Pieces:
    """What transformers calls a streamer: hears ids, the prompt's first, and says text when its characters are whole."""

    tokenizer: Any
    hear: Callable[[str], None]
    stops: Sequence[int]
    ids: list[int] = field(default_factory=list)
    _prompted: bool = False
    _said: int = 0

    def put(self, value: Tensor) -> None:
        if not self._prompted:
            self._prompted = True
            return
        self.ids += value.reshape(-1).tolist()
        self._say(whole=False)

    def end(self) -> None:
        self._say(whole=True)

    def _say(self, *, whole: bool) -> None:
        text = self.tokenizer.decode(_cut(self.ids, self.stops).ids, skip_special_tokens=True)
        if len(text) > self._said and (whole or not text.endswith("\ufffd")):
            self.hear(text[self._said :])
            self._said = len(text)


def _prefilled(host: Host, prompts: Sequence[Sequence[int]], device: torch.device) -> dict[str, Any]:
    """The cache of all prompts without their last tokens, read without padding where the model packs and that saves enough."""
    width = max(len(p) for p in prompts) - 1
    tokens = sum(len(p) - 1 for p in prompts)
    if (
        host.packer is None
        or not host.packs
        or host.lengthened
        or host.reads
        or not 0 < tokens <= PREPACK * width * len(prompts)
    ):
        return {}
    ids = torch.tensor([[*p[:-1], *[0] * (width + 1 - len(p))] for p in prompts], device=device)
    mask = torch.tensor([[1] * (len(p) - 1) + [0] * (width + 1 - len(p)) for p in prompts], device=device)
    return {"past_key_values": host.packer.fill(ids, mask)}


def _choice(sampling: Sampling, asked: Sequence[tuple[list[int], int]]) -> dict[str, Any]:
    """Arguments for transformers: always the likeliest token, of logits that hold the draw already."""
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature == 0:
        return greedy
    from transformers import LogitsProcessorList

    return {**greedy, "logits_processor": LogitsProcessorList([_Draw(sampling, asked)])}


class _Draw:
    """Adds Gumbel noise to each row's log-probabilities, so that their greatest is a draw from the distribution.

    Every row has a generator of its own, seeded by (seed, prompt, sample): a text does not depend on the batch.
    Source: Maddison, Tarlow and Minka 2014, arXiv:1411.0030, sec. 2; nucleus: Holtzman et al. 2019, arXiv:1904.09751.
    """

    def __init__(self, sampling: Sampling, asked: Sequence[tuple[list[int], int]]):
        self._sampling = sampling
        self._generators = [
            torch.Generator().manual_seed(_seed(sampling.seed, prompt, sample)) for prompt, sample in asked
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = scores.float() / self._sampling.temperature
        if self._sampling.top_p < 1:
            logits = logits.masked_fill(_outside(logits, self._sampling.top_p), -torch.inf)
        noise = torch.stack([torch.empty(logits.shape[-1]).exponential_(generator=g) for g in self._generators])
        return logits - noise.clamp(min=1e-30).log().to(logits.device)


def _outside(logits: Tensor, share: float) -> Tensor:
    """Which tokens lie outside the smallest set of the likeliest ones that has this share of the probability."""
    ranked, order = logits.softmax(-1).sort(-1, descending=True)
    before = ranked.cumsum(-1) - ranked
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= share)


def _seed(seed: int, prompt: Sequence[int], sample: int) -> int:
    """63 bits that follow from seed, prompt and the sample's number.

    >>> _seed(0, [1, 2], 0) == _seed(0, [1, 2], 0) != _seed(0, [1, 2], 1)
    True
    """
    text = f"{seed}|{sample}|{','.join(map(str, prompt))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _cut(ids: list[int], stops: Sequence[int]) -> Written:
    for place, token in enumerate(ids):
        if token in stops:
            return Written(ids[:place], True)
    return Written(ids, False)
