"""Losses: what is asked of the model. One term a file; terms add up; the folder is the registry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from ..settings import Positive


class Pass(Protocol):
    """What one pass of the model gave."""

    @property
    def logits(self) -> Tensor:
        """At every supervised place: (units, classes), (units, vocabulary), or (rows, outputs)."""

    @property
    def hidden(self) -> Tensor:
        """What the last layer says at every place, (rows, length, size)."""

    @property
    def features(self) -> Tensor:
        """``hidden`` at the supervised places, or its mean over each row's places: (units, size)."""


class Step(Protocol):
    """What a loss may ask for. Everything is computed when it is first asked for, and only then."""

    @property
    def batch(self) -> dict[str, Tensor]:
        """The batch as it goes into the model."""

    @property
    def head(self) -> str:
        """``sequence-classification``, ``token-classification``, ``causal-lm``, ``seq2seq-lm``, or a cloze's:
        ``masked-cloze``, ``causal-cloze``."""

    @property
    def progress(self) -> float:
        """Share of the run that lies behind, 0 to 1."""

    @property
    def logits(self) -> Tensor:
        """The model's logits at every supervised place: (units, classes), (units, vocabulary), or (rows, outputs)."""

    @property
    def targets(self) -> Tensor:
        """What is asked at the same places: class indices (units,), or numbers (rows,) or (rows, outputs)."""

    @property
    def units(self) -> int:
        """Number of supervised units: rows, or tokens that carry a label."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def owners(self) -> Tensor:
        """The row of each unit, (units,)."""

    @property
    def mask(self) -> Tensor | None:
        """Where the units stand, bool of shape (rows, places); None where each row is one unit."""

    @property
    def attended(self) -> Tensor:
        """Which input places hold a token, bool of shape (rows, length)."""

    @property
    def main(self) -> Any:
        """The one pass that all terms share (`Pass`)."""

    @property
    def states(self) -> list[Tensor]:
        """What each layer says, the embeddings first, (rows, length, size) each; name ``states`` in ``keeps``."""

    @property
    def activations(self) -> list[Tensor]:
        """What the last matrix of each MLP reads, (rows, length, size) each; name ``activations`` in ``keeps``."""

    @property
    def reference(self) -> Any:
        """The base's pass (`Pass` with ``states``), without gradient and drop-out; the term has ``compares = True``."""

    def as_base(self, keep: Collection[str] = ()) -> Any:
        """Another pass of the base (`Pass` with ``states``), for what `reference` did not keep."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Everything of the model and its adapters that trains: name -> tensor, the model's own as ``model.NAME``."""

    @property
    def origin(self) -> Mapping[str, Tensor]:
        """Starting values of the model's own trained tensors; the term has ``compares = True``."""

    @property
    def fresh(self) -> frozenset[str]:
        """Names of the trained tensors that were newly made for the task."""

    @property
    def special(self) -> list[int]:
        """The ids of padding, begin, end and the like."""

    @property
    def embeddings(self) -> Tensor:
        """The embeddings of the input tokens, without gradient, (rows, length, size)."""

    @property
    def table(self) -> Tensor:
        """The embedding of every token, without gradient, (vocabulary, size)."""

    def run(
        self,
        *,
        shift: Tensor | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        keep: Collection[str] = (),
        **changes: Any,
    ) -> Any:
        """Another pass: with shifted or other embeddings, with other weights, with parts of the batch replaced."""

    def draw(self, size: int = 1, kind: Literal["normal", "uniform"] = "normal") -> Tensor:
        """Random numbers for each place, (rows, length, size), 0 at padding; they follow from seed and row alone."""

    @property
    def names(self) -> list[str]:
        """The names of the classes."""

    @property
    def places(self) -> int | None:
        """Most places of a row that the model can read, as far as its configuration says."""

    def tokens(self, text: str) -> list[int]:
        """A text as ids of the base's tokenizer, without special tokens."""

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the base's tokenizer puts before and behind every text."""

    def other(self, model: Any, keep: Collection[str] = ()) -> Any:
        """What another model says of the same batch (`Pass` with ``states``), without gradient and drop-out."""

    @property
    def held_out(self) -> Any:
        """Validation rows under the same model (`Step`), drawn anew at each optimizer step; None where there are none."""

    def on(self, batch: dict[str, Tensor]) -> Any:
        """Another batch, seen by the same model: a `Step`."""

    def forward(self, **changes: Any) -> Any:
        """Another forward pass of the model, with parts of the batch replaced; its own output object."""

    def vocabulary(self, places: Tensor, **changes: Any) -> Tensor:
        """A language model's logits over its vocabulary at other places, (places, vocabulary), from another pass."""

    def base(self) -> Tensor:
        """The base model's logits at the same places, without gradient; the term has ``compares = True``."""


class Loss:
    """One term of what is asked.

    A term with tensors of its own is a `torch.nn.Module` too: its parameters train, and all its tensors are saved and
    resumed with the run.

    Settings:
        weight: factor of this term in the sum of all.

    Attributes:
        mean_over: what the term is a mean over: supervised ``units``, or ``rows``.
        compares: whether it asks for the base (``base``, ``reference``, ``origin``).
        keeps: what it asks of the main pass besides logits and hidden states: ``states``, ``activations``.
        whole: why it is not a mean over rows that can be cut into micro-batches; empty where it is one.
        started: whether `start` was called.
    """

    weight: Positive = 1.0
    mean_over: ClassVar[Literal["units", "rows"]] = "units"
    compares = False
    keeps: ClassVar[tuple[str, ...]] = ()
    whole: ClassVar[str] = ""
    started = False

    def __call__(self, step: Step) -> Tensor:
        """The mean over the step's supervised units, a scalar."""
        raise NotImplementedError

    def start(self, step: Step) -> None:
        """Called once before training, with two rows and without gradient: make tensors of the right sizes."""

    def end_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Called without gradient after each optimizer step, with everything of the model that trains."""

    def read(self, logits: Tensor, step: Step) -> Tensor:
        """What becomes of the model's logits when the tuned model is used: the same, unless the term owns a part."""
        return logits
