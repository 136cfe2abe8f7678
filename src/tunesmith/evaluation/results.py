"""What ``report.json`` holds: base against tuned, with intervals. Only dictionaries, lists, texts and numbers.

============  =========================================================================================================
schema        version of this table
task, base    name of the task; name of the base
technique     what trained, in a few words
metric        the metric that counts most
data          the rows: ``source``, ``splits`` (``rows``, ``tokens``, ``supervised`` each), ``duplicates``, ``max_length``
tuned         metric -> figure: ``value``, ``low``, ``high``, ``rows``, ``greater``, ``level``, ``note``
before        who (a baseline, or the base) -> metric -> figure
difference    who -> metric -> figure of tuned minus who, paired by row, with a ``verdict``
summary       one sentence for each who, on ``metric``
notes         metrics that were not measured, each with its reason
worst         hardest rows: ``text``, ``reference``, ``prediction``, ``probability``, ``loss``
calibration   ``ece`` (who -> number), ``reliability`` (who -> groups of rows); for one label a row only
confusion     ``labels``, ``table`` (rows of each true class, down, by the class said, across); for one label a row only
curve         ``step``, ``loss``, ``rate``, ``validation_step``, ``validation_loss``
cost          ``seconds``, ``trainable``, ``parameters``, ``stored_bytes``; of training: ``steps``, ``training_seconds``,
              ``tokens``, ``tokens_per_second``, ``peak_bytes``, ``stopped``
warnings      what the run warned of
audit         what audits found besides: ``findings``, ``left_out``, ``seconds``; absent where none was asked
written       generated texts (`written_section`); absent where none were written
============  =========================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .answers import Answers
from .calibration import confusion, expected_calibration_error, reliability, worst
from .intervals import difference, verdict
from .metrics import lacks, names_for
from .scores import scores
from .wording import sentence

SCHEMA = 1


def build_report(
    task: str, tuned: Answers, before: Mapping[str, Answers], *, base: str, technique: str = "",
    texts: Sequence[str] = (), data: Mapping[str, Any] | None = None, curve: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None, warnings: Sequence[str] = (), written: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The report of a run.

    Args:
        task: name of the task.
        tuned: answers of the tuned model.
        before: answers of what it has to beat on the same rows, by name; what it is chiefly compared with comes last.
        base: name of the base.
        technique: what trained, in a few words.
        texts: the rows as text, for the worst of them.
        data: counts of the rows.
        curve: losses over the steps.
        cost: time, memory, tensors.
        warnings: what the run warned of.
        written: what `written_section` gives.
        seed: of the bootstrap.

    Raises:
        ValueError: the models did not answer the same number of rows.
    """
    names = names_for(task, multi=tuned.multi, labels=_labels(task, tuned))
    measured = scores(tuned, names, seed=seed)
    changes = {who: _differences(tuned, said, names, seed) for who, said in before.items()}
    report: dict[str, Any] = {
        "schema": SCHEMA, "task": task, "base": base, "technique": technique, "metric": names[0],
        "data": dict(data or {}),
        "tuned": {name: asdict(m) for name, m in measured.items()},
        "before": {w: {n: asdict(m) for n, m in scores(a, names, seed=seed).items()} for w, a in before.items()},
        "difference": changes,
        "summary": [sentence(names[0], who, found[names[0]]) for who, found in changes.items() if names[0] in found],
        "notes": measured.notes,
        "worst": worst(tuned, list(texts)) if len(texts) == len(tuned) else [],
        "curve": dict(curve or {}), "cost": dict(cost or {}), "warnings": list(warnings),
    }  # fmt: skip
    if tuned.probabilities is not None and not tuned.multi:
        report["calibration"] = _calibration({"tuned": tuned, **before})
        report["confusion"] = {"labels": list(tuned.labels), "table": confusion(tuned)}
    if written:
        report["written"] = dict(written)
    return report


def written_section(
    prompts: Sequence[str], tuned: Answers, base: Answers, *, stopped: Mapping[str, Sequence[bool]], shown: int = 8,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What tuned model and base wrote for the same prompts: scores, how often they stopped by themselves, samples.

    Args:
        prompts: one a row.
        tuned, base: their texts beside the references.
        stopped: ``base`` and ``tuned`` -> of each text, whether the model ended it.
        shown: number of samples.
        seed: of the bootstrap.
    """
    names = names_for("text")
    ours, theirs = scores(tuned, names, seed=seed), scores(base, names, seed=seed)
    rows = zip(prompts, tuned.references, base.predictions, tuned.predictions, strict=True)
    samples = [dict(zip(("prompt", "reference", "base", "tuned"), row, strict=True)) for row in rows][:shown]
    section: dict[str, Any] = {
        "rows": len(tuned),
        "stopped_by_itself": {who: sum(flags) / max(1, len(flags)) for who, flags in stopped.items()},
        "tuned": {n: asdict(m) for n, m in ours.items()},
        "base": {n: asdict(m) for n, m in theirs.items()},
        "difference": _differences(tuned, base, names, seed),
        "samples": samples,
    }
    if ours.notes:
        section["note"] = "; ".join(ours.notes)
    return section


def _labels(task: str, answers: Answers) -> Sequence[str]:
    if task != "tag":
        return answers.labels
    return sorted({tag for row in answers.references for tag in row})


def _differences(tuned: Answers, said: Answers, names: Sequence[str], seed: int) -> dict[str, Any]:
    found = {}
    for name in names:
        if not (lacks(name, tuned) or lacks(name, said)):
            change = difference(name, tuned, said, seed=seed)
            found[name] = {**asdict(change), "verdict": verdict(change)}
    return found


def _calibration(every: Mapping[str, Answers]) -> dict[str, Any]:
    known = {who: a for who, a in every.items() if a.probabilities is not None}
    return {
        "ece": {who: expected_calibration_error(a) for who, a in known.items()},
        "reliability": {who: reliability(a) for who, a in known.items()},
    }
