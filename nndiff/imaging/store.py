"""Store prepared cases on disk: NAME_source.npy, NAME_target.npy, NAME_mask.npy, and NAME.json beside them.

The arrays are read as memory maps, so reading a patch loads only its own bytes. The JSON file is written last and
removed first: if it exists, the case is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
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
    for key, array in arrays.items():
        with atomic(_array_path(folder, name, key)) as part, open(part, "wb") as stream:
            np.save(stream, np.ascontiguousarray(array))
    described = {key: {"shape": list(array.shape), "dtype": str(array.dtype)} for key, array in arrays.items()}
    write_json(_record_path(folder, name), {"arrays": described, "record": record})


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record that was given to `write_case`; None if there is no such case."""
    contents = _contents(folder, name)
    return None if contents is None else dict(contents["record"])


def open_case(folder: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a case by name, as read-only memory maps."""
    contents = _contents(folder, name)
    if contents is None:
        raise NndiffError(f"Case {name} is not preprocessed.", where=folder, remedy=REMEDY)
    return {
        key: _open_array(_array_path(folder, name, key), tuple(described["shape"]), described["dtype"])
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
    write_json(_record_path(target_folder, name), contents)


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


def _contents(folder: Path, name: str) -> dict[str, Any] | None:
    path = _record_path(folder, name)
    if not path.exists():
        return None
    contents = read_json(path, REMEDY)
    if not isinstance(contents, dict) or set(contents) != {"arrays", "record"}:
        raise NndiffError(f"{path.name} does not describe a preprocessed case.", where=path, remedy=REMEDY)
    return contents


def _open_array(path: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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
