"""Names of cases. Files are named after them, and they stand in tables, logs and command lines."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

LONGEST = 200  # bytes; a file name has 255, with channel and ending
SEPARATORS = ("Zl", "Zp")
VISIT = re.compile(r"[_\-. ](s|ses|session|v|visit|scan|t|tp|time)[_\-]?\d+$", re.IGNORECASE)  # how a name ends


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


def of_one_patient(names: Iterable[str]) -> list[str]:
    """Return the first names that seem to be several visits of one patient, such as anna_s1 and anna_s2.

    Names that are alike altogether say nothing: pet_scan1, pet_scan2 and so on are a numbering.
    """
    visits = defaultdict[str, list[str]](list)
    for name in sorted(names):
        visits[VISIT.sub("", name)].append(name)
    several = [found for found in visits.values() if len(found) > 1]
    return several[0] if several and len(visits) > 1 else []
