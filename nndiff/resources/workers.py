"""Parallel processing of cases in several processes, with one outcome per case.

    for case, outcome in run(function, cases, workers): ...      outcome = a result, or a Failure with the reason

A case that fails is reported with its traceback, and the other cases go on. A worker that dies (killed, out of memory)
ends the run with an error that names the cases that it may have been working on. `workers = 0` processes all cases in
this process, in order.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nndiff.resources.machine import available_cores, free_ram
from nndiff.words.errors import NndiffError


class Named(Protocol):
    """A case: anything with a name."""

    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Named)
R = TypeVar("R")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
IN_FLIGHT = 2  # submitted cases per worker: enough to keep it busy, few enough to bound memory


@dataclass(frozen=True)
class Failure:
    """The reason why a case has no result: a message for the user, and the traceback for debugging."""

    case: str
    message: str
    trace: str
    expected: bool  # whether the message suffices, because the error is one that nndiff foresees


def run(function: Callable[[C], R], cases: Sequence[C], workers: int, label: str) -> Iterator[tuple[C, R | Failure]]:
    """Yield (case, outcome) as the cases finish, with a progress bar that estimates the time left."""
    from tqdm import tqdm

    outcomes = _serial(function, cases) if workers == 0 else _parallel(function, cases, workers)
    bar = tqdm(total=len(cases), desc=label, unit="case", file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
    with bar:
        for case, outcome in outcomes:
            bar.update()
            yield case, outcome


def worker_count(wanted: int | None, cases: int, bytes_each: int) -> int:
    """Return as many workers as cores, cases and free RAM allow; `wanted` (-np) is an upper bound, 0 means serial."""
    if wanted == 0:
        return 0
    by_memory = int(0.8 * free_ram() // max(1, bytes_each))
    return max(1, min(wanted or available_cores(), cases, by_memory))


def demand_success(failures: Sequence[Failure], total: int, stage: str) -> None:
    """Raise an error that lists every failed case with its reason, if there is one."""
    if not failures:
        return
    rows = "\n".join(f"  {failure.case}: {failure.message}" for failure in failures)
    raise NndiffError(
        f"{stage}: {len(failures)} of {total} cases failed; the others are done.\n{rows}",
        remedy="correct these cases and run the same command again; finished cases are kept (--debug shows tracebacks)",
    )


def _serial(function: Callable[[C], R], cases: Sequence[C]) -> Iterator[tuple[C, R | Failure]]:
    for case in cases:
        yield case, _Guarded(function)(case)


def _parallel(function: Callable[[C], R], cases: Sequence[C], workers: int) -> Iterator[tuple[C, R | Failure]]:
    with _one_thread_each():
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_mind_the_parent)
        waiting = list(reversed(cases))
        running: dict[Future[R | Failure], C] = {}
        try:
            while waiting or running:
                while waiting and len(running) < IN_FLIGHT * workers:
                    case = waiting.pop()
                    with _interrupts_held():  # a submission may start a worker, which inherits the blocked Ctrl-C
                        running[pool.submit(_in_worker, _Guarded(function), case)] = case
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    yield running.pop(future), outcome
        except BrokenProcessPool:
            names = ", ".join(sorted(case.name for case in running.values()))
            raise NndiffError(
                "A worker process died; most likely the machine ran out of memory.",
                found=f"it was processing one of: {names}",
                remedy="run the command again with fewer workers (-np 1, or -np 0 for none); finished cases are kept. "
                "A script of your own must call this below `if __name__ == '__main__':`",
            ) from None
        finally:
            with _interrupts_held():  # a second Ctrl-C during the shutdown would leave a lock held for ever
                # Without the wait, the pool's thread may close its pipe while Python exits, which prints a traceback.
                pool.shutdown(wait=not (waiting or running), cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block Ctrl-C in this context; a process started in it stays blocked until it unblocks (`_mind_the_parent`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mind_the_parent() -> None:
    """Prepare a worker: it exits silently on Ctrl-C, and exits when its parent has been killed."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))  # for a pending Ctrl-C: the pool would log an exception here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))  # from here on, unfinished files are cleaned up
    parent = multiprocessing.parent_process()
    assert parent is not None

    def outlived() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=outlived, daemon=True).start()


def _in_worker(function: _Guarded[C, R], case: C) -> R | Failure:
    """Return the outcome of a case, or end the process on Ctrl-C.

    The pool would treat a SystemExit as a result, and the worker would wait for further cases.
    """
    try:
        return function(case)
    except SystemExit:  # Ctrl-C; unfinished files have been cleaned up
        os._exit(1)


class _Guarded(Generic[C, R]):
    """A function whose exceptions become Failures, so that their tracebacks can be passed between processes."""

    def __init__(self, function: Callable[[C], R]):
        self.function = function

    def __call__(self, case: C) -> R | Failure:
        try:
            return self.function(case)
        except NndiffError as error:
            return Failure(case.name, str(error), traceback.format_exc(), True)
        except MemoryError:
            return Failure(case.name, "out of memory; use fewer workers (-np)", traceback.format_exc(), True)
        except Exception as error:
            return Failure(case.name, f"{type(error).__name__}: {error}", traceback.format_exc(), False)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limit child processes that start in this context to one thread each, because cases already run in parallel."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
