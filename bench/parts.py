"""What every adapter and mask trains and what that costs in memory, at its defaults on a packaged base.

    python bench/parts.py [--only NAME ...]

Each part takes a few real steps of an arena task; bytes are those of the tensors that the optimizer has then. The presets' learning tests (``bench/presets.py``) and the claims' verdicts are read from their files.
Writes ``src/tunesmith/measured/parts.json``, which ships with the package. Without ``--only`` all parts are measured; what
was measured of the others stays, and presets and verdicts are always those of today's files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from techniques import every, technique

from tunesmith.claims import claim as claims
from tunesmith.claims.settle import stored
from tunesmith.comparing import arena
from tunesmith.comparing.identity import Identities, chosen_parts, codes
from tunesmith.measured import FILE
from tunesmith.parts import Part
from tunesmith.storage import write_json

ROOT = Path(__file__).parent.parent
PRESETS = ROOT / "bench" / "presets"
TASK, STEPS = "intent", 4
OPTIONS = {
    "budget": {"steps": STEPS, "epochs": None}, "checks.rows": 8, "batch.rows": 4, "rows.limit": 200, "rows.validation_share": 0.02,
}  # fmt: skip
"""Bytes depend on none of them."""


def measure(part: Part, seen: Watched) -> dict[str, Any]:
    """Take some steps with a part; its facts but for preset and claims."""
    from tunesmith.peft_format import why_not
    from tunesmith.run.carry_out import score

    recipe = arena.find(TASK).recipe({**technique(part, TASK, Identities()), **OPTIONS})
    seen.begin()
    with tempfile.TemporaryDirectory() as folder:
        scored = score(recipe, Path(folder), listen=lambda event: None)
    adapters = bool(scored.host.adapters)
    return {
        **seen.read(scored.cost["parameters"]), "folds": adapters and scored.host.why_not_fold() is None,
        "exports": adapters and why_not(scored.host) is None, "code": codes(recipe)[f"{part.kind}.{part.name}"],
    }  # fmt: skip


class Watched:
    """What each optimizer of this process holds: the most at any step."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self.begin()
        register_optimizer_step_pre_hook(lambda optimizer, *_: self._see(optimizer))
        register_optimizer_step_post_hook(lambda optimizer, *_: self._see(optimizer))

    def begin(self) -> None:
        """Forget what was seen."""
        self.seen: list[tuple[Any, dict[str, int]]] = []

    def _see(self, optimizer: Any) -> None:
        if not self.seen or self.seen[-1][0] is not optimizer:
            self.seen.append((optimizer, {"trained": 0, "weights": 0, "gradients": 0, "optimizer": 0}))
        mine = [p for group in optimizer.param_groups for p in group["params"]]
        state = [t for p in mine for t in optimizer.state.get(p, {}).values() if hasattr(t, "element_size")]
        now = {"weights": mine, "gradients": [p.grad for p in mine if p.grad is not None], "optimizer": state}
        most = self.seen[-1][1]
        most["trained"] = max(most["trained"], sum(p.numel() for p in mine))
        most |= {k: max(most[k], sum(t.numel() * t.element_size() for t in tensors)) for k, tensors in now.items()}

    def read(self, parameters: int) -> dict[str, Any]:
        """Numbers and bytes of the training, and bytes of what went before it where a mask first tunes everything."""
        *before, (_, last) = self.seen
        scout = max((sum(bytes_ for name, bytes_ in b.items() if name != "trained") for _, b in before), default=0)
        return {**last, "share": last["trained"] / parameters, "scout": scout}


def tests(part: Part) -> dict[str, Any] | None:
    """What the learning test of a part said, without its trials; None where there was none."""
    path = PRESETS / f"{part.name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return {k: found[k] for k in ("rate", "best", "range", "dead", "tasks", "beats_head", "seeds")}


def verdicts() -> Iterator[tuple[str, str, str | None]]:
    """For each part that a claim's technique names: ``kind.name``, the claim, and its verdict."""
    folder = ROOT / "claims"
    for stem, claim in claims.every(folder).items() if folder.is_dir() else ():
        given: Mapping[str, Any] = claim.experiment.own.get("technique", {}) if claim.experiment else {}
        if given:
            found = stored(folder, claim)
            said = found["verdict"] if found else "not testable here" if claim.not_testable else None
            recipe = arena.find(TASK).recipe({k: v for k, v in given.items() if k.split(".")[0] in ("adapter", "mask")})
            yield from ((f"{c.kind}.{c.name}", stem, said) for c in chosen_parts(recipe))


def main() -> None:
    """Measure, and write the file after each part."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument(
        "--only", nargs="*", help="names of parts to measure; none given: nothing is, files are read anew"
    )
    given = asked.parse_args()
    known: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["parts"] if FILE.exists() else {}
    said, seen = list(verdicts()), Watched()
    about = {"task": TASK, "base": arena.find(TASK).values["base"], "steps": STEPS}
    for part in every():
        key = f"{part.kind}.{part.name}"
        measured = given.only is None or part.name in given.only
        facts = measure(part, seen) if measured else known.get(key)
        if facts is None:
            continue
        mine = {stem: verdict for k, stem, verdict in said if k == key}
        known[key] = {**facts, "preset": tests(part), "claims": mine}
        if measured:
            print(key, facts["trained"], flush=True)
        write(about, known)
    write(about, known)


def write(about: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """The file, without parts that are no longer there."""
    names = {f"{part.kind}.{part.name}" for part in every()}
    write_json(FILE, {"about": about, "parts": {k: known[k] for k in sorted(known) if k in names}})


if __name__ == "__main__":
    main()
