"""The outcome of work on a case: a result, or a Failure with the reason."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nndiff.words.errors import NndiffError


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


def demand_success(failures: Sequence[Failure], total: int, stage: str) -> None:
    """Raise an error that lists every failed case with its reason, if there is one."""
    if not failures:
        return
    rows = "\n".join(f"  {failure.case}: {failure.message}" for failure in failures)
    raise NndiffError(
        f"{stage}: {len(failures)} of {total} cases failed; the others are done.\n{rows}",
        remedy="correct these cases and run the same command again; finished cases are kept (--debug shows tracebacks)",
    )
