"""What a recipe may hold whose model is shared out between processes: what was proven, and nothing else."""

from __future__ import annotations

from ..errors import InputError
from ..recipe import Recipe

PROVEN = {
    "adapter": ("lora", "rslora", "loraplus", "ia3", "bottleneck", "prompt_tuning", "prefix_tuning"),
    "mask": ("everything", "head", "top_layers", "biases", "norms"),
    "loss": ("cross_entropy", "binary_cross_entropy", "squared_error"),
    "gradient": ("backprop",),
    "forward": (),
    "optimizer": ("clip_norm", "adamw", "sgd"),
}
"""Kind -> parts that never look at a weight outside of its layer's own computation, and rules that shared tensors know."""


def check_sharded(recipe: Recipe, processes: int) -> None:
    """Whether a recipe that asks for it can be shared out.

    Raises:
        InputError: a part that cannot, or one process alone.
    """
    if not recipe.sharded:
        return
    if processes < 2:
        raise InputError("one process has nobody to share the model with", where="sharded", expected="--processes 2 or more",
                         fix="leave sharded out, or raise --processes")  # fmt: skip
    for kind, known in PROVEN.items():
        value = getattr(recipe, kind)
        for chosen in value if isinstance(value, list) else [value] if value is not None else []:
            if chosen.name not in known:
                raise InputError(f"{kind} {chosen.name} needs whole tensors", where="sharded",
                                 expected=f"one of {', '.join(known)}" if known else f"no {kind}",
                                 fix="leave sharded out")  # fmt: skip
    if recipe.budget.patience is not None:
        raise InputError("the best weights are not kept in parts", where="sharded", expected="budget.patience: null")
