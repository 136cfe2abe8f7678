from __future__ import annotations

from typing import ClassVar

from ..models.anatomy import Weight
from ..settings import Layers, Roles
from . import Mask
from ._weights import has_role, in_layers


class Biases(Mask):
    """Only the biases move, those of the norms among them (BitFit).

    Source: Ben Zaken et al. 2021, arXiv:2106.10199.

    Settings:
        layers: indices of the layers whose biases move; any choice but ``all`` leaves out what lies outside the layers.
    """

    rate: ClassVar[float] = 1e-2

    def __init__(self, *, layers: Layers = "all"):
        self.layers = layers

    def trains(self, weight: Weight) -> bool:
        return weight.is_bias and in_layers(weight, self.layers)


class Norms(Mask):
    """Only the normalisation layers move: their gains and biases.

    Source: ValizadehAslani and Liang 2024, arXiv:2403.20284 (the norm moves most in full tuning, and suffices); Qi et
    al. 2022, arXiv:2211.08682 (LN-tuning).

    Settings:
        layers: indices of the layers whose norms move; any choice but ``all`` leaves out what lies outside the layers.
    """

    rate: ClassVar[float] = 1e-2

    def __init__(self, *, layers: Layers = "all"):
        self.layers = layers

    def trains(self, weight: Weight) -> bool:
        return weight.role == "norm" and in_layers(weight, self.layers)


class Components(Mask):
    """Only modules of some roles move: the attention's queries and the norms, unless others are named (SparseFit).

    Source: Solano et al. 2023, arXiv:2305.13235, sec. 3.

    Settings:
        roles: roles of the modules that move, such as ``attention.*``, ``mlp.down``, ``norm``, ``head``.
        layers: indices of the layers in which they move; any choice but ``all`` leaves out what lies outside the layers.
    """

    rate: ClassVar[float] = 1.25e-3

    def __init__(self, *, roles: Roles = ["attention.q*", "norm"], layers: Layers = "all"):  # noqa: B006
        self.roles, self.layers = roles, layers

    def trains(self, weight: Weight) -> bool:
        return has_role(weight, self.roles) and in_layers(weight, self.layers)
