"""How far a command is: a bar on a terminal; in a pipe or a file a line now and then, without carriage returns."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol

from nndiff.words.telling import width_of

REST = 15.0  # s between two lines


class Bar(Protocol):
    n: int | float  # of the total

    def update(self, n: float = 1) -> object: ...

    def set_postfix_str(self, s: str) -> object: ...

    def __enter__(self) -> Bar: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def bar(total: int, label: str, unit: str, quiet: bool = False) -> Bar:
    """Return what shows the progress of `total` units on stderr."""
    if quiet or width_of(sys.stderr) is None:
        return Lines(total, label, unit, quiet)
    from tqdm import tqdm

    class Rounded(tqdm):  # type: ignore[misc]
        @property
        def format_dict(self) -> dict[str, Any]:
            return {**super().format_dict, "n": _rounded(self.n)}

    made: Bar = Rounded(total=total, desc=label, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
    return made


class Lines:
    """Progress as lines: at most one in `REST` seconds, and one at the end."""

    def __init__(self, total: int, label: str, unit: str, quiet: bool):
        self.total, self.label, self.unit, self.quiet = total, label, unit, quiet
        self.n: int | float = 0
        self.about = ""
        self.began = self.last = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.n += n
        now = time.monotonic()
        if now - self.last >= REST and self.n < self.total:
            self.last = now
            left = (now - self.began) / self.n * (self.total - self.n)
            self._say(f"{_rounded(self.n)} of {self.total} {self.unit}s, about {left:.0f} s left{self.about}")

    def set_postfix_str(self, s: str) -> None:
        self.about = f" ({s})"

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say(f"{_rounded(self.n)} of {self.total} {self.unit}s in {time.monotonic() - self.began:.0f} s")

    def _say(self, words: str) -> None:
        if not self.quiet:
            print(f"{self.label}: {words}", file=sys.stderr, flush=True)


def _rounded(n: float) -> float:
    """Return the number to two decimals, a whole one without any."""
    rounded = round(n, 2)
    return int(rounded) if rounded == int(rounded) else rounded
