from __future__ import annotations

from collections.abc import Sequence

from ..settings import Count
from . import Framing, Kept, Trial


class Demonstrations(Framing):
    """Show prompts that the model has answered right by itself; of several draws, the one that serves held-out rows best.

    With a round of tuning between two searches it is the paper's best order: prompt, weights, prompt. The paper has programs
    of several prompts; here a program is one.

    Source: Soylu et al. 2024, arXiv:2407.10930 (BetterTogether), and its bootstrapped few-shot search by random draws.

    Settings:
        count: demonstrations in a prompt.
        draws: sets that are tried on the validation rows, beside none at all.
        pool: training prompts that are answered to find demonstrations.
    """

    searches = True

    def __init__(self, *, count: Count = 3, draws: Count = 6, pool: Count = 64):
        self.count = count
        self.draws = draws
        self.pool = pool

    def settle(self, trial: Trial) -> Kept:
        found = trial.examples(self.pool)
        if not found:
            return []
        size = min(self.count, len(found))
        sets = [[found[i] for i in trial.draw(size, len(found))] for _ in range(self.draws)]
        return max([[], *sets], key=trial.value)

    def __call__(self, prompts: Sequence[str], kept: Kept, trial: Trial) -> list[str]:
        shown = "".join(f"{one['prompt']} {one['answer']}\n\n" for one in kept)
        return [shown + prompt for prompt in prompts]
