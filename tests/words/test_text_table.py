"""Tests of text tables: columns are as wide as their longest cells, and no line ends in spaces."""

from __future__ import annotations

import pytest

from nndiff.words.text_table import text_table


def test_columns_are_aligned_to_the_left_below_their_heads() -> None:
    rows = [["", "PSNR dB", "SSIM"], ["prediction", "30.1", "0.9"], ["input", "7", ""]]
    assert text_table(rows).split("\n") == [
        "              PSNR dB  SSIM",
        "  prediction  30.1     0.9",
        "  input       7",
    ]


def test_a_table_wider_than_the_terminal_is_cut_into_blocks_of_columns() -> None:
    """Every cell is shown once, but for the first column, which names the rows of each block."""
    rows = [["", *(f"column {i}" for i in range(9))], *([f"row {r}", *(f"{r}.{i}" for i in range(9))] for r in (1, 2))]
    table = text_table(rows, 40)
    assert max(map(len, table.split("\n"))) <= 40
    blocks = [block.split("\n") for block in table.split("\n\n")]
    assert len(blocks) == 3
    assert all(block[1].startswith("  row 1") and len(block) == 3 for block in blocks)
    assert [word for block in blocks for word in block[2].split()[2:]] == [f"2.{i}" for i in range(9)]
    assert text_table(rows, 1000) == text_table(rows)
    assert [len(line.split()) for line in text_table(rows, 1).split("\n") if "row 1" in line] == [3] * 9


def test_a_row_that_lacks_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        text_table([["a", "b"], ["c"]])
