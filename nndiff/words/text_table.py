"""Format rows of text cells as aligned columns for a terminal: each column is as wide as its longest cell."""

from __future__ import annotations

from collections.abc import Sequence

INDENT = GAP = "  "


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return one indented line per row, with cells aligned to the left. All rows have the same number of cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(INDENT + GAP.join(map(str.ljust, row, widths)).rstrip() for row in rows)
