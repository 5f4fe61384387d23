"""The only exception shown to users: the broken rule, what was expected and found, the place, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

NAMES_SHOWN = 24  # all commands, all fields of a configuration
KEPT: Any = object()  # marks an argument of `at` that was not given, because None removes the field


class NndiffError(Exception):
    """An error in the input or on the machine that the user can correct. Bugs in nndiff raise other exceptions."""

    def __init__(
        self,
        what: str,
        *,
        expected: object = None,
        found: object = None,
        where: object = None,
        remedy: str | None = None,
    ):
        self.what, self.expected, self.found, self.where, self.remedy = what, expected, found, where, remedy
        super().__init__(str(self))

    def at(
        self,
        where: object = KEPT,
        *,
        prefix: str = "",
        expected: object = KEPT,
        remedy: str | None = KEPT,
    ) -> NndiffError:
        """Return a copy with `prefix` before the text and the given fields replaced, for callers that know the place.

        None removes a field.
        """
        return NndiffError(
            prefix + self.what,
            expected=self.expected if expected is KEPT else expected,
            found=self.found,
            where=self.where if where is KEPT else where,
            remedy=self.remedy if remedy is KEPT else remedy,
        )

    def __str__(self) -> str:
        lines = [self.what]
        pair = [
            f"{word} {value}"
            for word, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        if pair:
            lines.append("  " + "; ".join(pair))
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.remedy is not None:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the remedy of an error about a wrong name: "did you mean …?", or the first few of the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return (
        "use one of: " + ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
        if names
        else "none is available"
    )
