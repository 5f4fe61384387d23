"""Convert frozen dataclasses to JSON and back, and refuse unknown keys, missing keys and wrong types.

    a dataclass                      {"field": value, …}
    a class of a `Tagged` family     {"name": "hot", "ahead": 2}: the name selects the class of the family; it may be
                                     omitted if only one class is possible
    an object of a table (`Named`)   "ct": its name, by which it is looked up

The error about an unknown key suggests the nearest known one; the errors about missing keys and wrong types say where
they were found. `decode(encode(value)) == value` holds for every dataclass that is stored.
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import types
import typing
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from nndiff.words.errors import NndiffError, nearest
from nndiff.words.fields import Rule, rules_of
from nndiff.words.registry import Registry

T = TypeVar("T")


class Tagged:
    """Base of a family of dataclasses that are distinguished in JSON by their name.

    The family's base class defines `table`, a registry, and every class of the table defines its own `name`.
    """

    name: ClassVar[str] = ""

    @classmethod
    def table(cls) -> Registry[Any]:
        raise NotImplementedError


class Named(ABC):
    """An object that a table holds under its name: JSON stores only the name."""

    name: str

    @classmethod
    @abstractmethod
    def rows(cls) -> Registry[Any]:
        """Return the table that holds the objects of this class."""


LARGEST = 2**63  # of whole numbers that become floats
LEFT_OUT = "left_out"  # key in the metadata of a field that is written only where it differs from its default


def encode(value: Any) -> Any:
    """Return plain JSON values: a dict in field order for a dataclass, a list for a tuple, a named object's name."""
    if isinstance(value, Named):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {"name": value.name} if isinstance(value, Tagged) else {}
        written = [field for field in dataclasses.fields(value) if not _is_left_out(field, getattr(value, field.name))]
        return tag | {field.name: encode(getattr(value, field.name)) for field in written}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def _is_left_out(field: dataclasses.Field[Any], value: Any) -> bool:
    """Return whether a field is not written: one that most objects lack, where it has its default."""
    return bool(field.metadata.get(LEFT_OUT)) and bool(value == field.default)


def decode(cls: type[T], data: Any, where: str = "") -> T:
    """Return an object of `cls` built from parsed JSON; errors name the dotted path `where`."""
    return typing.cast(T, _decode(cls, data, where))


def type_at(cls: Any, path: str) -> Any:
    """Return the declared type at a dotted path such as `configurations.bridge.patch_size`; refuse a wrong name.

    An item of a tuple is addressed by its index, or by its own name if the items belong to a tagged family.
    """
    current = cls
    walked: list[str] = []
    for name in path.split("."):
        origin, arguments = typing.get_origin(current), typing.get_args(current)
        if origin is dict:
            current = arguments[1]
        elif origin is tuple and name.isdigit():
            current = arguments[0]
        elif origin is tuple and _is_tagged(arguments[0]):
            current = arguments[0].table()[name]
        elif (dataclasses.is_dataclass(current) and not _is_named(current)) or _is_tagged(current):
            hints = _hints_of_all(typing.cast(type, current))
            if name not in hints:
                raise _unknown(name, hints, ".".join(walked))
            current = hints[name]
        else:
            raise NndiffError(f"'{'.'.join(walked)}' is a single value and has no fields.", found=path)
        walked.append(name)
    return current


def rules_at(cls: Any, path: str, name: str) -> dict[str, Rule]:
    """Return the rules of the field `name` in the dataclass at the dotted path: class name → rule.

    For the base of a tagged family, each class that has such a field contributes one entry under its own name; for a
    single dataclass, the only entry has the empty name.
    """
    owner = type_at(cls, path) if path else cls
    if _is_tagged(owner) and not owner.name:
        classes = {row: owner.table()[row] for row in owner.table()}
    else:
        classes = {"": owner} if dataclasses.is_dataclass(owner) else {}
    return {row: rules_of(each)[name] for row, each in classes.items() if name in rules_of(each)}


def _is_tagged(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Tagged)


def _hints_of_all(cls: type) -> dict[str, Any]:
    """Return field name → type; for the base of a tagged family, the fields of all its classes."""
    if not _is_tagged(cls) or cls.name:  # type: ignore[attr-defined]
        return hints_of(cls)
    table = cls.table()  # type: ignore[attr-defined]
    hints: dict[str, Any] = {"name": str}
    for name in table:
        hints = {**hints_of(table[name]), **hints}
    return hints


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if _is_tagged(kind):
        return _decode_tagged(kind, data, where)
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
        _demand(isinstance(data, float) or abs(data) < LARGEST, "a whole number below 2^63", data, where)
        return float(data)
    if kind is int:
        _demand(isinstance(data, int) and not isinstance(data, bool), "a whole number", data, where)
        return data
    names = {str: "a string", bool: "true or false"}
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


def _decode_tagged(cls: Any, data: Any, where: str) -> Any:
    if not cls.name:  # the base of the family: the name in the data selects the class
        _demand(isinstance(data, dict) and isinstance(data.get("name"), str), 'an object with a "name"', data, where)
        try:
            cls = cls.table()[data["name"]]
        except NndiffError as error:
            raise NndiffError(error.what, where=where or None, remedy=error.remedy) from None
    _demand(isinstance(data, dict), "an object", data, where)
    named = data.get("name", cls.name)  # may be omitted, because only one class is possible here
    _demand(named == cls.name, f'the name "{cls.name}"', named, f"{where}.name".lstrip("."))
    return _decode_dataclass(cls, {key: value for key, value in data.items() if key != "name"}, where)


def _is_named(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Named)


def _decode_named(cls: type[Named], data: Any, where: str) -> Any:
    _demand(isinstance(data, str), "a string", data, where)
    rows = cls.rows()
    if data not in rows:
        what = f"There is no {rows.kind} named '{data}'{f' (in {where})' if where else ''}."
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
    """Return field name → declared type."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _unknown(name: str, known: dict[str, Any], where: str) -> NndiffError:
    return NndiffError(f"Unknown key '{name}'{f' in {where}' if where else ''}.", remedy=nearest(name, known))


def _demand(condition: bool, expected: str, found: Any, where: str) -> None:
    if not condition:
        shown = reprlib.repr(found)  # shortened to one line
        raise NndiffError(f"'{where or 'value'}' has the wrong type.", expected=expected, found=shown)
