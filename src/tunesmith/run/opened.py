"""A finished run, opened to be used: predict, generate, evaluate, report, hand over to other tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import artefacts
from ..data import tasks
from ..data.encode import Encoded, collator, encode
from ..data.reader import Reader
from ..data.rows import Rows, read
from ..engine import predict as engine
from ..engine.generate import Sampling, generate
from ..engine.precision import pick
from ..engine.predict import Reading
from ..engine.step_log import StepLog
from ..errors import InputError, RunError
from ..evaluation.answers import Answers
from ..evaluation.intervals import difference, verdict
from ..evaluation.metrics import names_for
from ..evaluation.scores import scores
from ..host import Host
from ..models.bases import BaseInfo, load, resolve
from ..recipe import Recipe, override
from ..recipe import read as read_recipe
from ..storage import atomic_folder, write_json
from .build import device, load_terms, make_host, micro_batch, replayed
from .carry_out import STEPS, artefact_folder, check_same, held_out_rows, prove, save_tokenizer
from .measure import answers, tags_of
from .prepare import prepare


class Run:
    """A run's folder, opened. The model is loaded when it is first needed.

    Args:
        folder: folder of the run.
        adapter: a copy of its adapter to use in place of its own.
        exchange: folder of an earlier run that this one stands on (``upon``, an adapter's ``tuned`` where it is
            ``frozen``) -> folder of another that takes its place, such as one language for another.

    Raises:
        InputError: it holds no run, or one that is not finished, or does not stand on what is to be exchanged.
    """

    def __init__(self, folder: str | Path, *, adapter: Path | None = None, exchange: Mapping[str, str] = {}):
        self.folder = Path(folder)
        if not (self.folder / "recipe.yaml").exists():
            raise InputError("holds no run", where=self.folder, expected="the folder of a run, e.g. runs/NAME")
        self.recipe: Recipe = read_recipe(self.folder / "recipe.yaml")
        self.artefact = adapter or artefact_folder(self.folder, self.recipe)
        self.replays = not self.artefact.exists() and (self.folder / STEPS).exists()
        if not self.replays and not self.artefact.exists():
            again = f"tunesmith tune {self.folder / 'recipe.yaml'} --out {self.folder.parent} --name {self.folder.name}"
            raise InputError("the run is not finished", where=self.folder, fix=f"go on with: {again} --resume")
        self.exchange = {str(old): str(new) for old, new in exchange.items()}
        self._check_exchange()
        self.facts: dict[str, Any] = json.loads((self.folder / "data.json").read_text(encoding="utf-8"))
        self.task = tasks.from_dict(self.facts["task"])

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """A notebook shows the report."""
        import html

        page = (self.folder / "report.html").read_text(encoding="utf-8")
        return f'<iframe srcdoc="{html.escape(page)}" width="100%" height="640" style="border:0"></iframe>'

    # ------------------------------------------------------------------ what it stands on

    @cached_property
    def base(self) -> BaseInfo:
        """The base that the run started from.

        Raises:
            RunError: it is not the one that the run was trained on.
        """
        known = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))["base"]
        base = resolve(self.recipe.base or "", self.recipe.revision)
        if base.fingerprint != known["sha256"]:
            raise RunError(f"{self.folder}: the base {base.name} has changed since the run was trained on it")
        return base

    @cached_property
    def host(self) -> Host:
        """The tuned model, with every trained tensor checked against the run's manifest.

        Where the folder holds a log of steps only, they are carried out again on the base.
        """
        folder = self.artefact
        head = self.task.head(self.base.architecture)
        labels = self.task.labels if self.task.name != "regress" else None
        if self.replays:
            host = make_host(self.recipe, self.base, head, labels, multi=self._multi)
            replayed(self.recipe.with_rate(self.base.width), host, StepLog.load(self.folder / STEPS))
            artefacts.check_manifest(host, self.folder)
            return host.eval()
        trained = _manifest(folder)
        if self._beside_base:
            upon = [self.exchange.get(lower, lower) for lower in self.recipe.upon]
            recipe = self.recipe.updated({"upon": upon})
            host = make_host(recipe, self.base, head, labels, multi=self._multi, trained=trained)
            artefacts.load_adapter(host, folder)
            self._exchange_adapters(host)
        else:
            host = Host(load(resolve(str(folder)), head, labels=labels, seed=0).model, trained)
            artefacts.check_manifest(host, folder)
        return host.to(device()).eval()

    def _check_exchange(self) -> None:
        below = [c.settings["tuned"] for c in self.recipe.adapter if c.settings["frozen"]] + self.recipe.upon
        for old in self.exchange:
            if old not in below:
                raise InputError(f"does not stand on {old}", where=self.folder,
                                 expected=" or ".join(n for n in below if n) or "a run that stands on another")  # fmt: skip

    def _exchange_adapters(self, host: Host) -> None:
        """Let frozen adapters hold what another run made of them."""
        for chosen, adapters in zip(self.recipe.adapter, host.techniques(), strict=True):
            if chosen.settings["frozen"] and (new := self.exchange.get(chosen.settings["tuned"])):
                artefacts.begin(host, [host.name_of(a) for a in adapters], Path(new))

    @property
    def _beside_base(self) -> bool:
        """Whether what was trained is kept apart from the base."""
        return artefact_folder(self.folder, self.recipe).name != "model"

    @property
    def _multi(self) -> bool:
        return bool(getattr(self.task, "multi", False))

    @cached_property
    def reader(self) -> Reader:
        """What turns text into ids, as it did in training."""
        template = Path(self.recipe.template).read_text(encoding="utf-8") if self.recipe.template else None
        return Reader(
            self.base.tokenizer(), self.base.architecture, max_length=self.facts["max_length"],
            policy=self.recipe.length.over or "truncate", template=template,
        )  # fmt: skip

    @cached_property
    def reading(self) -> Reading:
        """How rows are read with the model."""
        pad, head = self.reader.tokenizer.pad_token_id, self.task.head(self.base.architecture)
        return Reading(
            self.host, collator(self.task, pad if pad is not None else 0), head,
            tokens=micro_batch(self.recipe, head), dtype=pick(self.recipe.precision, device()),
            terms=load_terms(self.recipe, self.host, head, self.artefact),
        )  # fmt: skip

    # ------------------------------------------------------------------ use

    def predict(self, rows: Any) -> list[Any]:
        """What the model says of each row.

        Args:
            rows: texts, pairs of texts, sentences of words, prompts, conversations; or dictionaries, a table or a file
                with the run's columns.

        Returns:
            For each row: ``{"label", "probability"}`` for classes (``labels`` where a row can have several), a number,
            a list of tags, or a text.
        """
        table = self._table(rows)
        if self._writes:
            return self._write([table[i] for i in range(len(table))])
        encoded = self._encode(table)
        outputs = engine.read(self.reading, encoded)
        if self.task.name == "regress":
            return [float(v) for v in outputs.logits[:, 0]]
        if self.task.name == "tag":
            words = [len(table[i][self.task.columns["tokens"]]) for i in range(len(table))]
            pieces = encoded.take(np.arange(len(encoded)))
            return [tags_of(self.task, p, t, n) for p, t, n in zip(pieces, outputs.tokens, words, strict=True)]
        said = answers(self.task, encoded, outputs, np.arange(len(encoded)))
        assert said.probabilities is not None
        return [self._named(p) for p in said.probabilities]

    def probabilities(self, rows: Any) -> np.ndarray:
        """The probability of each of the task's labels for each row, shape (rows, labels).

        Raises:
            InputError: the run's task has no classes.
        """
        if self.task.name not in ("classify", "pair"):
            raise InputError(f"task {self.task.name} has no classes", where=self.folder, fix="use predict")
        encoded = self._encode(self._table(rows))
        said = answers(self.task, encoded, engine.read(self.reading, encoded), np.arange(len(encoded)))
        assert said.probabilities is not None
        return said.probabilities

    def _named(self, share: np.ndarray) -> dict[str, Any]:
        labels = self.task.labels or []
        if self._multi:
            kept = {n: round(float(p), 6) for n, p in zip(labels, share, strict=True) if p > 0.5}
            return {"labels": list(kept), "probabilities": kept}
        return {"label": labels[int(share.argmax())], "probability": round(float(share.max()), 6)}

    def generate(
        self, prompts: Sequence[Any], *, tokens: int = 128, temperature: float = 0.0, seed: int = 0, base: bool = False
    ) -> list[str]:
        """What the model writes after each prompt (a text, or a conversation as a list of messages).

        Args:
            prompts: the prompts.
            tokens: most tokens to write.
            temperature: 0 takes the likeliest token each time.
            seed: seed of the draw.
            base: let the base model write instead.

        Raises:
            InputError: the run's task writes no text.
        """
        if not self._writes:
            raise InputError(f"task {self.task.name} writes no text", where=self.folder, fix="use predict")
        table = self._table(list(prompts))
        with self.base_only() if base else _nothing():
            return self._write([table[i] for i in range(len(table))], Sampling(tokens, temperature, 1.0, seed))

    def base_only(self) -> Any:
        """A block inside which the model is the base that the run started from; no second copy is loaded.

        Raises:
            InputError: the run moved the model's own weights, and has no base beside them.
        """
        if not self._beside_base:
            raise InputError("the run holds no base beside its model", where=self.folder, fix="use the base itself")
        return self.host.off()

    @property
    def _writes(self) -> bool:
        """Whether the run answers by writing.

        Raises:
            InputError: it is a masked language model, which says what is hidden and neither writes nor predicts.
        """
        if self.task.name == "lm" and self.base.architecture == "encoder":
            raise InputError("is a masked language model, which writes no text", where=self.folder, fix="use evaluate, "
                             "or let another run stand on it: upon, or an adapter's tuned")  # fmt: skip
        return self.task.name in ("generate", "chat", "lm", "prefer")

    def _write(self, rows: list[dict[str, Any]], sampling: Sampling = Sampling()) -> list[str]:  # noqa: B008
        task: Any = self.task
        room = max(8, self.reader.max_length)
        prompts = [self.reader.shorten(task.prompt_ids(row, self.reader), room) for row in rows]
        written = generate(self.host, prompts, self.reader.tokenizer, sampling=sampling, dtype=self.reading.dtype)
        return [self.reader.tokenizer.decode(w.ids, skip_special_tokens=True).strip() for w in written]

    def evaluate(self, rows: Any) -> dict[str, Any]:
        """Scores on other rows with intervals; for language models beside their base, with the paired difference.

        Raises:
            InputError: a column is missing, or a row is wrong.
        """
        table = read(rows)
        for column in self.task.columns.values():
            table.column(column)
        self.task.check(table)
        encoded = self._encode(table)
        everything = np.arange(len(encoded))
        tuned = self._answers(encoded, everything)
        names = names_for(self.task.name, multi=self._multi, labels=self.task.labels or ())
        measured = scores(tuned, names)
        result: dict[str, Any] = {"rows": len(table), "task": self.task.name, "notes": measured.notes}
        result["tuned"] = {n: asdict(m) for n, m in measured.items()}
        if self.recipe.adapter and self.task.name in ("generate", "chat", "lm", "prefer"):
            with self.host.off():
                base = self._answers(encoded, everything)
            changes = {n: difference(n, tuned, base) for n in measured}
            result["base"] = {n: asdict(m) for n, m in scores(base, names).items()}
            result["difference"] = {n: {**asdict(c), "verdict": verdict(c)} for n, c in changes.items()}
        return result

    def _answers(self, encoded: Encoded, chosen: np.ndarray) -> Answers:
        return answers(self.task, encoded, engine.read(self.reading, encoded, chosen), chosen)

    def _encode(self, table: Rows) -> Encoded:
        return encode(table, np.arange(len(table)), self.task, self.reader)

    def _table(self, rows: Any) -> Rows:
        """Rows of whatever form, with the run's columns."""
        if isinstance(rows, str) and not Path(rows).exists() and ":" not in rows and self.task.name != "lm":
            raise InputError("is no file", where=rows, expected="a file, or a list of texts")
        if isinstance(rows, list | tuple) and rows and not isinstance(rows[0], Mapping):
            rows = [self.as_row(value) for value in rows]
        table = read(rows)
        missing = [c for r, c in self.task.columns.items() if r in _INPUTS and c not in table.columns]
        missing = [c for c in missing if c != self.task.columns.get("input")]
        if missing:
            raise InputError(
                f"column {missing[0]!r} is missing",
                where=table.source,
                expected=f"the run's columns {', '.join(missing)}",
            )
        return table

    def as_row(self, value: Any) -> dict[str, Any]:
        """A row with the run's columns out of what is asked: a text, a pair of texts, words, or a conversation."""
        columns = self.task.columns
        if self.task.name == "chat":
            spoken = [{"role": "user", "content": value}] if isinstance(value, str) else list(value)
            return {columns["messages"]: spoken}
        if "second" in columns and isinstance(value, list | tuple):
            return {columns["text"]: value[0], columns["second"]: value[1]}
        role = next(r for r in ("text", "tokens", "prompt") if r in columns)
        return {columns[role]: list(value) if role == "tokens" else value}

    def audit(self, names: str | None = None, *, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask what tuning broke, and keep the answer in ``audit.json``.

        Args:
            names: audits, separated by commas; None takes the recipe's, or all where it names none.
            changes: settings of audits, dotted: ``{"forgetting.text": "other.jsonl"}``.

        Returns:
            ``findings``, ``left_out`` and ``seconds``; see `run.audit.audit`.

        Raises:
            InputError: no such audit or setting, or the run's rows are not there or not the same any more.
        """
        from .audit import BaseAndTuned, audit, check_audits, chosen_audits

        prepared = prepare(self.recipe)
        check_same(prepared, self.folder)
        chosen = self.recipe.audit if names is None and self.recipe.audit else chosen_audits(names)
        asked = override(
            {"audit": [c.to_recipe() for c in chosen]}, {f"audit.{k}": v for k, v in (changes or {}).items()}
        )
        recipe = self.recipe.updated(asked)
        check_audits(recipe, prepared.task)
        found = audit(BaseAndTuned(prepared, self.reading, held_out_rows(prepared)), recipe.audit)
        write_json(self.folder / "audit.json", found)
        return found

    # ------------------------------------------------------------------ handing over

    def report(self) -> Any:
        """The report, as a table for the terminal; a notebook shows the run itself."""
        from ..evaluation.report import render_terminal

        return render_terminal(self.results)

    @cached_property
    def results(self) -> dict[str, Any]:
        """What ``report.json`` holds."""
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    def save_pretrained(self, out: str | Path, *, form: str = "auto", force: bool = False) -> Path:
        """Write the model for other tools, and check it in a fresh process.

        Args:
            out: folder to write.
            form: ``merged``, a plain Hugging Face folder; ``adapter``, in PEFT's format where PEFT has the technique;
                ``log``, the few bytes a step from which the weights follow, where the run has them;
                ``auto`` merges where the adapters can be folded.
            force: replace the folder if it exists.

        Raises:
            InputError: the folder exists, or the form does not fit the run.
            RunError: what was written gives other outputs.
        """
        out = Path(out)
        if form not in ("auto", "merged", "adapter", "log"):
            raise InputError(f"form {form!r}", expected="auto, merged, adapter or log")
        if out.exists() and not force:
            raise InputError("is there already", where=out, fix="name another folder, or --force to replace it")
        if self.exchange:
            raise InputError("stands on something exchanged, and nothing is known that an export could be checked against",
                             where=self.folder, fix="export it as it was trained")  # fmt: skip
        if self.replays:
            raise InputError("is the log of a run", where=self.folder, fix="export from the run itself")
        if form == "log":
            self._save_log(out)
            return out
        reason = self.host.why_not_fold()
        if form == "merged" and reason:
            raise InputError(f"cannot be merged: {reason}", where=self.folder, fix="--as adapter")
        if form == "adapter" and not self._beside_base:
            raise InputError("the run has no adapter", where=self.folder, fix="--as merged")
        if form == "adapter" or reason:
            with atomic_folder(out) as target:
                shutil.copytree(self.artefact, target, dirs_exist_ok=True)
                prove(self.folder, "--adapter", target)
        else:
            with atomic_folder(out) as target:
                self._merge(target)
                prove(self.folder, "--merged", target)
        return out

    def _save_log(self, out: Path) -> None:
        """Write the log of steps and what has to be known to carry it out."""
        if not (self.folder / STEPS).exists():
            raise InputError("the run keeps no log of its steps", where=self.folder,
                             fix="--as merged or adapter; a run with gradient mezo has one")  # fmt: skip
        with atomic_folder(out) as target:
            for name in ("recipe.yaml", "data.json", "environment.json", STEPS):
                shutil.copyfile(self.folder / name, target / name)
            shutil.copyfile(self.artefact / artefacts.MANIFEST, target / artefacts.MANIFEST)
            prove(self.folder, "--log", target)

    def _merge(self, target: Path) -> None:
        """Fold a fresh copy of the model, so that this one stays as it is."""
        other = Run(self.folder)
        other.host.fold()
        other.host.model.save_pretrained(target)
        save_tokenizer(other.reader, other.host, target, chats=self.task.name == "chat")


_INPUTS = ("text", "second", "tokens", "prompt", "messages", "source")


def _manifest(folder: Path) -> list[str]:
    """Names of the model's own trained tensors."""
    try:
        listed = json.loads((folder / artefacts.MANIFEST).read_text(encoding="utf-8"))["tensors"]
    except OSError:
        raise RunError(f"{folder}: the manifest of trained tensors is missing") from None
    return [n.removeprefix("model.") for n in listed if n.startswith("model.")]


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()
