"""Judging a stranger's file before a library sees it: libraries hang, crash or mislead on some headers that are wrong.

    with in_words(path): …     what happens here ends well, or in an NndiffError
    with judged(path): …       here `refuse` says what a header states, and what it should

The headers are judged in nifti.py (NIfTI-1) and text_headers.py (MetaImage, NRRD). Whether nndiff can use an image
(three axes, one value per voxel, right angles) is for `io` to say.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from nndiff.words.errors import NndiffError

REMEDY = "export or copy the file again"
MOST_AXES = 7
LONGEST_HEADER = 1 << 20  # bytes
DEFLATE = 1032  # bytes that a byte can unpack to at most, by the format
CHUNK = 1 << 22


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn any error about a stranger's file into one in words; --debug shows where it came from."""
    try:
        yield
    except NndiffError:
        raise
    except MemoryError as error:
        raise NndiffError(
            f"{path.name} needs more memory than there is.", where=path, remedy="use fewer workers, or a larger machine"
        ) from error
    except Exception as error:  # libraries raise errors of any kind
        found = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise NndiffError(f"{path.name} cannot be read.", found=found, where=path, remedy=REMEDY) from error


class Wrong(Exception):
    """What a header states, and what it should."""

    def __init__(self, expected: str, found: object):
        super().__init__(expected)
        self.expected, self.found = expected, found


def refuse(expected: str, found: object) -> NoReturn:
    raise Wrong(expected, found)


@contextmanager
def judged(path: Path) -> Iterator[None]:
    """Say in words what is refused in this context, or what cannot be unpacked."""
    try:
        yield
    except Wrong as wrong:
        raise damaged(path, wrong.found, wrong.expected) from None
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, found: object, expected: object = None) -> NndiffError:
    what = f"{path.name} is damaged or incomplete."
    return NndiffError(what, expected=expected, found=str(found)[:200], where=path, remedy=REMEDY)


# ---------------------------------------------------------------- shapes and numbers


def demand_shape(axes: int, shape: Sequence[int], names: tuple[str, str] = ("dim[0]", "dim")) -> None:
    """Refuse a shape that is none; `names` are those of the fields for the number of axes and for the shape."""
    if not 1 <= axes <= MOST_AXES:
        refuse(f"1 to {MOST_AXES} axes ({names[0]})", axes)
    if len(shape) != axes or min(shape) < 1:
        refuse(f"{axes} axes of 1 voxel or more ({names[1]})", " ".join(map(str, shape)))


def demand_room(path: Path, needed: int, packed: bool) -> None:
    """Refuse more bytes than the file can hold: a small file must not claim memory that only its header speaks of."""
    length = path.stat().st_size
    most = length * DEFLATE if packed else length
    if needed > most:
        refuse(f"{needed} bytes", f"{length} bytes{' packed' if packed else ''}")


def whole(name: str, word: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", word.strip()):
        refuse(f"a whole number ({name})", word[:40])
    return int(word)


def numbers(name: str, words: Sequence[str], count: int | None) -> None:
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            refuse(f"numbers ({name})", word[:40])
    if count is not None and len(values) != count:
        refuse(f"{count} numbers ({name})", len(values))
    demand_finite(name, values)


def demand_finite(name: str, values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        refuse(f"finite numbers ({name})", short(values))


def short(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
