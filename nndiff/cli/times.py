"""Times as people and schedulers write them: 90s, 30m, 8h, 2d, 1h30m; 08:00:00, 1-00:00:00 (days); a number alone: 90.

A number alone means seconds. 08:00 is refused, because it means eight minutes to Slurm and eight hours to people.
"""

from __future__ import annotations

import argparse
import re

SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
WITH_UNITS = re.compile("".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit})?\s*" for unit in SECONDS))
OF_SLURM = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)|(\d+)-(\d+)(?::([0-5]?\d))?")
EXPECTED = "expected a time such as 90s, 30m, 8h, 2d, 1h30m, 08:00:00 or 1-00:00:00 (a number alone: seconds)"
HINT = "e.g. 90s, 8h, 2d, 08:00:00; a number alone: seconds"  # for the help of a flag


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as '8h' (28800); refuse other texts."""
    words = text.strip()
    seconds = _seconds(words)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{EXPECTED}; found {text}")
    return seconds


def _seconds(words: str) -> float:
    if re.fullmatch(r"\d+(?:\.\d+)?", words):
        return float(words)
    if match := OF_SLURM.fullmatch(words):
        days, hours, minutes, seconds = (float(n or 0) for n in match.groups()[:4])
        if match[5]:
            days, hours, minutes = (float(n or 0) for n in match.groups()[4:])
        return days * SECONDS["d"] + hours * SECONDS["h"] + minutes * SECONDS["m"] + seconds
    if match := WITH_UNITS.fullmatch(words):
        return sum(float(n or 0) * size for n, size in zip(match.groups(), SECONDS.values(), strict=True))
    return 0.0
