"""The library ``adapters`` with its AdapterTrainer, as its documentation shows it: a classifier with bottlenecks."""

from __future__ import annotations

from typing import Any

import adapters
from classify import given, train


def prepare(model: Any) -> Any:
    """With bottlenecks after attention and feed-forward layer of each block (Houlsby et al. 2019), and its head."""
    adapters.init(model)
    factor = model.config.hidden_size / given["rank"]
    config = adapters.DoubleSeqBnConfig(reduction_factor=factor, non_linearity="relu")
    model.add_adapter("task", config=config)
    model.train_adapter("task")
    return model


train(prepare, adapters.AdapterTrainer)
