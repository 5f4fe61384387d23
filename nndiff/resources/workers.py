"""Parallel processing of cases, with one outcome per case.

    for case, outcome in run(function, cases, workers, bytes_each, label): ...

The outcome is a result, or a Failure with the reason. A case that fails is reported with its traceback, and the other
cases go on; so is a case whose worker dies. Who works is a crew: processes of this machine (processes.py), a Dask
cluster (cluster.py) or, without workers (0), this process itself, in the order of the cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nndiff.resources import processes
from nndiff.resources.machine import available_cores, free_ram
from nndiff.resources.outcomes import Failure, Guarded, Named
from nndiff.resources.progress import bar
from nndiff.words.crew import Crew, Workers, crew_of

C = TypeVar("C", bound=Named)
R = TypeVar("R")


def run(
    function: Callable[[C], R],
    cases: Sequence[C],
    workers: Workers,
    bytes_each: int,
    label: str,
    gpu: bool = False,
) -> Iterator[tuple[C, R | Failure]]:
    """Yield (case, outcome) as the cases finish, with a progress bar that estimates the time left.

    A case needs about `bytes_each` of memory, and with `gpu` one of a cluster's GPUs.
    """
    outcomes = _outcomes(function, cases, crew_of(workers), bytes_each, gpu)
    with bar(len(cases), label, "case") as shown:
        for case, outcome in outcomes:
            shown.update()
            yield case, outcome


def _outcomes(
    function: Callable[[C], R], cases: Sequence[C], crew: Crew, bytes_each: int, gpu: bool
) -> Iterator[tuple[C, R | Failure]]:
    if crew.elsewhere:
        from nndiff.resources import cluster

        return cluster.outcomes(crew, function, cases, bytes_each, gpu)
    count = worker_count(crew.most, len(cases), bytes_each)
    return processes.outcomes(function, cases, count) if count else _here(function, cases)


def worker_count(wanted: int | None, cases: int, bytes_each: int) -> int:
    """Return as many workers as cores, cases and free RAM allow; `wanted` (-np) is an upper bound, 0 means serial."""
    if wanted == 0:
        return 0
    by_memory = int(0.8 * free_ram() // max(1, bytes_each))
    return max(1, min(wanted or available_cores(), cases, by_memory))


def _here(function: Callable[[C], R], cases: Sequence[C]) -> Iterator[tuple[C, R | Failure]]:
    for case in cases:
        yield case, Guarded(function)(case)
