"""Name → class: a built-in table, and what installed packages offer as entry points of the group `nndiff.<kind>`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from nndiff.words.errors import NndiffError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The table at the foot of a room, e.g. NORMALIZERS; `kind` names it in errors and in entry points."""

    def __init__(self, kind: str, table: Mapping[str, T]):
        self.kind, self.table = kind, dict(table)

    def __getitem__(self, name: str) -> T:
        if name in self.table:
            return self.table[name]
        for point in entry_points(group=f"nndiff.{self.kind}"):
            if point.name == name:
                return point.load()  # type: ignore[no-any-return]
        raise NndiffError(f"There is no {self.kind} named '{name}'.", remedy=nearest(name, self))

    def __iter__(self) -> Iterator[str]:
        yield from self.table
        yield from (point.name for point in entry_points(group=f"nndiff.{self.kind}") if point.name not in self.table)

    def __contains__(self, name: str) -> bool:
        return any(name == other for other in self)  # a built-in name is found before packages are looked through

    def values(self) -> list[T]:
        """Return every row, those of the built-in table first."""
        return [self[name] for name in self]

    def make(self, name: str, options: Mapping[str, Any]) -> Any:
        """An object of that row; options that it does not have are refused, and so are those that it lacks."""
        row: Any = self[name]
        try:
            inspect.signature(row).bind(**options)
        except TypeError:
            names = ", ".join(inspect.signature(row).parameters) or "none"
            raise NndiffError(
                f"The {self.kind} '{name}' cannot be set so.", expected=f"options {names}", found=dict(options)
            ) from None
        return row(**options)
