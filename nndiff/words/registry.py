"""Tables of named classes and objects, extended by the entry points `nndiff.<kind>` of installed packages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast
from weakref import WeakSet

from nndiff.words.errors import NndiffError, nearest

T = TypeVar("T")
PACKAGE = __name__.partition(".")[0]
_every: WeakSet[Registry[Any]] = WeakSet()


class Registry(Generic[T]):
    """A table of named rows, e.g. NORMALIZERS; `kind` is its name in errors and entry points."""

    def __init__(self, kind: str, table: Mapping[str, T] | None = None):
        self.kind, self.table = kind, dict(table or {})
        _every.add(self)

    def row(self, cls: T) -> T:
        """Add a class under its own `name` and return it; for use as a decorator."""
        self.table[cls.name] = cls  # type: ignore[attr-defined]
        return cls

    def __getitem__(self, name: str) -> T:
        if name in self.table:
            return self.table[name]
        for point in self._installed():
            if point.name == name:
                return point.load()  # type: ignore[no-any-return]
        raise NndiffError(f"There is no {self.kind} named '{name}'.", remedy=nearest(name, self))

    def __iter__(self) -> Iterator[str]:
        yield from self.table
        yield from (point.name for point in self._installed() if point.name not in self.table)

    def _installed(self) -> tuple[EntryPoint, ...]:
        return _found(entry_points, f"nndiff.{self.kind}", tuple(sys.path))

    def __contains__(self, name: str) -> bool:
        return any(name == other for other in self)  # finds a built-in name without searching the installed packages

    @property
    def is_extended(self) -> bool:
        """Return whether this is a table of nndiff's with a row of another package, or of a program that uses it."""
        owners = {getattr(row, "__module__", "").partition(".")[0] for row in self.table.values()}
        return PACKAGE in owners and (len(owners) > 1 or bool(self._installed()))

    def values(self) -> list[T]:
        """Return every row, the rows of the built-in table first."""
        return [self[name] for name in self]

    def make(self, name: str, options: Mapping[str, Any]) -> Any:
        """Return an object made from the row `name`; refuse unknown and missing options."""
        self.demand_options(name, options)
        row: Any = self[name]
        return row(**options)

    def demand_options(self, name: str, options: Mapping[str, Any], after: int = 0) -> None:
        """Refuse options that do not fit the row's arguments; the first `after` arguments are not options."""
        signature = inspect.signature(cast(Callable[..., Any], self[name]))
        parameters = list(signature.parameters.values())[after:]
        try:
            signature.replace(parameters=parameters).bind(**options)
        except TypeError:
            raise NndiffError(
                f"The {self.kind} '{name}' does not take these options.",
                expected=f"options {', '.join(p.name for p in parameters) or 'none'}",
                found=dict(options),
            ) from None


@cache
def _found(search: Callable[..., Iterable[EntryPoint]], group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group on the path; a search reads the metadata of every installed package."""
    return tuple(search(group=group))


def is_extended() -> bool:
    """Return whether any table of nndiff's has a row that is not its own."""
    return any(registry.is_extended for registry in _every)
