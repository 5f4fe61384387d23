"""Distributed training: the rank of this process as `torchrun` sets it, and the communication between ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from nndiff.words.errors import NndiffError
from nndiff.words.lives import life

T = TypeVar("T")
BUCKET = 2**23  # numbers, 32 MB, that ranks exchange at a time
PATIENCE = timedelta(hours=2)  # with a rank that is silent, as one is that validates a larger volume than the others


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
        with _together():
            distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def largest(self, number: int) -> int:
        """Return the largest of the numbers of all ranks; every rank gets it."""
        if self.world == 1:
            return number
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        found = torch.tensor(number, device=device)
        with _together():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
            return int(found)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace every gradient by its mean over the ranks, which have gradients of the same shapes."""
        if self.world > 1:
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                with _together():
                    distributed.all_reduce(flat)
                flat /= distributed.get_world_size()
                parts = torch.split(flat, [gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        if self.world > 1:
            with _together():
                distributed.barrier()


@contextmanager
def _together() -> Iterator[None]:
    """Say in words that another process does not answer; each has to for PATIENCE."""
    try:
        yield
    except RuntimeError as error:
        raise NndiffError(
            "Another process of this training does not answer: it has died, or was stopped.",
            found=str(error).partition("\n")[0],
            remedy="look for the first error above, which may be that of the other process; then start torchrun again "
            "with --c, or let it do so itself (torchrun --max-restarts=3 …)",
        ) from error


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the gradients in groups of about BUCKET numbers: one exchange of many is faster than many of one."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(other.numel() for other in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Yield the rank of this process among those that torchrun started; without torchrun it is the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _together():
        store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun may keep its store when it begins again, with the addresses of processes that are gone
        own = distributed_c10d.PrefixStore(f"life {life().number}", store)
        distributed.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        ranks = Ranks(rank, world, int(os.environ["LOCAL_RANK"]))
        yield ranks
        ranks.wait()  # no rank may leave while another still communicates
    finally:
        distributed.destroy_process_group()
