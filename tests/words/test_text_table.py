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


def test_a_row_that_lacks_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        text_table([["a", "b"], ["c"]])
