"""Parallel processing of cases in several processes, with one outcome per case.

    for case, outcome in run(function, cases, workers): ...      outcome = a result, or a Failure with the reason

A case that fails is reported with its traceback, and the other cases go on. So is a case whose worker dies: a worker
notes which case it begins, so the one case is known, and the reason is the signal. A worker that is silent for PATIENCE
is killed. `workers = 0` processes all cases in this process, in order.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

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
CHECK, PATIENCE = 30.0, 2 * 3600.0  # seconds between looks at silent workers, and after which one is killed
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
    waiting = list(reversed(cases))
    with _one_thread_each(), tempfile.TemporaryDirectory(prefix="nndiff_workers_") as notes:
        while waiting:  # once, and once more after every worker that died
            lost = list[C]()
            reasons = yield from _until_one_dies(function, waiting, lost, workers, Path(notes))
            for case in lost:
                if case.name in reasons:
                    yield case, Failure(case.name, reasons[case.name], "", True)
            waiting += [case for case in reversed(lost) if case.name not in reasons]


def _until_one_dies(
    function: Callable[[C], R], waiting: list[C], lost: list[C], workers: int, notes: Path
) -> Generator[tuple[C, R | Failure], None, dict[str, str]]:
    """Yield outcomes until all cases are done or a worker dies; return why, by the case that it was working on.

    `lost` are then the cases that had been begun.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_mind_the_parent)
    running: dict[Future[R | Failure], C] = {}
    processes: dict[int, Any] = {}
    overdue = set[int]()
    try:
        while waiting or running:
            while waiting and len(running) < IN_FLIGHT * workers:
                case = waiting.pop()
                with _interrupts_held():  # a submission may start a worker, which inherits the blocked Ctrl-C
                    running[pool.submit(_in_worker, _Guarded(function), case, notes)] = case
                processes = dict(pool._processes)
            done, _ = wait(running, CHECK, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                yield running.pop(future), outcome
            if not done:
                overdue |= _killed_if_silent(processes, notes)
    except BrokenProcessPool:
        lost += running.values()
        running.clear()
        manager: Any = pool._executor_manager_thread
        if manager is not None:
            manager.join()  # it waits for the processes; of two that wait for one, one gets no exit code
        reasons = _reasons(processes, overdue, notes)
        if not reasons.keys() & {case.name for case in lost}:
            raise _died(lost) from None
        return reasons
    finally:
        with _interrupts_held():  # a second Ctrl-C during the shutdown would leave a lock held for ever
            # Without the wait, the pool's thread may close its pipe while Python exits, which prints a traceback.
            pool.shutdown(wait=not (waiting or running), cancel_futures=True)
    return {}


def _killed_if_silent(processes: Mapping[int, Any], notes: Path) -> set[int]:
    """Kill the workers whose case has taken longer than PATIENCE, and return them."""
    silent = set()
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            if time.time() - (notes / str(process)).stat().st_mtime > PATIENCE:
                os.kill(process, signal.SIGKILL)
                silent.add(process)
    return silent


def _reasons(processes: Mapping[int, Any], overdue: set[int], notes: Path) -> dict[str, str]:
    """Return why workers died, by the case that each had begun; those that the pool itself ended do not count."""
    reasons = {}
    for number, process in processes.items():
        if process.exitcode not in (None, 0, -signal.SIGTERM) and (notes / str(number)).exists():
            case = (notes / str(number)).read_text(encoding="utf-8")
            late = f"no answer within {PATIENCE / 3600:g} h, so its process was killed"
            reasons[case] = late if number in overdue else _of_death(process.exitcode)
    return reasons


def _of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed from outside (SIGKILL); most likely the machine ran out of memory\n"
            "  remedy: use fewer workers (-np 1, or -np 0 for none)"
        )
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"
    return f"its process crashed ({name})\n  remedy: check the files of this case, they may be damaged"


def _died(cases: Sequence[Named]) -> NndiffError:
    names = ", ".join(sorted(case.name for case in cases))
    return NndiffError(
        "A worker process died; most likely the machine ran out of memory.",
        found=f"it was processing one of: {names}",
        remedy="run the command again with fewer workers (-np 1, or -np 0 for none); finished cases are kept. "
        "A script of your own must call this below `if __name__ == '__main__':`",
    )


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


def _in_worker(function: _Guarded[C, R], case: C, notes: Path) -> R | Failure:
    """Return the outcome of a case, or end the process on Ctrl-C.

    The pool would treat a SystemExit as a result, and the worker would wait for further cases.
    """
    note = notes / str(os.getpid())
    try:
        note.write_text(case.name, encoding="utf-8")
        outcome = function(case)
        note.unlink(missing_ok=True)  # a worker without work is not silent
        return outcome
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
