"""nndiff: list the commands in the order in which they are used, or run one: nndiff train is nndiff_train."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby

from nndiff.cli.commands import BY_WORD, PREFIX, ROWS
from nndiff.words.errors import nearest
from nndiff.words.telling import tell
from nndiff.words.version import VERSION

USAGE = "usage: nndiff [-h] [--version] COMMAND …"
NEWCOMER = """\
New here? Begin with these, in this order:
  nndiff doctor                  is this machine ready?
  nndiff demo                    minutes from simulated scans to figures
  nndiff plan_and_preprocess -h  your own data: documentation/getting-started.md
"""
FOOT = """\
nndiff COMMAND -h explains the flags of a command. Each command is a program of
its own, too: nndiff train is nndiff_train. Your shell completes words after
  eval "$(nndiff completion bash)"         or zsh; for fish:
  nndiff completion fish | source"""


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "-help", "--help"):
        print(listed())
        return 0
    first, rest = words[0], words[1:]
    if first in ("-version", "--version"):
        print(f"nndiff {VERSION}")
        return 0
    if first == "completion":
        from nndiff.cli import completion

        return completion.main(rest)
    row = BY_WORD.get(first.removeprefix(PREFIX))
    if row is None:
        what = "flag" if first.startswith("-") else "command"
        known = [*BY_WORD, "completion"]
        tell(f"nndiff: unknown {what} {first}: {nearest(first, known)}\nrun nndiff for a list")
        return 2
    return row.main()(rest)


def listed() -> str:
    """Return the list of all commands."""
    width = max(len(row.word) for row in ROWS)
    parts = [USAGE, "", NEWCOMER]
    for group, rows in groupby(ROWS, key=lambda row: row.group):
        parts += [group, *(f"  {row.word:<{width}}  {row.does}" for row in rows), ""]
    return "\n".join([*parts, FOOT])


if __name__ == "__main__":
    sys.exit(main())
