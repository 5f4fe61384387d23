"""Tests of DICOM input: a case is a series in a folder or a zip file, or the input folder itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nndiff.prediction.inputs import find
from nndiff.words.volume import Grid
from tests.conftest import make_phantom
from tests.imaging.series import write_series
from tests.training.tiny import tiny_plan

SHAPE = (6, 8, 10)
GRID = Grid(SHAPE, (3.0, 1.5, 1.25), (0.0, 0.0, 0.0))
PET = tiny_plan().source_channels
TWO = tiny_plan(sources=("PET", "CT")).source_channels


def series(folder: Path, seed: int = 0) -> Path:
    write_series(folder, make_phantom(seed, SHAPE, "pet") * 1e4, GRID, "PT")
    return folder


def test_folders_and_archives_are_cases_among_files(tmp_path, save, phantom) -> None:
    series(tmp_path / "in" / "anna")
    series(tmp_path / "in" / "bert_0000" / "scans" / "1")
    with zipfile.ZipFile(tmp_path / "in" / "carl.ZIP", "w") as archive:
        for file in series(tmp_path / "carl").iterdir():
            archive.write(file, file.name)
    save(tmp_path / "in" / "dora_0000.nii.gz", phantom())
    (tmp_path / "in" / "notes").mkdir()
    found = find(tmp_path / "in", PET)
    assert [case.name for case in found.cases] == ["anna", "bert", "carl", "dora"]
    assert [case.ending for case in found.cases] == [".nii.gz"] * 4
    assert found.ignored == ("notes",)
    assert found.failures == {}


def test_a_folder_that_is_a_series_is_a_case(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(series(tmp_path / "anna"))
    (case,) = find(Path("."), PET).cases
    assert case.name == "anna"


def test_a_model_of_two_channels_wants_both(tmp_path) -> None:
    series(tmp_path / "in" / "anna_0000")
    series(tmp_path / "in" / "anna_0001")
    series(tmp_path / "in" / "bert")
    found = find(tmp_path / "in", TWO)
    assert [case.name for case in found.cases] == ["anna"]
    assert "has no channel number" in found.failures["bert"]
    assert "has no channel number" in find(tmp_path / "in" / "bert", TWO).failures["bert"]
