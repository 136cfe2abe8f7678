"""Several processes that train one model, each on its share of every step's rows; one alone has nothing to do here."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RunError

PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for another, which may be validating meanwhile; one that is gone is noticed at once."""

BUCKET = 2**22
"""Numbers that are added up at a time: few calls, and no second copy of all gradients."""

SUPERVISED = "TORCHELASTIC_USE_AGENT_STORE"
"""Set where something watches over the processes and tells why one is gone (torchrun, `tunesmith tune --processes`)."""

GONE = 75
"""Exit code of a process that ends because another is gone."""

LOST = "another process is gone"
"""What a process says that fails because of another one."""


class Processes:
    """One process alone: it is the first, all rows are its own, and every sum is what it was.

    Attributes:
        rank: number of this process.
        count: how many there are.
    """

    rank, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, indices: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The rows of a step that this process takes."""
        return indices

    def sum(self, value: Tensor | float) -> float:
        """The sum over all processes, in double precision."""
        return float(value)

    def most(self, value: int) -> int:
        """The largest over all processes."""
        return value

    def agree(self, value: float) -> float:
        """The first process's value."""
        return value

    def add(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place."""

    def spread(self) -> None:
        """Let each process draw other numbers from here on, from the same seed."""

    def wait(self) -> None:
        """Go on when all processes are here."""

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Inside this block PyTorch reaches other processes by itself; one that is gone is told as elsewhere."""
        yield


class Together(Processes):
    """One of several processes, by `torch.distributed`.

    Raises:
        RunError: another process is gone (by each of its methods).
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        self._device = torch.device("cuda" if cuda else "cpu")
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def share(self, indices: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return indices[np.argsort(-lengths[indices], kind="stable")][self.rank :: self.count]

    def sum(self, value: Tensor | float) -> float:
        total = torch.tensor(float(value), dtype=torch.float64, device=self._device)
        self._do(lambda: self._dist.all_reduce(total))
        return float(total)

    def most(self, value: int) -> int:
        largest = torch.tensor(value, device=self._device)
        self._do(lambda: self._dist.all_reduce(largest, self._dist.ReduceOp.MAX))
        return int(largest)

    def agree(self, value: float) -> float:
        told = torch.tensor(float(value), dtype=torch.float64, device=self._device)
        self._do(lambda: self._dist.broadcast(told, 0))
        return float(told)

    @torch.no_grad()
    def add(self, parameters: Sequence[nn.Parameter]) -> None:
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self._device)
        self._do(lambda: self._dist.all_reduce(there))
        grads: list[Tensor] = []
        for parameter, some in zip(parameters, there.tolist(), strict=True):
            if some and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                grads.append(parameter.grad)
            if sum(g.numel() for g in grads) >= BUCKET:
                self._add(grads)
                grads = []
        self._add(grads)

    def _add(self, grads: list[Tensor]) -> None:
        for dtype in {g.dtype for g in grads}:
            alike = [g for g in grads if g.dtype == dtype]
            flat = torch.cat([g.reshape(-1) for g in alike])
            self._do(lambda flat=flat: self._dist.all_reduce(flat))  # type: ignore[misc]
            for grad, total in zip(alike, flat.split([g.numel() for g in alike]), strict=True):
                grad.copy_(total.view_as(grad))

    def spread(self) -> None:
        torch.rand(997 * self.rank, device=self._device)

    def wait(self) -> None:
        self._do(self._dist.barrier)

    @contextmanager
    def reached(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error) for word in ("gloo", "Connection", "NCCL")):
                raise
            self._lost(error)

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except RuntimeError as error:
            self._lost(error)

    def _lost(self, error: RuntimeError) -> NoReturn:
        if os.environ.get(SUPERVISED):
            raise SystemExit(GONE) from error  # the one that watches tells which process it was, and why
        raise RunError(f"process {self.rank}: {LOST} ({str(error).splitlines()[0]}); go on with --resume") from error


ALONE = Processes()


def here() -> Processes:
    """This process's place among those that torchrun, accelerate or ``tune --processes`` started; else it is alone.

    The first call waits until all of them have called.
    """
    return Together() if count_here() > 1 else ALONE


def count_here() -> int:
    """How many processes there are; waits for nobody."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes; waits for nobody."""
    return int(os.environ.get("RANK", "0")) == 0
