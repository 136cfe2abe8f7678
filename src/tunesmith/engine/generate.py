"""Text from a model: the same ids, stops and precision for evaluation, the command line and chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..host import Host
from .precision import arithmetic


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_tokens: most tokens to write.
        temperature: 0 always takes the likeliest token.
        top_p: share of the probability that is drawn from; 1 takes all.
        seed: seed of the draw.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


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
        rows: prompts that go through the model together; they are padded on the left.

    Yields:
        One result for each prompt, in their order.
    """
    host.eval()
    stops = stop_ids(host.model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    device = next(host.model.parameters()).device
    for start in range(0, len(prompts), rows):
        group = prompts[start : start + rows]
        width = max(len(p) for p in group)
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in group], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in group], device=device)
        torch.manual_seed(sampling.seed)
        with torch.inference_mode(), arithmetic(dtype, device):
            written = host.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_tokens, eos_token_id=stops,
                pad_token_id=pad, **_choice(sampling),
            )  # fmt: skip
        skip = 1 if host.model.config.is_encoder_decoder else width
        for row in written[:, skip:].tolist():
            yield _cut(row, stops)


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}


def _cut(ids: list[int], stops: list[int]) -> Written:
    for place, token in enumerate(ids):
        if token in stops:
            return Written(ids[:place], True)
    return Written(ids, False)
