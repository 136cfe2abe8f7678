from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from ..settings import Positive
from . import Loss, Step
from ._common import full, likelihoods
from ._preference import must_write


class TokenWeights(Loss, nn.Module):
    """A small network learns which tokens of a document are worth learning from, by what one step on it is good for.

    A row's prompt is the document and its completion what one should know of it (a question with its answer). The
    network gives each token of the document a weight ``w_i`` from the base's hidden state. The model learns the
    document, ``mean of w_i * nll_i`` with the weights held fixed; the network learns by the likelihood of the
    completion *without* the document after one step of ``rate`` on that loss, through the step, with the model held
    fixed. It takes the place of ``cross_entropy``, and costs about four passes. Source: Hu et al. 2023,
    "Meta-Learning Online Adaptation of Language Models" (CaMeLS), arXiv:2305.15076, without its locality penalty; it
    learns network and model in turn, here both learn at once.

    Settings:
        rate: of the inner step.
    """

    compares = True
    whole = "the inner step is taken on the documents of a batch together"

    net: nn.Linear

    def __init__(self, *, rate: Positive = 0.01):
        nn.Module.__init__(self)
        self.rate = rate

    def start(self, step: Step) -> None:
        must_write(step, self)
        hidden = full(step.main.hidden)
        self.net = nn.Linear(hidden.shape[-1], 1, dtype=hidden.dtype)
        nn.init.zeros_(self.net.weight)
        nn.init.constant_(self.net.bias, math.log(math.e - 1))

    def weights(self, document: Step) -> Tensor:
        """Weight of each supervised token, (units,), not below 0 and 1 at birth."""
        assert document.mask is not None
        at_token = full(document.reference.hidden)[:, 1:][document.mask[:, :-1]]
        return F.softplus(self.net(at_token.to(self.net.weight.dtype)))[:, 0]

    def __call__(self, step: Step) -> Tensor:
        must_write(step, self)
        document, answer = step.on(_cut(step, document=True)), step.on(_cut(step, document=False))
        w = self.weights(document)
        learned = (w.detach() * likelihoods(document.logits, document)).sum() / max(1, document.units)
        return learned + self._after_a_step(document, answer, w)

    def _after_a_step(self, document: Step, answer: Step, w: Tensor) -> Tensor:
        now = {name: p.detach().requires_grad_() for name, p in document.parameters.items()}
        # only this kernel of attention can be derived twice
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            losses = likelihoods(document.run(weights=now).logits, document)
            inner = (w * losses).sum() / max(1, document.units)
            slopes = torch.autograd.grad(inner, list(now.values()), create_graph=True, allow_unused=True)
            then = {
                name: p.detach() - self.rate * (torch.zeros_like(p) if slope is None else slope)
                for (name, p), slope in zip(now.items(), slopes, strict=True)
            }
            return likelihoods(answer.run(weights=then).logits, answer).sum() / max(1, answer.units)


def _cut(step: Step, *, document: bool) -> dict[str, Tensor]:
    """The prompts alone, or the answers alone; every token but the first is asked for."""
    rows = []
    for ids, labels in zip(step.batch["input_ids"], step.batch["labels"], strict=True):
        asked = (labels != -100).nonzero()[:, 0]
        rows.append(ids[: int(asked[0])] if document else ids[asked])
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(r) for r in rows], batch_first=True),
        "labels": pad_sequence(rows, batch_first=True, padding_value=-100),
    }
