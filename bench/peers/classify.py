"""A classifier trained by transformers' Trainer or by what is built on it, as their documentation shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import meter

watch = meter.Meter()
given = meter.job()

import torch  # noqa: E402
from marks import Marks  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainingArguments,
    set_seed,
)

BEST = {
    "bf16": given["bf16"],
    "train_sampling_strategy": "group_by_length",
    "logging_strategy": "no",
    "per_device_eval_batch_size": 64,
}


class Rows(torch.utils.data.Dataset):
    """Tokenized rows."""

    def __init__(self, path: str, tokenizer: Any, labels: list[str]):
        found = meter.rows(path)
        self.encoded = tokenizer([r["text"] for r in found], truncation=True, max_length=given["length"])
        self.labels = [labels.index(r["label"]) for r in found]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, object]:
        return {**{k: v[i] for k, v in self.encoded.items()}, "labels": self.labels[i]}


def arguments(rows: int) -> TrainingArguments:
    """As the case says, and by default what it does not say; with best settings what the documentation recommends."""
    options = BEST if given["settings"] == "best" else {}
    if options and "group_by_length" in TrainingArguments.__dataclass_fields__:  # its name before transformers 5
        options = {**{k: v for k, v in BEST.items() if k != "train_sampling_strategy"}, "group_by_length": True}
    steps = -(-rows // given["batch"]) * given["epochs"]
    return TrainingArguments(
        output_dir=given["out"], per_device_train_batch_size=given["batch"], num_train_epochs=given["epochs"],
        learning_rate=given["rate"], weight_decay=0.0, seed=given["seed"], eval_strategy="steps",
        eval_steps=max(1, steps // given["validations"]), use_cpu=not torch.cuda.is_available(), report_to="none",
        disable_tqdm=True, **options,
    )  # fmt: skip


def train(prepare: Callable[[Any], Any], trainer: Callable[..., Any]) -> None:
    """Train, validate now and then, answer the test rows.

    Args:
        prepare: gives the model with what is to be trained.
        trainer: the peer's trainer.
    """
    watch.imported()
    watch.ready()
    torch.set_num_threads(given["threads"])
    set_seed(given["seed"])
    tokenizer = AutoTokenizer.from_pretrained(given["base"])
    model = prepare(
        AutoModelForSequenceClassification.from_pretrained(
            given["base"], num_labels=len(given["labels"]), dtype=torch.float32
        )
    )
    rows, valid, test = (Rows(given[s], tokenizer, given["labels"]) for s in ("train", "valid", "test"))
    chosen = arguments(len(rows))
    work = trainer(model, chosen, train_dataset=rows, eval_dataset=valid, callbacks=[Marks(watch)],
                   data_collator=DataCollatorWithPadding(tokenizer))  # fmt: skip
    work.train()
    work.save_model()
    said = work.predict(test).predictions.argmax(-1).tolist()
    right = sum(a == b for a, b in zip(said, test.labels, strict=True)) / len(said)
    watch.tell(
        score=right,
        tokens=given["epochs"] * sum(map(len, rows.encoded["input_ids"])),
        dtype="bf16" if chosen.bf16 else "fp32",
    )
