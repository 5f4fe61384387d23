"""Atomic file writing: a file is either complete or absent. Everything but logs goes through `atomic`."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nndiff.words.errors import NndiffError
from nndiff.words.processes import is_over, signature

PART = ".part-"  # prefix of a file that is being written; never a final name
FORGOTTEN = 24 * 3600.0  # seconds without a change after which it is nobody's, wherever its writer ran

_swept: set[Path] = set()  # folders that this process has written into


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary path keeps the file ending, because writers choose the format by it. What killed programs have left in
    the folder is removed before the first file is written there.
    """
    _sweep_once(path.parent)
    part = path.with_name(f"{PART}{signature()}+{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; rename it to `path` on success, remove it on failure.

    A folder that exists already at `path` is never replaced, unless it is empty.
    """
    _sweep_once(path.parent)
    part = path.with_name(f"{PART}{signature()}+{path.name}")
    try:
        part.mkdir(parents=True)
        yield part
        for file in part.iterdir():
            with open(file, "rb+") as stream:
                os.fsync(stream.fileno())
        os.rename(part, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def append(path: Path, text: str) -> None:
    """Add text at the end of a file, which may be new."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise explained(error, path) from error


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose processes ran here and have ended, or that are old."""
    for path in folder.glob(f"{PART}*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            forgotten = time.time() - path.stat().st_mtime > FORGOTTEN
            if forgotten or is_over(path.name.removeprefix(PART).partition("+")[0]):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sweep_once(folder: Path) -> None:
    if folder not in _swept:
        _swept.add(folder)
        with contextlib.suppress(OSError):  # the write itself says why it cannot be
            sweep(folder)


def demand_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before long work begins rather than after it."""
    probe = folder / "can_be_written"
    try:
        with atomic(probe) as part:
            part.touch()
        probe.unlink()
    except NndiffError as error:
        raise NndiffError(
            error.what.replace(probe.name, f"into {folder.name}"), found=error.found, where=folder, remedy=error.remedy
        ) from error


def write_json(path: Path, data: Any) -> None:
    with atomic(path) as part:
        part.write_text(dumps(data) + "\n", encoding="utf-8")


def read_json(path: Path, remedy: str | None = None) -> Any:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NndiffError(f"{path.name} is missing.", where=path, remedy=remedy) from None
    except OSError as error:
        raise NndiffError(f"Cannot read {path.name}.", found=error.strerror or error, where=path) from error
    return parse_json(data, path, remedy)


def parse_json(data: bytes, path: Path, remedy: str | None = None) -> Any:
    """Return the contents of JSON text that was read from `path`; refuse a repeated key."""
    try:
        text = data.decode("utf-8-sig")  # Windows editors write a byte order mark first
        return json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise NndiffError(f"{path.name} is not valid JSON.", found=error, where=path, remedy=remedy) from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict and refuse a repeated key, of which `json` would silently keep the last value."""
    once = dict(pairs)
    if len(once) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return once


def dumps(data: Any, indent: int = 0) -> str:
    """Return readable JSON text: a list of plain values or a short dict on one line, everything else indented."""
    pad, inner = "  " * indent, "  " * (indent + 1)
    if isinstance(data, dict) and data:
        if all(_plain(value) for value in data.values()) and len(line := _line(data)) <= 88:
            return line
        rows = [
            f"{inner}{json.dumps(str(key), ensure_ascii=False)}: {dumps(value, indent + 1)}"
            for key, value in data.items()
        ]
        return "{\n" + ",\n".join(rows) + f"\n{pad}}}"
    if isinstance(data, (list, tuple)) and not all(_plain(value) for value in data):
        rows = [inner + dumps(value, indent + 1) for value in data]
        line = _line(data)
        if len(line) <= 100 and all(isinstance(value, (list, tuple)) for value in data):
            return line
        return "[\n" + ",\n".join(rows) + f"\n{pad}]"
    return _line(data)


def _line(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def explained(error: OSError, path: Path) -> NndiffError:
    """Return the error in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _cut_short(error):
        return NndiffError(
            "The disk is full.",
            where=path,
            remedy="free some space and run the same command again; finished files are kept",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return NndiffError(
            f"Cannot write {path.name}.",
            found=error.strerror,
            where=path.parent,
            remedy="choose a folder for which you have write permission",
        )
    return NndiffError(f"Cannot write {path.name}.", found=error.strerror or error, where=path)


def _cut_short(error: OSError) -> bool:
    """Return whether numpy ran out of disk: its error «319872 requested and 77792 written» carries no errno."""
    return error.errno is None and "requested and" in str(error)
