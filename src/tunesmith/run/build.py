"""From a prepared recipe to a model with its parts: the same way for training and for use afterwards."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import artefacts
from ..engine import cloze
from ..engine.batches import most_tokens
from ..engine.chunked import WRITES
from ..engine.loop import Budget, Loop, Work
from ..engine.step import ROW_HEADS, Step
from ..engine.step_log import StepLog, replay
from ..errors import InputError
from ..gradients import Gradient
from ..host import Host
from ..losses import Loss
from ..models.bases import BaseInfo, load, sketch
from ..recipe import Recipe
from ..sparse import SparseDelta


def device() -> torch.device:
    """The fastest device here: a CUDA GPU, Apple's, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def micro_batch(recipe: Recipe, head: str) -> int:
    """Most tokens that go through the model at a time: as the recipe says, or what stands for the device and the head."""
    return recipe.batch.tokens or most_tokens(device().type, writes=head in WRITES)


def in_one_piece(gradient: Gradient, terms: Sequence[Loss]) -> bool:
    """Whether all rows of a step have to go through the model together: weights move on the way, or a term compares rows."""
    return gradient.streams or any(term.whole for term in terms)


def make_host(
    recipe: Recipe,
    base: BaseInfo,
    head: str,
    labels: list[str] | None,
    *,
    multi: bool = False,
    trained: list[str] | None = None,
) -> Host:
    """The base with its head, every adapter attached, and what trains chosen by the mask.

    Args:
        recipe: says which parts.
        base: the base.
        head: kind of the head.
        labels: names of its outputs; None for one number.
        multi: whether a row can have several labels.
        trained: to open a run again: the own tensors that it trained, in place of the mask's choice.

    Raises:
        InputError: a part does not fit this base, or nothing would train.
    """
    loaded = load(base, head, labels=labels, seed=recipe.seed, problem=problem_of(head, labels, multi=multi))
    host = Host(loaded.model, loaded.fresh if trained is None else trained)
    host.to(device())
    _begin_from(host, recipe.upon)
    _equip(host, recipe, begin=trained is None, choose=trained is None)
    if recipe.gradient_checkpointing:
        host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return host


def replayed(recipe: Recipe, host: Host, log: StepLog) -> None:
    """Carry out a log of steps on a host as a run of this complete recipe begins with it."""
    *transforms, stepper = recipe.optimizer
    work = Work(
        host=host, rows=_NoRows(), collate=lambda rows: {}, head="", losses=[], gradient=recipe.gradient.build(),
        transforms=[c.build() for c in transforms],
        stepper=stepper.build(),
        schedule=recipe.schedule.build(), budget=Budget(), mask=recipe.mask.build() if recipe.mask else None,
    )  # fmt: skip
    replay(Loop(work, device()), log)


class _NoRows:
    """Rows for a loop that only repeats."""

    lengths = np.zeros(0, dtype=int)

    def __len__(self) -> int:
        return 0

    def take(self, indices: np.ndarray) -> list[dict[str, Any]]:
        return []

    def where(self, index: int) -> str:
        return ""


def sketch_host(recipe: Recipe, base: BaseInfo, head: str, labels: list[str] | None, *, multi: bool = False) -> Host:
    """The same as `make_host` without a weight: inside `planning.footprint.shapes_only`, tensors that are shapes.

    Raises:
        InputError: a part does not fit this base, or nothing would train.
    """
    made = sketch(base, head, labels=labels, problem=problem_of(head, labels, multi=multi))
    host = Host(made.model, made.fresh)
    _equip(host, recipe, begin=False, choose=True)
    if recipe.gradient_checkpointing:  # random numbers have no state to be kept where nothing has a value
        kwargs = {"use_reentrant": False, "preserve_rng_state": False}
        host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    return host


def _begin_from(host: Host, folders: Sequence[str]) -> None:
    """Add what earlier runs changed of this base; tensors of another task's head are left out, and that is said.

    Raises:
        InputError: a folder holds no difference, or one of another base.
    """
    if not folders:
        return
    whole = reduce(operator.add, [SparseDelta.load(folder) for folder in folders])
    delta = whole.within(host.trunk)
    delta.apply(host.model)
    host.begun = {name: mine.sha256 for name, mine in delta.entries.items()}
    host.notes.append(f"{len(delta):,} entries begin as earlier runs left them")
    if left := sorted(whole.entries.keys() - delta.entries.keys()):
        host.notes.append(f"left out, as parts of another head: {', '.join(left)}")


def _equip(host: Host, recipe: Recipe, *, begin: bool, choose: bool) -> None:
    """Attach every adapter, and let the mask choose what trains."""
    for number, adapter in enumerate(recipe.adapter):
        names = host.attach(adapter, seed=recipe.seed + number, begin=begin)
        if adapter.settings["tuned"] and begin:
            artefacts.begin(host, names, Path(adapter.settings["tuned"]))
    for way in recipe.forward if choose else ():
        host.compute(way.name, way.build())
    host.train_only(recipe.mask.build() if recipe.mask and choose else None)
    if not host.count() and choose:
        raise InputError("nothing would train", expected="an adapter or a mask")
    if recipe.packing:
        host.pack()


def problem_of(head: str, labels: list[str] | None, *, multi: bool) -> str | None:
    """transformers' ``problem_type`` of a sequence classifier: None for other heads."""
    if head != "sequence-classification":
        return None
    if labels is None:
        return "regression"
    return "multi_label_classification" if multi else "single_label_classification"


def used_terms(terms: Sequence[Loss]) -> list[Loss]:
    """The terms that own a part of the model: they change its logits in use."""
    return [term for term in terms if type(term).read is not Loss.read]


def load_terms(recipe: Recipe, host: Host, head: str, folder: Path) -> list[Loss]:
    """The terms of a finished run that are needed in use, with their tensors."""
    terms = used_terms([chosen.build() for chosen in recipe.loss])
    if not terms:
        return []
    ids = torch.ones(1, 2, dtype=torch.long, device=next(host.parameters()).device)
    labels = ids[:, 0] * 0 if head in ROW_HEADS else ids * 0
    batch = {"input_ids": ids, "attention_mask": ids, "labels": labels}
    if head in cloze.HEADS:
        batch |= {"asked": ids.new_zeros(1, 5), "shares": ids[0, :1] * 1.0, "mean_words": ids[:, :1] * 1.0}
    step = Step(host, batch, head)
    with torch.no_grad():
        for term in terms:
            term.start(step)
            if isinstance(term, torch.nn.Module):
                term.to(ids.device)
    artefacts.load_terms(terms, folder)
    return terms
