"""A problem of an installation, a machine or a folder, with its remedy, and texts without the names of people.

What `nndiff_doctor` prints goes into bug reports: the home folder is written as ~, that of another person as
~other, and a folder named after the login as $USER.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = r"(?<![\w.~-])", r"(?=[/\s:;,)'\"]|$)"  # of a path in a text, and of a folder's name
HOMES = re.compile(rf"{BEGIN}(?:/(?:home|Users)/[^/\s:;,)'\"]+|/root){END}")


@dataclass(frozen=True)
class Problem:
    """What is wrong, what to do, and whether work cannot go on before it is done."""

    what: str
    remedy: str
    stops: bool = False


def without_names(data: Any) -> Any:
    """Return the same data with ~ for the home folder and ~other for those of others, in texts at any depth."""
    if isinstance(data, str):
        return _impersonal(data)
    if isinstance(data, dict):
        return {_impersonal(str(key)): without_names(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [without_names(value) for value in data]
    return data


def _impersonal(text: str) -> str:
    try:
        home = str(Path.home())
    except RuntimeError:  # no home at all, as in some containers
        home = ""
    if len(home) > 1:
        text = re.sub(f"{BEGIN}{re.escape(home)}{END}", "~", text)
    text = HOMES.sub("~other", text)
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return re.sub(f"(?<=/){re.escape(user)}{END}", "$USER", text) if user else text
