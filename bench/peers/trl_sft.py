"""TRL's SFTTrainer, as its documentation shows it: answers of a chat, or plain texts."""

from __future__ import annotations

from functools import partial

import meter

watch = meter.Meter()
given = meter.job()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from marks import Marks  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

watch.imported()
watch.ready()
FAST = {"gradient_checkpointing": False, "logging_strategy": "no"}
BEST = {
    "chat": {**FAST, "train_sampling_strategy": "group_by_length"},
    "lm": {**FAST, "packing": True, "packing_strategy": "wrapped"},
}
"""TRL recomputes activations by default, which is slower and takes less memory. Cut anywhere, packed texts need no attention
that a CPU does not have."""


def table(path: str) -> Dataset:
    """Rows in TRL's prompt-completion form, or its language modelling form."""
    found = meter.rows(path)
    if given["kind"] == "lm":
        return Dataset.from_list([{"text": r["text"]} for r in found])
    return Dataset.from_list([{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in found])


def main() -> None:
    """Train, validate now and then."""
    torch.set_num_threads(given["threads"])
    set_seed(given["seed"])
    tokenizer = AutoTokenizer.from_pretrained(given["base"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    best = given["settings"] == "best"
    model = AutoModelForCausalLM.from_pretrained(given["base"], dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=given["rank"], lora_alpha=given["alpha"], lora_dropout=0.0,
                        target_modules="all-linear") if given["technique"] == "lora" else None  # fmt: skip
    train, valid = table(given["train"]), table(given["valid"])
    steps = -(-len(train) // given["batch"]) * given["epochs"]
    options = BEST[given["kind"]] if best else {}
    if not given["bf16"]:
        # TRL's default is bf16 whatever the machine; where its products are slower than those of fp32, nobody would leave it on
        options = {**options, "bf16": False}
    arguments = SFTConfig(
        output_dir=given["out"], per_device_train_batch_size=given["batch"], num_train_epochs=given["epochs"],
        learning_rate=given["rate"], weight_decay=0.0, seed=given["seed"], max_length=given["length"],
        eval_strategy="steps", eval_steps=max(1, steps // given["validations"]), report_to="none", disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(), **options,
    )  # fmt: skip
    judge = None
    if given["kind"] == "chat":  # TRL counts what the template has after an answer's end mark, too
        judge = partial(meter.judged, tokenizer=tokenizer, path=given["valid"], length=given["length"])
    trainer = SFTTrainer(model, arguments, train_dataset=train, eval_dataset=valid, processing_class=tokenizer,
                         peft_config=config, callbacks=[Marks(watch, judge)])  # fmt: skip
    trainer.train()
    trainer.save_model()
    loss = meter.judged(trainer.model, tokenizer, given["test"], given["length"])
    tokens = given["epochs"] * sum(len(row["input_ids"]) for row in trainer.train_dataset)
    watch.tell(score=-loss, tokens=tokens, dtype="bf16" if arguments.bf16 else "fp32")


main()
