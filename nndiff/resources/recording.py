"""Work recorded as a CUDA graph: its kernels are written down once and then started all together.

A small network is thousands of kernels, and Python starts one in about 30 microseconds, longer than most of them take.
A graph starts them in a few. It computes the same numbers with the same kernels, from inputs and into results that lie
at the same place each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

AGREED = 1e-3  # relative difference between work and its replay, beyond which a recording is not used

T = TypeVar("T")


class Graph(Protocol):
    """Recorded work, which `replay` does again."""

    def replay(self) -> None: ...


class Record(Protocol):
    """Records work; what the work returned holds its results after each replay."""

    def __call__(self, work: Callable[[], T]) -> tuple[Graph, T]: ...


def recording_on(device: torch.device) -> Callable[[], Record] | None:
    """Return what makes a record for this device, or None if nothing can be recorded there."""
    return OnCuda if device.type == "cuda" else None


class OnCuda:
    """Records work on the GPU. The recordings of one object share their memory, so only the last result is valid."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], T]) -> tuple[Graph, T]:
        graph = torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # what it holds was not recorded, and what is recorded now must not serve others
        # thread_local: other threads, which load data into pinned memory, may call CUDA meanwhile
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = work()
        torch.clear_autocast_cache()
        return graph, result
