"""transformers' Trainer with PEFT, as its documentation shows it: a classifier."""

from __future__ import annotations

from typing import Any

from classify import given, train
from peft import LoraConfig, TaskType, get_peft_model
from transformers import Trainer


def prepare(model: Any) -> Any:
    """With LoRA on every linear layer, or as it is."""
    if given["technique"] == "full":
        return model
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=given["rank"], lora_alpha=given["alpha"], lora_dropout=0.0,
                        target_modules="all-linear")  # fmt: skip
    return get_peft_model(model, config)


train(prepare, Trainer)
