"""Format rows of text cells as aligned columns for a terminal: each column is as wide as its longest cell."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from nndiff.words.telling import width_of

INDENT = GAP = "  "


def text_table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Return one indented line per row, with cells aligned to the left. All rows have the same number of cells.

    A table wider than `width`, by default the terminal's if there is one, is cut into blocks of columns, one below the
    other, each with the first column.
    """
    width = width or width_of(sys.stdout)
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    blocks = [range(len(columns))] if width is None else list(_blocks(widths, width))
    return "\n\n".join(
        "\n".join(_line([row[i] for i in block], [widths[i] for i in block]) for row in rows) for block in blocks
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return INDENT + GAP.join(map(str.ljust, cells, widths)).rstrip()


def _blocks(widths: Sequence[int], width: int) -> Iterator[Sequence[int]]:
    """Yield the columns of each block: the first one, and as many others as fit, at least one."""
    block, used = [0], len(INDENT) + widths[0]
    for column, own in enumerate(widths[1:], start=1):
        if len(block) > 1 and used + len(GAP) + own > width:
            yield block
            block, used = [0], len(INDENT) + widths[0]
        block.append(column)
        used += len(GAP) + own
    yield block
