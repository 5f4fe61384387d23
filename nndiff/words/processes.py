"""Processes of this machine, told apart although their numbers are given again."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def started(process: int) -> str:
    """Return when the process started, in the kernel's ticks; '' where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def runs(process: int, since: str) -> bool:
    """Return whether the process runs that started at that time; '' stands for any."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return since in ("", started(process))


def space() -> str:
    """Return the number of the space of process numbers: containers on one machine have their own. '' if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def place() -> str:
    """Return ten characters for this machine and its space of process numbers: a machine's name can be long."""
    return hashlib.sha256(f"{platform.node()} {space()}".encode()).hexdigest()[:10]


def signature() -> str:
    """Return what marks a temporary file of this process: place_process-started."""
    return f"{place()}_{os.getpid()}-{started(os.getpid())}"


def is_over(mark: str) -> bool:
    """Return whether a signature is that of a process which ran in this place and has ended.

    Earlier versions wrote host_process.
    """
    where, _, numbers = mark.rpartition("_")
    process, new, since = numbers.partition("-")
    here = where == (place() if new else platform.node())
    return here and process.isdecimal() and not runs(int(process), since)
