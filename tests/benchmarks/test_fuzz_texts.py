"""Damaged files of nndiff's own end in words (`python -m benchmarks.fuzz_texts` has more)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks import fuzz_texts
from benchmarks.fuzz import GOOD, WORDS

FILES = 20  # of each kind


def test_nothing_damaged_hangs_crashes_misleads_or_ends_without_words(tmp_path: Path) -> None:
    whole, kinds = fuzz_texts.sound(tmp_path / "sound"), Counter[tuple[str, str]]()
    for name, path, outcome in fuzz_texts.tried(whole, FILES * len(fuzz_texts.READINGS), 11, tmp_path):
        assert outcome.kind not in fuzz_texts.BAD, (path, outcome)
        kinds[name, outcome.kind] += 1
    assert min(kinds[name, WORDS] for name in fuzz_texts.READINGS) > FILES / 4, "every file is also damaged beyond use"
    assert any(kinds[name, GOOD] for name in fuzz_texts.READINGS)
