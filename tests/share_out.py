"""One of two processes that share a tiny model out, or one alone: ``python share_out.py FOLDER begin|resume [ADAPTER]``.

Prints the loss of each step, and writes what was trained to ``FOLDER/trained-COUNT.safetensors``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from test_engine import work
from tunesmith.engine import processes
from tunesmith.engine.loop import Budget, Loop
from tunesmith.engine.sharding import shard, wholes


def main(folder: Path, how: str, adapter: str | None) -> None:
    made = work("bert", adapter, None if adapter else "everything", tokens=40, budget=Budget(epochs=None, steps=6))
    for module in made.host.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    made.host.model.config.attention_probs_dropout_prob = 0.0
    made.together = processes.here()
    made.folder, made.save_steps = folder, 3
    if made.together.count > 1:
        shard(made.host, made.together)
        made.sharded = True
    loop = Loop(made)
    assert loop.resume() == (how == "resume")
    losses = []
    for event in loop:
        losses += [event["loss"]] if event["event"] == "step" else []
        if event["event"] == "save" and how == "begin" and made.together.count > 1:
            break
    trained = wholes(made.host.state())
    if made.together.first:
        save_file(
            {n: t.contiguous() for n, t in trained.items()}, folder / f"trained-{made.together.count}.safetensors"
        )
        print(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or [None])[0])
