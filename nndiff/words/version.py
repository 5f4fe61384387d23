"""The version of nndiff, and what else a file says about the software that made it."""

from __future__ import annotations

import platform
from importlib import metadata

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    return {"nndiff": VERSION, "torch": metadata.version("torch"), "python": platform.python_version()}
