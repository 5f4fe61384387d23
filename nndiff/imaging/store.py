"""Store prepared cases on disk: NAME_source.npy, NAME_target.npy, NAME_mask.npy, and NAME.json beside them.

The arrays are read as memory maps, so reading a patch loads only its own bytes. The JSON file is written last and
removed first: if it exists, the case is complete. It holds a checksum of every array's file and one of itself, so that
a case that was damaged on the disk is noticed; cases of former versions have none.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic, read_json, write_json

ARRAYS = ("source", "target", "mask")
REMEDY = "run the preprocessing again"


def write_case(folder: Path, name: str, arrays: Mapping[str, npt.NDArray[Any]], record: dict[str, Any]) -> None:
    assert set(arrays) <= set(ARRAYS), sorted(arrays)
    _remove(folder, name, keep=arrays)
    described = dict[str, Any]()
    for key, array in arrays.items():
        with atomic(_array_path(folder, name, key)) as part:
            with open(part, "wb") as stream:
                np.save(stream, np.ascontiguousarray(array))
            described[key] = {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": _of_file(part)}
    _write_record(folder, name, {"arrays": described, "record": record})


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record that was given to `write_case`; None if there is no such case."""
    contents = _contents(folder, name)
    return None if contents is None else dict(contents["record"])


def open_case(folder: Path, name: str, verify: bool = True) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a case by name, as read-only memory maps; `verify` reads them once to check them."""
    contents = _contents(folder, name)
    if contents is None:
        raise NndiffError(f"Case {name} is not preprocessed.", where=folder, remedy=REMEDY)
    return {
        key: _open_array(_array_path(folder, name, key), described, verify)
        for key, described in contents["arrays"].items()
    }


def cases(folder: Path) -> list[str]:
    """Return the names of all complete cases, sorted."""
    names = [path.name[: -len(".json")] for path in folder.glob("*.json")]
    return sorted(name for name in names if any(_array_path(folder, name, key).exists() for key in ARRAYS))


def link_case(source_folder: Path, target_folder: Path, name: str) -> None:
    """Add a case to another folder by hard links, or by copies if the file system has no hard links between them."""
    contents = _contents(source_folder, name)
    if contents is None:
        raise NndiffError(f"Case {name} is not preprocessed.", where=source_folder, remedy=REMEDY)
    _remove(target_folder, name, keep=contents["arrays"])
    for key in contents["arrays"]:
        with atomic(_array_path(target_folder, name, key)) as part:
            _link(_array_path(source_folder, name, key), part)
    _write_record(target_folder, name, contents)


def remove_case(folder: Path, name: str) -> None:
    """Remove a case, its record first, so that a half-removed case does not count as complete."""
    _remove(folder, name, keep={})


def _link(source: Path, target: Path) -> None:
    if not source.exists():
        raise NndiffError(f"{source.name} is missing.", where=source, remedy=REMEDY)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _remove(folder: Path, name: str, keep: Mapping[str, Any]) -> None:
    """Remove the record, which marks the case as complete, and then the arrays that are not in `keep`."""
    stale = [_array_path(folder, name, key) for key in ARRAYS if key not in keep]
    for path in [_record_path(folder, name), *stale]:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _write_record(folder: Path, name: str, contents: Mapping[str, Any]) -> None:
    write_json(_record_path(folder, name), {**contents, "crc32": _of_words(contents)})


def _contents(folder: Path, name: str) -> dict[str, Any] | None:
    path = _record_path(folder, name)
    if not path.exists():
        return None
    contents = read_json(path, REMEDY)
    if not isinstance(contents, dict) or set(contents) - {"crc32"} != {"arrays", "record"}:
        raise NndiffError(f"{path.name} does not describe a preprocessed case.", where=path, remedy=REMEDY)
    if contents.pop("crc32", None) not in (None, _of_words(contents)):
        raise _damaged(path)
    return contents


def _of_file(path: Path) -> str:
    """Return the checksum of a file."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return f"{zlib.crc32(view):08x}"


def _of_words(contents: Mapping[str, Any]) -> str:
    """Return the checksum of what a record says, however it is laid out."""
    return f"{zlib.crc32(json.dumps(contents, sort_keys=True).encode()):08x}"


def _damaged(path: Path) -> NndiffError:
    return NndiffError(
        f"{path.name} has changed since it was written.",
        expected="the checksum that was stored with it",
        where=path,
        remedy=f"{REMEDY}; if it happens again, have the disk checked",
    )


def _open_array(path: Path, described: Mapping[str, Any], verify: bool) -> npt.NDArray[Any]:
    shape, dtype = tuple(described["shape"]), described["dtype"]
    try:
        if verify and "crc32" in described and described["crc32"] != _of_file(path):
            raise _damaged(path)
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except NndiffError:
        raise
    except Exception as error:  # a damaged head can raise any exception
        raise NndiffError(f"{path.name} is missing or damaged.", found=error, where=path, remedy=REMEDY) from None
    if array.shape != shape or str(array.dtype) != dtype:
        raise NndiffError(
            f"The array {path.name} does not match the record of its case.",
            expected=f"{shape} {dtype}",
            found=f"{array.shape} {array.dtype}",
            where=path,
            remedy=REMEDY,
        )
    return array


def _array_path(folder: Path, name: str, key: str) -> Path:
    return folder / f"{name}_{key}.npy"


def _record_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
