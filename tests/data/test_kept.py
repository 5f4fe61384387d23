"""Laws of a kept fingerprint: it is used only for the very files that it was extracted from, and warns as they did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nndiff.data import kept
from nndiff.data.fingerprint import extract
from nndiff.data.kept import FILE, ORIGIN, keep, measured
from nndiff.words import dataset
from tests.conftest import make_raw_dataset


def flip(path: Path) -> None:
    """Change a file, but not its size."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "a scan was touched": lambda raw, kept: os.utime(next((raw / "imagesTr").iterdir()), ns=(5, 5)),
    "the description": lambda raw, kept: (raw / "dataset.json").write_text((raw / "dataset.json").read_text() + " "),
    "a case is gone": lambda raw, kept: [min((raw / side).iterdir()).unlink() for side in ("imagesTr", "targetsTr")],
    "the fingerprint was edited": lambda raw, kept: flip(kept / FILE),
    "the origin is damaged": lambda raw, kept: (kept / ORIGIN).write_text("{"),
    "the origin is older": lambda raw, kept: (kept / ORIGIN).write_text("{}"),
    "there is no origin": lambda raw, kept: (kept / ORIGIN).unlink(),
    "there is no fingerprint": lambda raw, kept: (kept / FILE).unlink(),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw_dataset(tmp_path, cases=3)


def test_it_is_what_was_extracted_with_its_warnings(raw: Path, tmp_path: Path) -> None:
    found = dataset.read(raw)
    first = measured(found, tmp_path / "kept", 0, True)
    assert not first.kept
    keep(tmp_path / "kept", first)
    again = measured(dataset.read(raw), tmp_path / "kept", 0, True)
    assert again.kept
    assert (again.fingerprint, again.warnings) == (first.fingerprint, first.warnings)
    assert not measured(found, tmp_path / "kept", 0, True, anew=True).kept
    assert not measured(found, tmp_path / "kept", 0, False).kept, "without verification there are no warnings"


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_it_is_extracted_again(raw: Path, tmp_path: Path, change: str) -> None:
    found = dataset.read(raw)
    keep(tmp_path / "kept", measured(found, tmp_path / "kept", 0, True))
    CHANGES[change](raw, tmp_path / "kept")
    assert not measured(dataset.read(raw), tmp_path / "kept", 0, True).kept


def test_the_origin_holds_no_path_but_that_of_a_warning(raw: Path, tmp_path: Path) -> None:
    found = dataset.read(raw)
    keep(tmp_path / "kept", measured(found, tmp_path / "kept", 0, True))
    assert set(json.loads((tmp_path / "kept" / ORIGIN).read_text())) == {"files", "fingerprint", "warnings", "versions"}


def test_a_file_that_changes_while_it_is_read_is_read_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extracted(*arguments: Any) -> Any:
        found = extract(*arguments)
        os.utime(min((raw / "imagesTr").iterdir()), ns=(5, 5))
        return found

    monkeypatch.setattr(kept, "extract", extracted)
    keep(tmp_path / "kept", measured(dataset.read(raw), tmp_path / "kept", 0, True))
    assert not measured(dataset.read(raw), tmp_path / "kept", 0, True).kept
