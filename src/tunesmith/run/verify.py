"""Run in a fresh process: load what was saved, and compare its outputs with those of the model that was trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..data.encode import collator
from ..engine.predict import Reading
from ..errors import RunError, TunesmithError
from ..host import Host
from ..models.bases import load, resolve
from .carry_out import probe_outputs
from .opened import Run

TOLERANCE = 1e-5
"""Largest difference of an output in fp32, relative to the largest output; a merged model may have ten times that."""


def main(arguments: list[str]) -> int:
    """``FOLDER`` checks the run's own artefact; ``--adapter COPY``, ``--merged MODEL`` or ``--log COPY`` another one."""
    try:
        folder, form, other = (*arguments, "", "")[:3]
        run = Run(folder, adapter=Path(other) if form == "--adapter" else None)
        merged = Path(other) if form == "--merged" else None
        worst = compare(run, merged, Run(other) if form == "--log" else run)
        limit = TOLERANCE * (10 if merged else 1)
        if not worst <= limit:
            raise RunError(f"outputs differ by {worst:.2g} of the largest one; at most {limit:g} is allowed")
        print(json.dumps({"largest_relative_difference": worst, "tolerance": limit, "torch": torch.__version__}))
    except TunesmithError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def compare(run: Run, merged: Path | None, used: Run) -> float:
    """The largest difference of the outputs on the probe rows, relative to the largest output.

    Args:
        run: the run, with what its model said in training.
        merged: a plain model to compare with it; None compares ``used``.
        used: the run itself, or its log of steps.
    """
    saved = load_file(run.folder / "probe" / "outputs.safetensors")
    records = json.loads((run.folder / "probe" / "rows.json").read_text(encoding="utf-8"))
    host = used.host if merged is None else _plain(run, merged)
    pad = run.reader.tokenizer.pad_token_id
    collate = collator(run.task, pad if pad is not None else 0)
    here = probe_outputs(Reading(host, collate, run.reading.head, run.reading.tokens), records)
    worst = 0.0
    for name, values in saved.items():
        if values.numel():
            worst = max(worst, float((here[name] - values).abs().max() / values.abs().max().clamp(min=1e-6)))
    return worst


def _plain(run: Run, folder: Path) -> Host:
    """A merged model as any other tool would load it."""
    labels = run.task.labels if run.task.name != "regress" else None
    loaded = load(resolve(str(folder)), run.reading.head, labels=labels, seed=1)
    if loaded.fresh:
        raise RunError(f"{loaded.fresh[0]} is missing")
    return Host(loaded.model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
