"""A second, frozen model that a loss asks: the base itself, or a model by name."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..models.bases import load, resolve
from . import Step


class Teacher:
    """A frozen model beside the one that learns.

    Args:
        name: ``base`` for the run's own base, else an alias, a folder or a hub id, with the same tokenizer.
    """

    def __init__(self, name: str):
        self.name = name
        self._model: Any = None

    @property
    def is_base(self) -> bool:
        """Whether it is the run's own base."""
        return self.name == "base"

    def start(self, step: Step, head: str | None = None) -> None:
        """Load the model.

        Raises:
            InputError: there is none of this name, it has no trained head for the task, or another vocabulary.
        """
        if self.is_base:
            return
        labels = step.names if step.head.endswith("classification") else None
        loaded = load(resolve(self.name), step.head, labels=labels)
        if loaded.fresh and head != "any":
            raise InputError(
                f"has no trained head for {step.head} ({loaded.fresh[0]} is missing)", where=f"teacher {self.name}",
                expected="a model that was tuned for the same task and labels",
            )  # fmt: skip
        self._model = loaded.model.to(step.batch["input_ids"].device).requires_grad_(False)
        table = self._model.get_input_embeddings().weight
        if len(table) != len(step.table):
            raise InputError(
                f"has a vocabulary of {len(table):,} tokens, the base has {len(step.table):,}",
                where=f"teacher {self.name}", expected="a model with the same tokenizer",
            )  # fmt: skip

    def seen(self, step: Step, keep: tuple[str, ...] = ()) -> Any:
        """What it says of the batch (`Pass`), without gradient."""
        if not self.is_base:
            return step.other(self._model, keep)
        seen = step.reference
        return seen if all(getattr(seen, what) for what in keep) else step.as_base(keep)
