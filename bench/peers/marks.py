"""What every trainer that is built on transformers' tells the meter."""

from __future__ import annotations

from meter import Meter
from transformers import TrainerCallback


class Marks(TrainerCallback):
    """Tells the meter what happens."""

    def __init__(self, watch: Meter):
        self.watch = watch

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.watch.begin()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.watch.step()

    def on_evaluate(self, *_: object, metrics: dict[str, float], **__: object) -> None:
        self.watch.validated(metrics["eval_loss"], metrics["eval_runtime"])
