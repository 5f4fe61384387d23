"""Frozen dataclass ↔ JSON, exactly: unknown keys name the nearest known one, missing keys and wrong types say where.

`decode(encode(value)) == value` for every word in `plan.py`; that is a law. An object of a table (`Named`) is written
as its name, and read by looking the name up.
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import types
import typing
from abc import ABC, abstractmethod
from typing import Any, TypeVar

from nndiff.words.errors import NndiffError, nearest
from nndiff.words.registry import Registry

T = TypeVar("T")


class Named(ABC):
    """An object that stands in a table under its name: JSON holds the name alone."""

    name: str

    @classmethod
    @abstractmethod
    def rows(cls) -> Registry[Any]:
        """Return the table."""


def encode(value: Any) -> Any:
    """A named object becomes its name, a dataclass a dict in field order, a tuple a list; plain values stay."""
    if isinstance(value, Named):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(cls: type[T], data: Any, where: str = "") -> T:
    """Build `cls` from parsed JSON; `where` is the dotted path that errors name."""
    return typing.cast(T, _decode(cls, data, where))


def type_at(cls: Any, path: str) -> Any:
    """The declared type at a dotted path such as `configurations.bridge.patch_size`; wrong names are refused."""
    current = cls
    walked: list[str] = []
    for name in path.split("."):
        origin, arguments = typing.get_origin(current), typing.get_args(current)
        if origin is dict:
            current = arguments[1]
        elif origin is tuple and name.isdigit():
            current = arguments[0]
        elif dataclasses.is_dataclass(current) and not _is_named(current):
            hints = hints_of(typing.cast(type, current))
            if name not in hints:
                raise _unknown(name, hints, ".".join(walked))
            current = hints[name]
        else:
            raise NndiffError(f"'{'.'.join(walked)}' has no parts.", found=path)
        walked.append(name)
    return current


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if _is_named(kind):
        return _decode_named(kind, data, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, data, where)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        (rest,) = [argument for argument in arguments if argument is not type(None)]
        return _decode(rest, data, where)
    if origin is tuple:
        return _decode_tuple(arguments, data, where)
    if origin is dict:
        _demand(isinstance(data, dict), "an object", data, where)
        return {key: _decode(arguments[1], item, f"{where}.{key}".lstrip(".")) for key, item in data.items()}
    if kind is float:
        _demand(isinstance(data, (int, float)) and not isinstance(data, bool), "a number", data, where)
        return float(data)
    if kind is int:
        _demand(isinstance(data, int) and not isinstance(data, bool), "a whole number", data, where)
        return data
    names = {str: "a text", bool: "true or false"}
    _demand(isinstance(data, kind), names.get(kind, str(kind)), data, where)
    return data


def _decode_tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _demand(isinstance(data, (list, tuple)), "a list", data, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    _demand(len(data) == len(arguments), f"a list of {len(arguments)}", data, where)
    return tuple(
        _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, data, strict=True))
    )


def _is_named(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Named)


def _decode_named(cls: type[Named], data: Any, where: str) -> Any:
    _demand(isinstance(data, str), "a text", data, where)
    rows = cls.rows()
    if data not in rows:
        what = f"'{where or 'value'}' names no {rows.kind}."
        raise NndiffError(what, expected=" or ".join(rows), found=data, remedy=nearest(data, rows))
    return rows[data]


def _decode_dataclass(cls: Any, data: Any, where: str) -> Any:
    _demand(isinstance(data, dict), "an object", data, where)
    hints = hints_of(cls)
    for key in data:
        if key not in hints:
            raise _unknown(key, hints, where)
    needed = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in data]
    if missing:
        raise NndiffError(f"'{missing[0]}' is missing{f' in {where}' if where else ''}.", remedy=f'add "{missing[0]}"')
    return cls(**{key: _decode(hints[key], item, f"{where}.{key}".lstrip(".")) for key, item in data.items()})


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Field name → declared type."""
    return typing.get_type_hints(cls)


def _unknown(name: str, known: dict[str, Any], where: str) -> NndiffError:
    return NndiffError(f"Unknown key '{name}'{f' in {where}' if where else ''}.", remedy=nearest(name, known))


def _demand(condition: bool, expected: str, found: Any, where: str) -> None:
    if not condition:
        shown = reprlib.repr(found)  # a line, however much there is
        raise NndiffError(f"'{where or 'value'}' has the wrong type.", expected=expected, found=shown)
