"""Cases in several processes of this machine.

A worker notes which case it begins, so if it dies the one case is known; the reason is the signal. The other cases go
on in a new pool. A worker that is silent for PATIENCE is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from nndiff.resources.outcomes import Failure, Guarded, Named
from nndiff.words.errors import NndiffError

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


def outcomes(function: Callable[[C], R], cases: Sequence[C], workers: int) -> Iterator[tuple[C, R | Failure]]:
    """Yield (case, outcome) as the cases finish."""
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
                    running[pool.submit(_in_worker, Guarded(function), case, notes)] = case
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


def _in_worker(function: Guarded[C, R], case: C, notes: Path) -> R | Failure:
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
