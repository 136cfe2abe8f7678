from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import NonNegative, Positive
from . import Loss, Step
from ._common import full, must


class NMTune(Loss):
    """Reshapes the features of a noisily pretrained base: near the base's, in many dimensions, with one that leads.

    The sum of three: squared distance of ``z/|z|`` from ``f/|f|``; squared covariances off the diagonal, over the
    size; 1 less the first singular value's share. ``z`` are the model's features, ``f`` the base's, over a batch.
    It goes beside ``cross_entropy``, with an adapter in place of the paper's separate network. Source: Chen et
    al. 2023, "Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks",
    arXiv:2309.17002.

    Settings:
        consistency: weight of nearness to the base's features.
        covariance: weight of the covariances between dimensions.
        dominance: weight of the first singular value's share.
    """

    weight: Positive = 0.01
    compares = True
    whole = "its covariances and singular values are those of the whole batch"

    def __init__(self, *, consistency: NonNegative = 1.0, covariance: NonNegative = 1.0, dominance: NonNegative = 1.0):
        self.consistency, self.covariance, self.dominance = consistency, covariance, dominance

    def __call__(self, step: Step) -> Tensor:
        must(step.head.endswith("classification"), self, "a task with labels")
        z, f = full(step.main.features), full(step.reference.features)
        near = ((F.normalize(z, dim=-1) - F.normalize(f, dim=-1)) ** 2).sum(-1).mean()
        centred = z - z.mean(0)
        products = centred.T @ centred / max(1, len(z) - 1)
        together = ((products**2).sum() - (products.diagonal() ** 2).sum()) / z.shape[1]
        values = torch.linalg.svdvals(z)
        led = 1 - values[0] / values.sum().clamp(min=1e-12)
        return self.consistency * near + self.covariance * together + self.dominance * led
