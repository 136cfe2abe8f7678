from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from . import Figure, Lab, Outcome
from ._figures import times_over_seeds

SPREADS = {"equal": 0.0, "mixed": 0.6, "wide": 1.2}
"""Standard deviation of the logarithm of the prompts' lengths."""


def prepacked_prompts(
    lab: Lab, *, task: str = "instruct", prompts: int = 8, tokens: int = 512, longest: int = 256, repeats: int = 3
) -> Outcome:
    """What it takes to read prompts end to end, and whether they are continued alike, against reading them padded.

    Each seed draws lengths with the same sum and a small, a middling or a large spread, and fills them with text of the
    task's rows. Both ways end with a cache that is ready for the next token; to take the caches apart counts.

    Figures: ``time.equal``, ``time.mixed``, ``time.wide``, packed over padded, processor time; ``tokens.NAME``, the same of
    the tokens that go through the layers; ``growth``, how much more is saved at the wide spread than at the equal one;
    ``gap``, the largest difference of a next-token logit from that of the prompt alone, over the largest logit.

    Source: Zhao et al. 2024, arXiv:2404.09529.

    Settings:
        task: arena task of a language model.
        prompts: how many are read together.
        tokens: of all prompts.
        longest: most tokens of one.
        repeats: times that each way is timed, in turn; the median counts.
    """
    recipe = lab.recipe(task, {"adapter": "lora", "packing": True})
    host = lab.untuned(recipe).host.eval()
    stream = _stream(lab.prepared(recipe).encoded["train"], tokens)
    logs: dict[str, list[float]] = {f"{what}.{name}": [] for what in ("time", "tokens") for name in SPREADS}
    gaps = []
    for seed in lab.seeds:
        for name, spread in SPREADS.items():
            lab.say(f"prompts of {name} lengths, seed {seed}")
            asked = _cut(stream, _lengths(spread, prompts, tokens, longest, np.random.default_rng(seed)))
            logs[f"time.{name}"].append(_time(host, asked, repeats))
            logs[f"tokens.{name}"].append(math.log(tokens / (prompts * max(map(len, asked)))))
        gaps.append(_gap(host, asked))
    abouts = {"time": "processor time, packed over padded", "tokens": "tokens, packed over padded"}
    figures = {name: times_over_seeds(values, abouts[name.partition(".")[0]]) for name, values in logs.items()}
    growth = [even - wide for even, wide in zip(logs["time.equal"], logs["time.wide"], strict=True)]
    figures["growth"] = times_over_seeds(growth, "saved at wide lengths over saved at equal ones")
    figures["gap"] = Figure(max(gaps), min(gaps), max(gaps), gaps, "", "largest difference of a logit, relative")
    series = {what: [[spread, figures[f"{what}.{name}"].value] for name, spread in SPREADS.items()] for what in abouts}
    return Outcome(figures, series, ("spread of the logarithm of lengths", "packed over padded"))


def _stream(encoded: Any, tokens: int) -> list[int]:
    """Text of the rows end to end, as many tokens as are wanted."""
    found: list[int] = []
    for index in range(len(encoded)):
        found += encoded.take([index])[0]["input_ids"]
        if len(found) >= tokens:
            return found
    raise InputError(f"the task's rows have {len(found)} tokens", expected=f"{tokens}", fix="ask for fewer tokens")


def _lengths(spread: float, prompts: int, tokens: int, longest: int, draws: np.random.Generator) -> list[int]:
    """Lengths of at least 2 that add up to ``tokens``."""
    shares = np.exp(spread * draws.standard_normal(prompts))
    lengths = np.clip(np.round(tokens * shares / shares.sum()), 2, longest).astype(int)
    while (missing := tokens - int(lengths.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = np.flatnonzero((lengths + step >= 2) & (lengths + step <= longest))
        if not len(free):
            raise InputError(f"{prompts} prompts of at most {longest} tokens", expected=f"{tokens} tokens in all")
        lengths[free[: abs(missing)]] += step
    return [int(n) for n in lengths]


def _cut(stream: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    ends = np.cumsum(lengths)
    return [list(stream[end - n : end]) for end, n in zip(ends, lengths, strict=True)]


def _batch(prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Ids and mask, padded on the right."""
    import torch

    width = max(len(p) for p in prompts)
    mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts])
    return torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts]), mask


def _time(host: Any, prompts: Sequence[Sequence[int]], repeats: int) -> float:
    """Logarithm of packed over padded time."""
    import torch
    from transformers import DynamicCache

    ids, mask = _batch(prompts)

    def padded() -> None:
        with host.packer.off():
            host.packer.trunk(input_ids=ids, attention_mask=mask, past_key_values=DynamicCache(), use_cache=True)

    ways: dict[str, Callable[[], Any]] = {"padded": padded, "packed": lambda: host.packer.fill(ids, mask)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first is not counted
            for name, way in ways.items():
                start = time.process_time()
                way()
                taken[name].append(time.process_time() - start)
    return math.log(float(np.median(taken["packed"][1:])) / float(np.median(taken["padded"][1:])))


def _gap(host: Any, prompts: Sequence[Sequence[int]]) -> float:
    """How far the next token's logits after packed prompts are from those after each prompt alone."""
    import torch

    width = max(len(p) for p in prompts)
    front, seen = _batch([p[:-1] for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    last = torch.tensor([[p[-1]] for p in prompts])
    places = torch.tensor([[len(p) - 1] for p in prompts])
    with torch.inference_mode():
        cache = host.packer.fill(front, seen)
        found = host.model(input_ids=last, attention_mask=mask, position_ids=places, past_key_values=cache).logits[
            :, -1
        ]
        alone = torch.stack([host.model(input_ids=torch.tensor([p]), use_cache=False).logits[0, -1] for p in prompts])
    return float((found - alone).abs().max() / alone.abs().max())
