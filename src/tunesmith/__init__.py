"""tunesmith: fine-tune pretrained language models, measure what it did, and keep something to use.

>>> import tunesmith as ts
>>> ts.LoRA(rank=4)
LoRA(rank=4, alpha=16.0, scaling='alpha/rank', dropout=0.0)

Every part is offered under its own name and with its own settings; nothing heavy is imported before it is used.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from .errors import InputError, RunError, TunesmithError

if TYPE_CHECKING:
    from .comparing.api import compare
    from .improving.api import Improved, improve
    from .improving.self_training import SelfTrained, self_train
    from .run.api import evaluate, generate, open_run, predict, tune
    from .run.opened import Run
    from .sparse import SparseDelta

__version__ = "0.1.0"
_CLASSES = {
    "Improved": ".improving.api", "Run": ".run.opened", "SelfTrained": ".improving.self_training", "SparseDelta": ".sparse",
}  # fmt: skip
_API = dict.fromkeys(("tune", "open_run", "predict", "generate", "evaluate"), ".run.api") | {
    "compare": ".comparing.api", "improve": ".improving.api", "self_train": ".improving.self_training",
}  # fmt: skip

__all__ = [
    "Improved", "InputError", "Run", "RunError", "SelfTrained", "SparseDelta", "TunesmithError", "compare", "evaluate",
    "generate", "improve", "open_run", "predict", "self_train", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The functions of the library, and every part by the name of its class."""
    if name in _API:
        return getattr(importlib.import_module(_API[name], __name__), name)
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name], __name__), name)
    if name[:1].isupper():
        for part in importlib.import_module(".parts", __name__).every():
            if part.symbol == name:
                return functools.partial(_choose, part)
    raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")


def _choose(part: Any, **settings: Any) -> Any:
    """The part with these settings, checked."""
    return part.choose(settings)


def __dir__() -> list[str]:
    from . import parts

    return sorted([*__all__, *(p.symbol for p in parts.every())])
