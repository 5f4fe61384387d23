"""What a command tells while it works, on stderr, and shows as its result, on stdout.

On a terminal long lines are broken to its width. In a pipe or a file each stays one line, without carriage returns.
"""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from typing import TextIO

URGENT = ("warning", "error")  # how lines begin that are told, with the indented ones below, by a quiet command too


def tell(line: str) -> None:
    print(fitted(line, sys.stderr), file=sys.stderr, flush=True)


def show(line: str) -> None:
    print(fitted(line, sys.stdout), flush=True)


def fitted(text: str, stream: TextIO) -> str:
    """Return the text with lines that fit the terminal behind the stream, if there is one."""
    width = width_of(stream)
    if width is None:
        return text
    return "\n".join(_broken(line, width) for line in text.split("\n"))


def in_words(seconds: float) -> str:
    """Return a duration as it is told: 40 s, 25 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, what: str) -> str:
    """Return a number of things in words: 1 case, 2 cases."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def width_of(stream: TextIO) -> int | None:
    """Return the columns of the terminal behind the stream, or None if it is a pipe or a file."""
    return shutil.get_terminal_size((80, 24)).columns if stream.isatty() else None


def _broken(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,  # paths stay whole
        break_on_hyphens=False,
    )


class Quiet(io.TextIOBase):
    """A stream that passes on only the lines that are urgent."""

    def __init__(self, stream: TextIO):
        self.stream, self.begun, self.passes = stream, "", False

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).replace("\r", "\n").split("\n")
        for line in lines:
            urgent = line.lstrip().lower().startswith(URGENT)
            self.passes = urgent or (self.passes and line.startswith("  "))
            if self.passes:
                self.stream.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return False
