from __future__ import annotations

from torch import Tensor

from ..settings import Positive
from . import Loss, Step
from ._common import full, must


class ActivationDensity(Loss):
    """Few neurons are to fire: the mean of ``tanh(sharpness |h|)`` over what each MLP's last matrix reads.

    Mean over layers, neurons and a row's tokens, then over rows. It goes beside ``cross_entropy``, with adapters.
    Source: Runwal et al. 2024, "From PEFT to DEFT", arXiv:2402.01911.

    Settings:
        sharpness: how soon an activation counts as one; large counts all but zeros.
    """

    weight: Positive = 0.1
    mean_over = "rows"
    keeps = ("activations",)

    def __init__(self, *, sharpness: Positive = 20.0):
        self.sharpness = sharpness

    def __call__(self, step: Step) -> Tensor:
        layers = [h for h in step.activations if h.shape[:2] == step.attended.shape]
        must(bool(layers) and step.head != "seq2seq-lm", self, "an encoder or a decoder with MLPs")
        there = step.attended.unsqueeze(-1)
        firing = sum(((self.sharpness * full(h).abs()).tanh() * there).mean(-1).sum(1) for h in layers)
        assert isinstance(firing, Tensor)
        return (firing / len(layers) / step.attended.sum(1)).mean()
