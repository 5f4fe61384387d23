"""The outcome of work on a case: a result, or a Failure with the reason."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nndiff.words.errors import NndiffError
from nndiff.words.telling import counted


class Named(Protocol):
    """A case: anything with a name."""

    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Named)
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """The reason why a case has no result: a message for the user, and the traceback for debugging."""

    case: str
    message: str
    trace: str
    expected: bool  # whether the message suffices, because the error is one that nndiff foresees


class Guarded(Generic[C, R]):
    """A function of a case whose exceptions become Failures, so that they can be passed between processes."""

    def __init__(self, function: Callable[[C], R]):
        self.function = function

    def __call__(self, case: C) -> R | Failure:
        return guarded(case.name, lambda: self.function(case), "; use fewer workers (-np)")


def guarded(case: str, work: Callable[[], R], remedy: str = "") -> R | Failure:
    """Return the result of some work on a case, or a Failure if it raises an exception; `remedy` is for full memory."""
    try:
        return work()
    except NndiffError as error:
        return Failure(case, str(error), traceback.format_exc(), True)
    except MemoryError:
        return Failure(case, f"out of memory{remedy}", traceback.format_exc(), True)
    except Exception as error:
        return Failure(case, f"{type(error).__name__}: {error}", traceback.format_exc(), False)


class CasesFailed(NndiffError):
    """The error that some cases failed while others are done."""


def demand_success(failures: Sequence[Failure], total: int, stage: str) -> None:
    """Raise an error that lists every failed case with its reason, if there is one."""
    if not failures:
        return
    others = "; the others are done" if len(failures) < total else ""
    rows = "\n".join(f"  {failure.case}: {failure.message}" for failure in failures)
    raise CasesFailed(
        f"{stage}: {len(failures)} of {counted(total, 'case')} failed{others}.\n{rows}",
        remedy="correct these cases and run the same command again; finished cases are kept (--debug shows tracebacks)",
    )
