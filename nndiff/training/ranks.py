"""Distributed training: the rank of this process as `torchrun` sets it, and the communication between ranks."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # for a rank that validates a larger volume than the others


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and the number of processes (`world`)."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, in order; every rank gets them."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def average_gradients(self, module: nn.Module) -> None:
        """Replace the gradients of a module's parameters by their mean over the ranks."""
        if self.world > 1:
            for weight in module.parameters():
                if weight.grad is not None:
                    distributed.all_reduce(weight.grad)
                    weight.grad /= self.world

    def wait(self) -> None:
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Yield the rank of this process among those that torchrun started; without torchrun it is the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]))
        yield ranks
        ranks.wait()  # no rank may leave while another still communicates
    finally:
        gc.collect()  # a DDP network holds the group; if it is freed only at exit, its threads abort the process
        distributed.destroy_process_group()
