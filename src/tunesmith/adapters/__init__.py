"""Adapters: what is added to the model. One technique a file; the folder is the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from ..models.anatomy import Site
from ..settings import Layers, Roles


class Tuned(NamedTuple):
    """What one attachment tunes on validation rows.

    Attributes:
        values: the values.
        penalty: a scalar of them that is added to the validation loss, or None.
    """

    values: list[nn.Parameter]
    penalty: Callable[[], Tensor] | None = None


class Adapter(nn.Module):
    """Added to one site of a frozen model: a site's input and output become its new output.

    A subclass is one technique. It holds its own parameters, and knows neither how it is attached, switched off,
    folded, saved nor trained: the host does that for all.

    Attributes:
        folds: whether the adapted site is an affine map of its input, so that the host can fold the adapter into
            the site's own weight. One that is not says ``folds = False``.
        accepts: the kinds of site that it can act on: ``linear``, ``embedding``, ``norm``, or more than a module
            (`tunesmith.models.places` says what ``x`` and ``y`` are there).
        changes_at_birth: why the model differs from its base before any training; empty where it does not.
        composes: whether it combines the adapters that its sites have already (`Composition`).
        rate: the learning rate that passed the recorded learning test; used where a recipe names none.
        width_power: its rate falls with this power of the base's width: that of a low-rank product whose second factor begins
            at zero does so with the square root (Hayou et al. 2024, arXiv:2406.08447); other adapters are taken to be alike.
        peft: PEFT's name of the technique (``peft_type``) where PEFT has it, for export in its format.
        peft_names: PEFT's names of its tensors, after the module's path.
        peft_shared: PEFT's names of the tensors that it shares between sites.
        peft_prompts: PEFT's names of the techniques that it keeps as one matrix of virtual tokens and that this one reads.
        observes: micro-batches of training rows that it has to see before training (`observe`, `settle`); 0 for none.
        gradients: whether `observe` also wants the gradient of the loss.
        draws: whether its parameters are logits of choices, which gradient ``policy_gradient`` can move.
        enters: whether all that it does is to change what its layer reads (`enter`). Alone at a whole layer it is then
            called before it, and costs no second pass through its weight; elsewhere its ``forward`` is used.
        replaces: whether it computes its sub-layer by itself and never looks at what comes out: the first on a site, it stands
            in the place of the sub-layer's matrices, which are not computed, and which nothing else can adapt.
        tunes: whether it has values that are tuned on validation rows while it trains (`tuning`).
        reads: whether it has to know which places hold the text that the model is given (``text``).
        text: of the pass that is under way, bool (rows, length): neither padding nor what the model is to write; with a
            cache, none of what is written. None where nobody said so: then every place is text.
        scratch: names of buffers that only training needs: a checkpoint holds them, what the run leaves does not.

    Settings:
        targets: roles of the sites that get an adapter; ``linear`` is every linear layer inside the layers.
        layers: indices of the layers that get one.
        tuned: folder of an earlier run whose adapters of this technique these begin with; empty for new ones.
        frozen: whether they stay as they began, for others that learn beside or above them.
    """

    targets: Roles = ["linear"]  # noqa: RUF012
    layers: Layers = "all"
    tuned: str = ""
    frozen: bool = False
    folds: ClassVar[bool] = True
    accepts: ClassVar[tuple[str, ...]] = ("linear",)
    changes_at_birth: ClassVar[str] = ""
    composes: ClassVar[bool] = False
    rate: ClassVar[float] = 1e-3
    width_power: ClassVar[float] = 0.5
    peft: ClassVar[str] = ""
    peft_names: ClassVar[dict[str, str]] = {}
    peft_shared: ClassVar[dict[str, str]] = {}
    peft_prompts: ClassVar[tuple[str, ...]] = ()
    observes: ClassVar[int] = 0
    gradients: ClassVar[bool] = False
    draws = False
    enters = False
    replaces: ClassVar[bool] = False
    tunes: ClassVar[bool] = False
    reads = False
    text: ClassVar[Tensor | None] = None
    scratch: ClassVar[tuple[str, ...]] = ()

    def __init__(self, site: Site):
        super().__init__()
        self.site = site

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The site's new output, of the shape of ``y`` (..., outputs), from its input ``x`` (..., inputs)."""
        raise NotImplementedError

    def enter(self, x: Tensor) -> Tensor:
        """What the layer reads in place of ``x`` (..., inputs), if the adapter `enters`; the same as its ``forward`` says."""
        raise NotImplementedError

    def to_peft(self) -> dict[str, Any]:
        """The options of PEFT's configuration that say what this adapter is."""
        return {}

    def peft_tensors(self) -> dict[str, Tensor]:
        """PEFT's name -> tensor, in the shape that PEFT has it in."""
        return {theirs: getattr(self, own) for own, theirs in self.peft_names.items() if hasattr(self, own)}

    @classmethod
    def from_peft(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The technique's own settings for a module of an adapter that PEFT saved.

        Args:
            config: PEFT's configuration.
            tensors: the module's tensors by PEFT's names.

        Raises:
            InputError: a variant that this technique does not have.
        """
        return {}

    def peft_prompt(self) -> Tensor | None:
        """This site's columns (length, columns) of the one matrix in which PEFT keeps all virtual tokens, if it does."""
        return None

    @classmethod
    def share(cls, sites: Sequence[Site], **settings: Any) -> nn.Module | None:
        """What all sites of one attachment have in common, made once before them; each finds it as ``site.shared``.

        Args:
            sites: every site that is going to get an adapter.
            settings: the technique's own settings.
        """
        return None

    def begin(self) -> None:
        """Compute a start from the site's weight; not called where a saved state follows, since it can take long."""

    def observe(self, x: Tensor, y: Tensor, gradient: Tensor | None) -> None:
        """See the site on one micro-batch before training, without the places that are padding.

        Args:
            x: the site's input (places, inputs).
            y: the site's output before this adapter (places, outputs).
            gradient: of the micro-batch's loss by the adapter's output (places, outputs), if ``gradients`` asks for it.
        """
        raise NotImplementedError

    @classmethod
    def settle(cls, adapters: Sequence[Self]) -> None:
        """Take what was observed into the tensors of all adapters of one attachment; their sizes may change."""

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss of each optimizer step, or None."""
        return None

    def rates(self) -> dict[str, float]:
        """Factors of the learning rate by name of a parameter; 1 for those that are left out."""
        return {}

    @classmethod
    @contextlib.contextmanager
    def tuning(cls, adapters: Sequence[Self]) -> Iterator[Tuned]:
        """Inside this block the loss depends on the tuned values of one attachment, which are given, as it is to be tuned."""
        yield Tuned([])

    @classmethod
    def after_step(cls, adapters: Sequence[Self], progress: float) -> Iterable[nn.Parameter]:
        """Change all adapters of one attachment together after an optimizer step, while its gradients are still there.

        Args:
            adapters: those of one attachment, in the order of the model.
            progress: share of the run's budget that is used up, 0 to 1.

        Returns:
            The parameters that begin anew: the optimizer forgets its state of them.
        """
        return ()
