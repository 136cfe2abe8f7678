from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..errors import InputError
from . import Gradient, Loss, Plan
from ._directions import value


class PolicyGradient(Gradient):
    """The gradient of the expected loss over choices that the model draws, by asking for the loss alone.

    What trains are logits of categorical distributions (`DiscretePrompt`). A choice is drawn by adding Gumbel noise to
    the logits, whose largest is a sample then; the estimate over ``samples`` draws is ``1/(n-1) sum_k (L_k - mean L) d
    log p(choice_k) / d logits``. The mean of the other draws is the baseline that reduces its variance. Nothing of the
    model is differentiated. Source: Williams 1992, REINFORCE; with this baseline for prompts: Diao et al. 2023,
    arXiv:2201.08531.

    Settings:
        samples: draws of each step; each costs a forward pass.
    """

    entries = "it draws among all entries of a row of logits"

    def __init__(self, *, samples: Annotated[int, Ge(2)] = 8):
        self.samples = samples

    def begin(self, model: nn.Module, plan: Plan) -> list[str]:
        drawn = {p for m in model.modules() if getattr(m, "draws", False) for p in m.parameters(recurse=False)}
        other = [n for n, p in model.named_parameters() if p.requires_grad and p not in drawn]
        if other or not drawn:
            raise InputError(
                f"gradient policy_gradient cannot move {other[0] if other else 'anything here'}, which is no choice",
                expected="adapter discrete_prompt alone, and no mask",
            )  # fmt: skip
        return []

    @torch.no_grad()
    def __call__(self, losses: Sequence[Loss], parameters: Sequence[nn.Parameter]) -> Tensor:
        moving, seed = [p for p in parameters if p.requires_grad], torch.initial_seed()
        logits = [p.detach().clone() for p in moving]
        seen, choices = [], []
        for number in range(self.samples):
            for p, own, noise in zip(moving, logits, _gumbel(logits, seed, number), strict=True):
                p.copy_(own + noise)
            choices.append([p.argmax(-1) for p in moving])
            seen.append(value(losses))
        for p, own in zip(moving, logits, strict=True):
            p.copy_(own)
        mean = torch.stack(seen).mean()
        for place, (p, own) in enumerate(zip(moving, logits, strict=True)):
            p.grad = torch.zeros_like(p)
            shares = own.softmax(-1)
            for loss, chosen in zip(seen, choices, strict=True):
                slope = nn.functional.one_hot(chosen[place], own.shape[-1]).to(own.dtype) - shares
                p.grad.add_(slope, alpha=float(loss - mean) / (self.samples - 1))
        return mean


def _gumbel(logits: Sequence[Tensor], seed: int, number: int) -> list[Tensor]:
    """Gumbel noise of each tensor's shape, the same for the same seed and number on every process."""
    generator = torch.Generator().manual_seed((seed + 1_000_003 * (number + 1)) % 2**63)
    uniform = [torch.rand(t.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300) for t in logits]
    return [-(-u.log()).log().to(t) for u, t in zip(uniform, logits, strict=True)]
