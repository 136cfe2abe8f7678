"""A recipe carried out: prepare, train, measure the base and what came of it, save, and prove the save."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import __version__, artefacts
from ..data.encode import collator
from ..engine import packed, processes
from ..engine.activations import without_lower
from ..engine.loop import Budget, Loop, Work
from ..engine.memory import give_back, reuse
from ..engine.precision import pick
from ..engine.predict import Reading, features, read
from ..engine.sharding import shard, wholes
from ..engine.step import ROW_HEADS
from ..engine.step_log import StepLog
from ..errors import InputError, Interrupted, RunError
from ..evaluation.answers import Answers
from ..host import Host
from ..parts import find
from ..recipe import Recipe
from ..recipe import read as read_recipe
from ..storage import atomic_file, atomic_folder, write_json
from .audit import BaseAndTuned, audit, check_audits
from .build import device, in_one_piece, make_host, micro_batch, used_terms
from .events import EventLog, Listener, read_events
from .measure import WRITERS, Probe, Scale, answers, before_training, labels_of, write_texts
from .prepare import Prepared, keep_rows, on_disk, prepare
from .reporting import make_report, write_report
from .sharded import check_sharded

STEPS = "steps.safetensors"
"""The log of a run's steps, where its weights follow from base and log."""

PROBE_ROWS = 8
"""Rows at most on which a saved model is compared with the one in memory."""

PROBE_TOKENS = 512
"""Tokens at most of these rows, but for a first row that is longer: a language model reads its rows twice for it."""


@dataclass
class Trained:
    """A run while it is carried out."""

    prepared: Prepared
    host: Host
    reading: Reading
    scale: Scale
    folder: Path
    probe: Probe | None = None
    log: StepLog | None = None


def carry_out(recipe: Recipe, folder: Path, *, listen: Listener, force: bool = False, resume: bool = False) -> None:
    """Carry out a recipe into a folder.

    Args:
        recipe: what to do.
        folder: where the run is kept.
        listen: hears every event.
        force: replace a run that is there.
        resume: go on with a run that was cut off.

    Raises:
        InputError: anything that the user can mend; nothing has been written then.
        RunError: training failed, or what was saved is not what was trained.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    check_sharded(recipe, processes.count_here())
    if not processes.is_first():
        _help(recipe, folder, resume)
        return
    check_folder(folder, force, resume)
    if resume and (folder / "report.json").exists():
        listen({"event": "note", "text": f"{folder}: the run is finished already"})
        return
    prepared = prepare(on_disk(recipe), lambda text: listen({"event": "note", "text": text}))
    check_audits(prepared.recipe, prepared.task)
    _fit(prepared, lambda text: listen({"event": "note", "text": text}), folder if resume else None)
    made = _begin(prepared, folder)
    _open_folder(prepared, folder, force, resume)
    log = EventLog(folder / "events.jsonl")
    for text in made.host.notes:
        listen({"event": "note", "text": text})

    def hear(event: Mapping[str, Any]) -> None:
        log(event)
        listen(event)

    held_out = held_out_rows(prepared)
    started = time.perf_counter()
    _train(made, _work(made, hear), hear)
    # The base is measured when nobody waits for the first step any more.
    before = _base(made, held_out)
    after = _after(made, held_out)
    _save(made)
    write_json(folder / "proof.json", prove(folder))
    report = make_report(
        prepared, before, after, read_events(folder / "events.jsonl"), cost=_cost(made, time.perf_counter() - started)
    )
    write_report(report, prepared, folder)
    if prepared.recipe.audit:
        report["audit"] = _audited(made, before, after, listen)
        write_report(report, prepared, folder)
    hear({"event": "done", "folder": str(folder)})


def _help(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Train beside the first process, which alone measures and writes."""
    prepared = prepare(on_disk(recipe))
    _fit(prepared, lambda text: None, folder if resume else None)
    made = _begin(prepared, folder)
    _train(made, _work(made), lambda event: None)


def _fit(prepared: Prepared, say: Callable[[str], None], folder: Path | None = None) -> None:
    """Let the plan choose micro-batch and recomputation where the recipe limits the memory, and keep none that is free."""
    if prepared.recipe.memory is None:
        reuse()
        return
    from .planned import fitted

    give_back()
    prepared.recipe = fitted(prepared, say, read_recipe(folder / "recipe.yaml") if folder else None)


@dataclass
class Scored:
    """What a training came to, measured in memory: nothing of the model is kept.

    Attributes:
        prepared: the recipe, complete, with its rows.
        host: the tuned model.
        answers: of the tuned model on the held-out rows.
        texts: answers of written rows, for tasks that write.
        events: of the training.
        cost: seconds, trained and all weights, bytes that a save would take.
        work: what the loop was given.
        audit: what the recipe's audits found; None where it asks for none.
    """

    prepared: Prepared
    host: Host
    answers: Answers
    texts: Answers | None
    events: list[dict[str, Any]]
    cost: dict[str, Any]
    work: Work
    audit: dict[str, Any] | None = None


def score(recipe: Recipe, folder: Path, *, listen: Listener) -> Scored:
    """Train and score on the held-out rows; the folder holds checkpoints only, for a comparison of many recipes.

    Raises:
        InputError: anything that the user can mend.
        RunError: training failed.
        Interrupted: SIGINT or SIGTERM.
    """
    check_sharded(recipe, 1)
    prepared = prepare(on_disk(recipe))
    check_audits(prepared.recipe, prepared.task)
    _fit(prepared, lambda text: listen({"event": "note", "text": text}))
    made = _begin(prepared, folder)
    before = _before(made, held_out_rows(prepared)) if recipe.audit else None
    events: list[dict[str, Any]] = []

    def hear(event: Mapping[str, Any]) -> None:
        events.append(dict(event))
        listen(event)

    started = time.perf_counter()
    work = _work(made, hear)
    _train(made, work, hear)
    after = _after(made, held_out_rows(prepared))
    state = made.host.state()
    stored = sum(t.numel() * t.element_size() for t in state.values())
    cost = {**_cost(made, time.perf_counter() - started), "stored_bytes": stored}
    texts = after["texts"]["answers"] if "texts" in after else None
    found = _audited(made, before, after, listen) if before else None
    return Scored(prepared, made.host, after["answers"], texts, events, cost, work, found)


def untrained(recipe: Recipe, folder: Path) -> tuple[Prepared, dict[str, Answers]]:
    """What the base and the baselines say of the held-out rows, the chief one last; see `score`."""
    prepared = prepare(on_disk(recipe))
    made = _begin(prepared, folder)
    return prepared, _before(made, held_out_rows(prepared))["answers"]


def untuned(prepared: Prepared) -> Reading:
    """The model as training begins, and how rows are read."""
    with tempfile.TemporaryDirectory() as folder:
        return _begin(prepared, Path(folder)).reading


def unbegun(prepared: Prepared) -> Loop:
    """The loop of a training that has not begun and keeps no checkpoints."""
    made = _begin(prepared, Path())
    return Loop(replace(_work(made), folder=None), device())


def untuned_features(prepared: Prepared, name: str) -> np.ndarray:
    """The base's mean last hidden state of each encoded row of a split, shape (rows, hidden)."""
    with tempfile.TemporaryDirectory() as folder:
        made = _begin(prepared, Path(folder))
        return features(made.reading, prepared.encoded[name])


# ---------------------------------------------------------------------- the folder


def check_folder(folder: Path, force: bool, resume: bool) -> None:
    """Whether a run can be begun or gone on with in this folder.

    Raises:
        InputError: it cannot.
    """
    if resume and not (folder / "recipe.yaml").exists():
        raise InputError("there is no run to go on with", where=folder, fix="leave --resume out to begin one")
    if folder.exists() and any(folder.iterdir()) and not (force or resume):
        raise InputError(
            "a run of this name is there already",
            where=folder,
            fix="--name another, --resume it, or --force to replace it",
        )
    if folder.exists() and force and any(folder.iterdir()) and not (folder / "recipe.yaml").exists():
        raise InputError("is not a run's folder, and will not be replaced", where=folder, fix="choose another --name")


def _open_folder(prepared: Prepared, folder: Path, force: bool, resume: bool) -> None:
    """Write what the run starts from; a resumed run must start from the same."""
    if resume:
        check_same(prepared, folder)
        return
    if force and folder.exists():
        shutil.rmtree(folder)
    prepared.recipe = keep_rows(prepared.recipe, folder)
    with atomic_file(folder / "recipe.yaml") as file:
        file.write(prepared.recipe.to_yaml())
    write_json(folder / "data.json", prepared.facts)
    write_json(folder / "environment.json", environment(prepared))


def check_same(prepared: Prepared, folder: Path) -> None:
    """A run goes on with the recipe and the rows that it began with."""
    known = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    for name, part in prepared.facts["splits"].items():
        if any(part[k] != known["splits"][name][k] for k in ("indices", "fingerprint")):
            raise InputError(f"the {name} rows are no longer those of the run", where=folder, fix="begin a new run")
    begun, now = _flat(read_recipe(folder / "recipe.yaml").to_dict()), _flat(prepared.recipe.to_dict())
    for option in sorted(begun.keys() | now.keys()):
        if begun.get(option) != now.get(option) and option not in ("rows.train", "rows.validation", "rows.test"):
            raise InputError(
                f"{option} is {now.get(option)!r} now, and was {begun.get(option)!r} when the run began", where=folder,
                fix=f"go on with its own recipe: tunesmith tune {folder / 'recipe.yaml'} --out {folder.parent} "
                f"--name {folder.name} --resume",
            )  # fmt: skip


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options as dotted ones."""
    if isinstance(values, list) and all(isinstance(v, dict) for v in values):
        values = {k: v for item in values for k, v in item.items()}
    if not isinstance(values, dict) or not values:
        return {prefix.rstrip("."): values}
    return {k: v for name, value in values.items() for k, v in _flat(value, f"{prefix}{name}.").items()}


def environment(prepared: Prepared) -> dict[str, Any]:
    """Versions, machine and base: what it takes to repeat the run."""
    packages = {}
    for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    here = device()
    return {
        "tunesmith": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(here) if here.type == "cuda" else str(here),
        "threads": torch.get_num_threads(),
        "precision": str(pick(prepared.recipe.precision, here)).removeprefix("torch."),
        "base": {
            "name": prepared.base.name,
            "revision": prepared.base.revision,
            "sha256": prepared.base.fingerprint,
            "licence": prepared.base.licence,
        },
        "command": sys.argv,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


# ---------------------------------------------------------------------- before, while and after


def _begin(prepared: Prepared, folder: Path, make: Callable[..., Host] = make_host) -> Trained:
    """The model as training begins, and how rows are read; ``make`` builds the host, as `make_host` does."""
    recipe, task = prepared.recipe, prepared.task
    labels = task.labels if task.name != "regress" else None
    host = make(recipe, prepared.base, prepared.head, labels, multi=bool(getattr(task, "multi", False)))
    pad = prepared.reader.tokenizer.pad_token_id
    scale = _scale(prepared, host) if task.name == "regress" else Scale()
    collate = _scaled(collator(task, pad if pad is not None else 0), scale)
    dtype = pick(recipe.precision, device())
    reading = Reading(host, collate, prepared.head, tokens=micro_batch(recipe, prepared.head), dtype=dtype)
    if host.packs and make is make_host:
        packed.check(reading, prepared.encoded["train"])
    return Trained(prepared, host, reading, scale, folder)


def _scaled(collate: Callable[..., dict[str, Tensor]], scale: Scale) -> Callable[..., dict[str, Tensor]]:
    if scale == Scale():
        return collate

    def scaled(rows: Any) -> dict[str, Tensor]:
        batch = collate(rows)
        batch["labels"] = (batch["labels"] - scale.mean) / scale.deviation
        return batch

    return scaled


def _scale(prepared: Prepared, host: Host) -> Scale:
    """Mean and deviation of the training numbers; the mean only where the head has a bias to take it up."""
    values = np.array(labels_of(prepared.encoded["train"]), dtype=float)
    mean = float(values.mean()) if _last_linear(host).bias is not None else 0.0
    return Scale(mean, float(np.sqrt(((values - mean) ** 2).mean())) or 1.0)


def _last_linear(host: Host) -> nn.Linear:
    """The layer of the head that gives the one number."""
    heads = [s.module for s in host.anatomy.sites if s.role == "head" and isinstance(s.module, nn.Linear)]
    return next(m for m in reversed(heads) if m.out_features == 1)


def held_out_rows(prepared: Prepared) -> np.ndarray:
    """The test rows that the report stands on: all of them, or as many as the recipe says."""
    return _drawn(len(prepared.encoded["test"]), prepared.recipe.checks.rows, prepared.recipe.rows.seed)


def _drawn(count: int, limit: int | None, seed: int) -> np.ndarray:
    """At most so many of ``count`` places, in their order; those of a smaller limit are among those of a larger."""
    return np.sort(np.random.default_rng(seed).permutation(count)[: limit or count])


def _written_rows(prepared: Prepared, held_out: np.ndarray) -> np.ndarray:
    if prepared.task.name not in ("generate", "chat"):
        return held_out[:0]
    return held_out[: prepared.recipe.checks.generate]


def _base(made: Trained, held_out: np.ndarray) -> dict[str, Any]:
    """`_before`, after training: what is attached is switched off, and moved weights are loaded anew."""
    if made.prepared.recipe.mask is None:
        return _before(made, held_out)
    base = _begin(made.prepared, made.folder)
    found = _before(base, held_out)
    made.probe = base.probe
    return found


def _before(made: Trained, held_out: np.ndarray) -> dict[str, Any]:
    """Baselines, and what the base writes."""
    prepared = made.prepared
    encoded = prepared.encoded
    if prepared.task.name not in WRITERS:
        made.probe = Probe(prepared.task, made.reading, encoded["train"], prepared.recipe.rows.seed)
    found: dict[str, Any] = {
        "answers": before_training(prepared.task, made.reading, encoded["train"], encoded["test"], held_out, made.probe)
    }
    written = _written_rows(prepared, held_out)
    if len(written):
        with made.host.off():
            found["texts"] = _texts(made, written)
    return found


def _texts(made: Trained, written: np.ndarray) -> dict[str, Any]:
    prepared = made.prepared
    rows = [prepared.encoded["test"].original(i) for i in written]
    texts, stopped = write_texts(
        prepared.task, made.reading, prepared.reader, rows, prepared.recipe.checks.generate_tokens
    )
    return {"answers": Answers([prepared.task.target(r) for r in rows], texts), "stopped": stopped, "rows": rows}


def _work(made: Trained, hear: Listener = lambda event: None) -> Work:
    """What the loop is given; ``hear`` hears what is computed ahead."""
    recipe, task = made.prepared.recipe, made.prepared.task
    losses = recipe.loss or [find("loss", task.loss).choose()]
    terms = [c.build() for c in losses]
    made.reading.terms = used_terms(terms)
    *transforms, stepper = recipe.optimizer
    gradient = recipe.gradient.build()
    rows, validation = made.prepared.encoded["train"], made.prepared.encoded["validation"]
    tokens = made.reading.tokens
    if recipe.batch.tokens is None and in_one_piece(gradient, terms):
        tokens = max(tokens, recipe.batch.rows * int(rows.lengths.max(initial=1)))
    work = Work(
        host=made.host,
        rows=rows,
        collate=made.reading.collate,
        head=made.prepared.head,
        losses=terms,
        gradient=gradient,
        transforms=[c.build() for c in transforms],
        stepper=stepper.build(),
        schedule=recipe.schedule.build(),
        budget=Budget(**{n: getattr(recipe.budget, n) for n in type(recipe.budget).model_fields}),
        rows_per_step=recipe.batch.rows,
        tokens=tokens,
        dtype=made.reading.dtype,
        seed=recipe.seed,
        folder=made.folder / "checkpoints",
        save_minutes=recipe.save.minutes,
        save_steps=recipe.save.steps,
        validate=(lambda: _validation_loss(made, validation)) if len(validation) else None,
        validations=recipe.checks.validations,
        validation_rows=min(len(validation), recipe.checks.rows or len(validation)),
        mask=recipe.mask.build() if recipe.mask else None,
        words=made.prepared.reader,
        held_out=validation,
    )
    if recipe.cache_activations is False:
        return work
    return without_lower(work, recipe.cache_activations, lambda text: hear({"event": "note", "text": text}))


def _validation_loss(made: Trained, rows: Any) -> float:
    """The task's own loss on the validation rows, or on as many as the recipe says."""
    recipe = made.prepared.recipe
    chosen = _drawn(len(rows), recipe.checks.rows, recipe.rows.seed)
    outputs = read(made.reading, rows, chosen)
    if made.prepared.head not in ROW_HEADS:
        return float(outputs.loss.sum() / max(1, outputs.units.sum()))
    logits = torch.from_numpy(outputs.logits).float()
    labels = torch.tensor(labels_of(rows))[torch.from_numpy(chosen)]
    name = made.prepared.task.loss
    if name == "squared_error":
        wanted = (labels.float() - made.scale.mean) / made.scale.deviation
        return float(nn.functional.mse_loss(logits.squeeze(-1), wanted))
    if name == "binary_cross_entropy":
        return float(nn.functional.binary_cross_entropy_with_logits(logits, labels.float()))
    return float(nn.functional.cross_entropy(logits, labels))


def _train(made: Trained, work: Work, hear: Listener) -> None:
    work.together = processes.here()
    if made.prepared.recipe.sharded:
        shard(made.host, work.together)
        work.sharded = True
    engine = Loop(work, device())
    work.together.wait()
    if engine.resume():
        hear({"event": "note", "text": f"resumed at step {engine.state.step}"})
    rates = {"rate": work.stepper.lr, "steps": engine.total_steps if np.isfinite(engine.total_steps) else None}
    with _signals(engine), work.together.reached():
        for event in engine.choose():
            hear(event)
        count = made.host.count()
        hear({"event": "start", "trainable": count, "tensors": len(made.host.trainable()), **rates})
        for event in engine:
            hear(event)
            if event["event"] == "health" and event["step"] >= 10 and event["asleep"]:
                names = ", ".join(list(event["asleep"])[:3])
                hear({"event": "warning", "text": f"{len(event['asleep'])} tensors do not learn, first {names}"})
    made.log = engine.kept_log() if made.scale == Scale() else None
    if work.sharded and engine.state.stopped != "interrupted":
        _gather(made, work.together.first)
    if engine.state.stopped == "interrupted":
        assert engine.interrupt is not None
        raise Interrupted(
            f"stopped at step {engine.state.step}; go on with: tunesmith tune {made.folder / 'recipe.yaml'} "
            f"--out {made.folder.parent} --name {made.folder.name} --resume", engine.interrupt,
        )  # fmt: skip


def _gather(made: Trained, first: bool) -> None:
    """In the first process put a whole model with what was trained in the place of one that is shared out."""
    trained = wholes(made.host.state(training=True))
    if not first:
        return
    fresh = _begin(made.prepared, made.folder)
    fresh.host.load(trained, training=True)
    fresh.reading.terms = made.reading.terms
    made.host, made.reading = fresh.host, fresh.reading


@contextmanager
def _signals(engine: Loop) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after the step that is under way; a second SIGINT ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if engine.interrupt is not None:
            raise KeyboardInterrupt
        engine.interrupt = number

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _after(made: Trained, held_out: np.ndarray) -> dict[str, Any]:
    """Bring a regression's head to the scale of the rows, then score the tuned model."""
    prepared = made.prepared
    if made.scale != Scale():
        _fold_scale(made)
    test = prepared.encoded["test"]
    found: dict[str, Any] = {
        "answers": answers(prepared.task, test, read(made.reading, test, held_out), held_out),
        "texts_of_rows": [_row_text(prepared, test.original(i)) for i in held_out],
    }
    written = _written_rows(prepared, held_out)
    if len(written):
        found["texts"] = _texts(made, written)
    return found


def _audited(made: Trained, before: dict[str, Any], after: dict[str, Any], listen: Listener) -> dict[str, Any]:
    """What the recipe's audits find."""
    prepared = made.prepared
    pair = BaseAndTuned(prepared, made.reading, held_out_rows(prepared), made.probe, _known(before, after, prepared))
    return audit(pair, prepared.recipe.audit, lambda text: listen({"event": "note", "text": text}))


def _known(before: dict[str, Any], after: dict[str, Any], prepared: Prepared) -> tuple[Answers, Answers] | None:
    """What base and tuned model have said of the held-out rows; none where no audit would read them."""
    if prepared.task.name in ("lm", "prefer"):
        return None
    return list(before["answers"].values())[-1], after["answers"]


@torch.no_grad()
def _fold_scale(made: Trained) -> None:
    last = _last_linear(made.host)
    last.weight.mul_(made.scale.deviation)
    if last.bias is not None:
        last.bias.mul_(made.scale.deviation).add_(made.scale.mean)
    made.scale = Scale()
    pad = made.prepared.reader.tokenizer.pad_token_id
    made.reading.collate = collator(made.prepared.task, pad if pad is not None else 0)


def _row_text(prepared: Prepared, row: dict[str, Any]) -> str:
    values = [row[c] for c in prepared.task.input_columns]
    return " | ".join(" ".join(v) if isinstance(v, list) and v and isinstance(v[0], str) else str(v) for v in values)


# ---------------------------------------------------------------------- saving


def artefact_folder(folder: Path, recipe: Recipe) -> Path:
    """``adapter`` for a run with adapters, ``delta`` for one that moved entries, ``model`` for one that moved tensors."""
    if recipe.adapter:
        return folder / "adapter"
    return folder / ("delta" if recipe.mask and recipe.mask.part.attributes["sparse"] else "model")


def _save(made: Trained) -> None:
    """Write the artefact whole, with the tokenizer, and the outputs that it must give again."""
    prepared = made.prepared
    with atomic_folder(artefact_folder(made.folder, prepared.recipe)) as target:
        if prepared.recipe.adapter or made.host.patches:
            artefacts.save_adapter(
                made.host, target, base=str(prepared.base.name), revision=prepared.base.revision, head=prepared.head
            )
        else:
            artefacts.save_model(made.host, target)
        artefacts.save_terms(made.reading.terms, target)
        save_tokenizer(prepared.reader, made.host, target, chats=prepared.task.name == "chat")
    if made.log is not None:
        made.log.save(made.folder / STEPS)
    _write_probe(made, made.folder / "probe")
    for old in (made.folder / "checkpoints").glob("step-*"):
        shutil.rmtree(old)


def save_tokenizer(reader: Any, host: Host, target: Path, *, chats: bool) -> None:
    """The tokenizer with the template that was trained with, and for a language model every id that ends a text.

    Args:
        reader: holds the tokenizer and the template.
        host: the model.
        target: an existing folder.
        chats: whether conversations were trained, by the plain template where the base has none.
    """
    tokenizer = reader.tokenizer
    if host.model.can_generate():
        from ..engine.generate import stop_ids

        if reader.has_template or chats:
            tokenizer.chat_template = reader.template
        host.model.generation_config.eos_token_id = stop_ids(host.model, tokenizer)
        if host.model.generation_config.pad_token_id is None:
            host.model.generation_config.pad_token_id = tokenizer.pad_token_id
        host.model.generation_config.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_probe(made: Trained, folder: Path) -> None:
    """Some encoded test rows and what the model says of them in fp32, for a reloaded one to be compared with."""
    test = made.prepared.encoded["test"]
    fit = int((np.cumsum(test.lengths[:PROBE_ROWS]) <= PROBE_TOKENS).sum())
    records = [{**r, "row": i} for i, r in enumerate(test.take(np.arange(max(1, fit))))]
    with atomic_folder(folder) as target:
        write_json(target / "rows.json", records)
        save_file(probe_outputs(made.reading, records), target / "outputs.safetensors")


class ProbeRows:
    """Encoded rows in memory."""

    def __init__(self, records: list[dict[str, Any]]):
        self._records = records
        self.lengths = np.array([r["length"] for r in records])

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: np.ndarray) -> list[dict[str, Any]]:
        return [self._records[int(i)] for i in indices]

    def where(self, index: int) -> str:
        return f"probe row {index + 1}"


def probe_outputs(reading: Reading, records: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What the model says of encoded rows, in fp32."""
    exact = Reading(reading.host, reading.collate, reading.head, reading.tokens)
    outputs = read(exact, ProbeRows(records))
    return {
        "logits": torch.from_numpy(np.ascontiguousarray(outputs.logits, dtype=np.float32)),
        "loss": torch.from_numpy(outputs.loss.astype(np.float64)),
        "tokens": torch.from_numpy(np.concatenate([t.ravel() for t in outputs.tokens]).astype(np.float32)),
    }


def prove(folder: Path, *other: str | Path) -> dict[str, Any]:
    """Load an artefact in a fresh process and compare its outputs with those of the model that was trained.

    Args:
        folder: the run.
        other: ``--merged``, ``--adapter`` or ``--log`` and a folder, for what stands in place of the run's own artefact.

    Raises:
        RunError: it does not load, lacks a trained tensor, or gives other outputs.
    """
    made = _in_fresh_process("tunesmith.run.verify", str(folder), *map(str, other))
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"{folder}: the saved model is not the trained one: {reason}")
    proof: dict[str, Any] = json.loads(made.stdout.strip().splitlines()[-1])
    return proof


def _in_fresh_process(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


def _cost(made: Trained, seconds: float) -> dict[str, Any]:
    stored = sum(f.stat().st_size for f in artefact_folder(made.folder, made.prepared.recipe).rglob("*.safetensors"))
    trainable = sum(p.numel() for p in made.host.trainable().values())
    total = sum(p.numel() for p in made.host.model.parameters())
    return {"seconds": seconds, "trainable": trainable, "parameters": total, "stored_bytes": stored}
