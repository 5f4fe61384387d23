"""Predicted costs of earlier programs, in the user's cache folder.

    $nndiff_cache, else $XDG_CACHE_HOME/nndiff, else ~/.cache/nndiff
      costs/CODE/QUESTION.json        {"question": …, "bytes": …, "flops": …}

A trace depends on the code and on what is asked, and on nothing else, so the same dataset is planned again without
tracing anything. CODE is a digest of nndiff's own files and the versions of PyTorch and Python. Where another package
or program extends nndiff, its code can change a cost too, so nothing is kept. An empty $nndiff_cache turns it off. A
file that cannot be read, or written, is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from functools import cache
from pathlib import Path

import torch

from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic
from nndiff.words.registry import is_extended

PACKAGE = Path(__file__).parents[1]
VARIABLE = "nndiff_cache"
UNUSED = 30 * 24 * 3600.0  # seconds after which the costs of other code are removed
Numbers = tuple[int, int]  # bytes, FLOPs


def find(question: str) -> Numbers | None:
    """Return what was kept as the answer, or None."""
    folder = _folder()
    if folder is None:
        return None
    try:
        kept = json.loads(_file(folder, question).read_text(encoding="utf-8"))
        asked, *numbers = kept["question"], kept["bytes"], kept["flops"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    sound = asked == question and all(type(number) is int and number >= 0 for number in numbers)
    return (numbers[0], numbers[1]) if sound else None


def keep(question: str, numbers: Numbers) -> None:
    folder = _folder()
    if folder is None:
        return
    with contextlib.suppress(OSError, NndiffError):
        if not folder.exists():
            _remove_unused(folder.parent)
        with atomic(_file(folder, question)) as part:
            kept = {"question": question, "bytes": numbers[0], "flops": numbers[1]}
            part.write_text(json.dumps(kept), encoding="utf-8")


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    if named == "" or is_extended():
        return None
    try:
        base = Path(named or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
    except RuntimeError:  # no home
        return None
    return (base if named else base / "nndiff") / "costs" / _code()


def _file(folder: Path, question: str) -> Path:
    return folder / f"{hashlib.sha256(question.encode()).hexdigest()[:32]}.json"


@cache
def _code() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {sys.version}".encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _remove_unused(costs: Path) -> None:
    for folder in costs.iterdir() if costs.is_dir() else ():
        if time.time() - folder.stat().st_mtime > UNUSED:
            shutil.rmtree(folder, ignore_errors=True)
