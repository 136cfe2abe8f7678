"""Masks: which of the model's own weights move, when, and how fast. One rule a file; the folder is the registry.

A mask answers for whole tensors (`Mask`) or for entries inside them (`EntryMask`). The entry masks are points of one
space: *score* x *scope* x *unit* x *density* x *refresh* x *hard or soft*. The engine asks; a mask never drives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..models.anatomy import Weight
from ._scores import SCORES, select
from ._weights import flat_indices, has_role, oriented


@dataclass(frozen=True)
class Moment:
    """A place in the run: the number of the coming step from 0, the steps in all (may be infinite), the progress."""

    step: int
    steps: float
    progress: float


class Mask:
    """A rule over the model's own weights: which of them train.

    Tensors that were newly made for the task (a classifier's head) train under every mask, since nothing else can.

    Attributes:
        rate: the learning rate that passed the recorded learning test; used where a recipe names none.
        width_power: its rate falls with this power of the base's width: that of Adam on the matrices of a model does so with
            the first (Yang et al. 2022, arXiv:2203.03466, table 3).
        sparse: whether it chooses entries inside tensors, so that only vectors of them train and are saved.
        follows: whether it sees every step's change (`follow`).
        filters: whether it changes the gradient before the optimizer sees it (`filter`).
        forgets: whether the optimizer lets go of the state of what comes to rest.
        together: rows of each gradient that it observes; 1 where gradients are squared.
        samples: training rows whose gradients it observes before training; an instance may set it.
    """

    rate: ClassVar[float] = 2.5e-4
    width_power: ClassVar[float] = 1.0
    sparse: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    filters: ClassVar[bool] = False
    forgets: ClassVar[bool] = False
    together = 1
    samples = 0
    seed = 0

    def trains(self, weight: Weight) -> bool:
        """Whether this weight ever moves; before `settle`, whether it may be chosen."""
        raise NotImplementedError

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        """See what may be chosen, and the run's seed, before anything else."""
        self.seed = seed

    def asks(self, step: Any) -> Tensor:
        """The loss whose gradients are observed, a mean over the step's units; without one, the run's own is."""
        raise NotImplementedError

    def observe(self, weight: Weight, grad: Tensor) -> None:
        """See one gradient of a weight that may be chosen, of its shape."""

    def settle(self) -> None:
        """Choose, after everything that was to be observed has been."""

    def now(self, weight: Weight, moment: Moment) -> bool:
        """Whether a weight that trains moves in this step; one that rests costs no gradient."""
        return True

    def rate_of(self, weight: Weight) -> float:
        """The factor of the learning rate for this weight."""
        return 1.0

    def filter(self, weight: Weight, grad: Tensor) -> Tensor:
        """The gradient that the optimizer gets, from that of the whole step; same shape."""
        return grad

    def follow(self, weight: Weight, before: Tensor, grad: Tensor) -> None:
        """See what a step did: the weight now, its values before, and the gradient that moved it."""

    def state(self) -> dict[str, Tensor]:
        """What it has to remember beside the weights, for a checkpoint."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""


class Patch(Protocol):
    """Entries of one weight that move, as a mask sees them; every vector has shape (k,)."""

    weight: Weight
    indices: Tensor | None
    base: Tensor
    values: torch.nn.Parameter
    given: Tensor | None


class EntryMask(Mask):
    """Some entries of some tensors move, the others stay bit-equal to the base.

    What trains is one vector of values for each tensor, so that gradients and the optimizer's state are of its size.

    Attributes:
        soft: whether ``given`` holds the share of each step that an entry takes. It scales the step and not the
            gradient, because Adam's step does not depend on the gradient's scale.
        scout: length of a full tuning before the choice, as a multiple of the budget's steps; the weights are taken
            back afterwards.
        scout_rate: learning rate of that tuning.
        keeps_head: whether adapters and newly made tensors keep what they learned in it.
        refreshes: how often in a run the choice is looked at again, at even distances.
        looks: training rows whose gradients it observes before each of these.
        found: folder of a stored difference that stands for the full tuning; empty where there is none.
    """

    sparse: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    scout_rate: ClassVar[float] = 5e-5
    keeps_head: ClassVar[bool] = False
    scout = 0.0
    refreshes = 0
    looks = 0
    found = ""

    def __init__(
        self,
        *,
        score: str,
        density: float,
        roles: Sequence[str] = ("*",),
        scope: Literal["tensor", "layer", "model"] = "tensor",
        unit: Literal["entry", "row"] = "entry",
        samples: int = 0,
    ):
        self.score = SCORES[score]
        self.density, self.roles, self.scope, self.unit = density, list(roles), scope, unit
        self.samples = samples if self.score.reads == "gradient" else 0
        self.together = self.score.together
        self.scores: dict[str, Tensor] = {}
        self.weights: dict[str, Weight] = {}

    def trains(self, weight: Weight) -> bool:
        return has_role(weight, self.roles)

    def begin(self, weights: Sequence[Weight], seed: int) -> None:
        self.seed = seed
        self.weights = {w.name: w for w in weights}
        if not weights:
            raise InputError(f"mask {type(self).__name__} finds no weight that it may choose")
        if self.score.reads == "weight":
            for number, weight in enumerate(weights):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(hash((seed, number)) % 2**63)
                    self._fold(weight, torch.zeros(()))

    def observe(self, weight: Weight, grad: Tensor) -> None:
        self._fold(weight, grad)

    def compare(self, weight: Weight, before: Tensor) -> None:
        """After scouting: score a weight by what the tuning did to it."""
        self.weigh(weight, before, weight.parameter.detach() - before)

    def weigh(self, weight: Weight, before: Tensor, change: Tensor) -> None:
        """Score a weight by what a full tuning made of it; both of its shape."""
        if self.score.reads == "change":
            self.scores[weight.name] = self.score.fold(None, oriented(weight, before), oriented(weight, change))

    @torch.no_grad()
    def _fold(self, weight: Weight, grad: Tensor) -> None:
        values = oriented(weight, weight.parameter.detach())
        seen = oriented(weight, grad) if grad.ndim else grad
        self.scores[weight.name] = self.score.fold(self.scores.get(weight.name), values, seen)

    def choose(self) -> dict[str, Tensor | None]:
        """Name of a weight -> flat indices (k,) of its entries that move, ascending; None for all of them."""
        final = {name: self.score.final(score) for name, score in self.scores.items()}
        self.scores = {}
        groups = {n: {"tensor": n, "layer": (w.stack, w.layer), "model": ""}[self.scope]
                  for n, w in self.weights.items()}  # fmt: skip
        chosen = select(final, groups, self.density, rows=self.unit == "row")
        return {n: flat_indices(i, self.weights[n]) for n, i in chosen.items()}

    def count(self, weights: Sequence[Weight]) -> int:
        """About how many entries move, before the choice is made."""
        return round(self.density * sum(w.parameter.numel() for w in weights))

    def prepare(self, patch: Patch) -> Tensor | None:
        """What is kept beside the entries (``given``), once they are chosen."""
        return None

    def difference(self, patch: Patch) -> Tensor:
        """What the values add to the base's entries."""
        return patch.values

    def chain(self, patch: Patch, grad: Tensor) -> Tensor:
        """The gradient of the values from that of the entries: the derivative of `difference`."""
        return grad

    def watch(self, patch: Patch, grad: Tensor) -> None:
        """See the whole step's gradient of the values, (k,)."""

    def pull(self, patch: Patch, step: int) -> Tensor | None:
        """What is added to the gradient of the values (k,), for a penalty on them, when so many steps are done."""
        return None

    def renew(self, patch: Patch, moment: Moment) -> Tensor | None:
        """At a refresh: the indices that move from here on; None leaves them. Entries that leave go back to the base."""
        return None

    @property
    def checks(self) -> bool:
        """Whether each step's gradient is compared with that of another loss (`against`, `reconcile`)."""
        return False

    def against(self, step: Any) -> Tensor:
        """The other loss: a mean over the step's supervised units."""
        raise NotImplementedError

    def reconcile(self, patch: Patch, grad: Tensor, other: Tensor) -> Tensor:
        """The gradient of the values that is used, from the run's own and that of the other loss; each (k,)."""
        return grad

    def conclude(self, patches: Sequence[Patch]) -> None:
        """See all entries before they are hardened."""

    def harden(self, patch: Patch) -> Tensor:
        """The difference that is kept at the end of the run."""
        return self.difference(patch)
