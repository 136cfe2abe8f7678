"""What every trainer that is built on transformers' tells the meter."""

from __future__ import annotations

import time
from collections.abc import Callable

from meter import Meter
from torch import nn
from transformers import TrainerCallback


class Marks(TrainerCallback):
    """Tells the meter what happens; with ``judge``, validations give its loss in place of the trainer's own."""

    def __init__(self, watch: Meter, judge: Callable[[nn.Module], float] | None = None):
        self.watch, self.judge = watch, judge

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.watch.begin()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.watch.step()

    def on_evaluate(self, *_: object, metrics: dict[str, float], model: nn.Module, **__: object) -> None:
        began, loss = time.perf_counter(), metrics["eval_loss"]
        if self.judge is not None:
            loss = self.judge(model)
            self.watch.judging(time.perf_counter() - began)
        self.watch.validated(loss, metrics["eval_runtime"] + time.perf_counter() - began)
