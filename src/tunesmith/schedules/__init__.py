"""Schedules: how the learning rate changes over a run. One shape a file or family; the folder is the registry."""

from __future__ import annotations

from ..settings import Share


class Schedule:
    """The learning rate as a share of its highest value, over the progress of a run.

    Progress goes from 0 to 1 over the run's budget, whichever it is: steps, epochs or minutes.

    Settings:
        warmup: share of the run over which the rate rises linearly from 0.
    """

    warmup: Share = 0.06

    def __call__(self, progress: float) -> float:
        """The factor of the learning rate after this share of the run, 0 to 1."""
        if progress < self.warmup:
            return progress / self.warmup
        rest = 1 - self.warmup
        return self.shape(min(1.0, (progress - self.warmup) / rest)) if rest > 0 else 1.0

    def shape(self, t: float) -> float:
        """The factor after the share ``t`` of what follows the warm-up."""
        raise NotImplementedError
