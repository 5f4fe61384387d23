"""Names of cases. Files are named after them, and they stand in tables, logs and command lines."""

from __future__ import annotations

import unicodedata

LONGEST = 200  # bytes; a file name has 255, with channel and ending
SEPARATORS = ("Zl", "Zp")


def unfit(name: str) -> str:
    """Return why a text cannot be the name of a case, or an empty text if it can."""
    if not name:
        return "it is empty"
    if name[0] in ".-":
        return f"it starts with '{name[0]}'"
    if "/" in name or "\\" in name:
        return "it contains a slash or backslash"
    if name != name.strip():
        return "it starts or ends with a blank"
    hidden = next((c for c in name if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in SEPARATORS), None)
    if hidden is not None:
        return f"it contains a character that nobody sees (U+{ord(hidden):04X})"
    if len(name.encode()) > LONGEST:
        return f"it is longer than {LONGEST} bytes"
    return ""


def shown(name: str) -> str:
    """Return a text as it can be printed, whatever it contains."""
    return name if name.isprintable() else ascii(name)
