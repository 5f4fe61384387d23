"""Tests of the converter T1 → FLAIR or T2: files stay in place, and the scans of a patient form a group."""

from __future__ import annotations

import pytest

from dataset_conversion.ljubljana_mri import main
from nndiff.data.integrity import examine
from nndiff.words import dataset

SCANS = ("patient01_s1", "patient01_s2", "patient04_s1")


@pytest.fixture
def scans(tmp_path, save, phantom):
    for index, scan in enumerate(SCANS):
        for offset, sequence in enumerate(("T1", "T2", "FLAIR")):
            array = phantom(10 * index + offset, kind="mr", noise=0.1)
            save(tmp_path / "in" / f"{scan}_{sequence}.nii.gz", array, (3.0, 1.44, 1.44))
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("flags", "name", "target"),
    [((), "Dataset920_T1toFLAIR", "FLAIR"), (("--target", "T2"), "Dataset921_T1toT2", "T2")],
)
def test_the_dataset_is_read_and_found_sound(scans, tmp_path, run_cli, monkeypatch, flags, name, target) -> None:
    monkeypatch.chdir(tmp_path)  # whatever folder it was called from, whole paths are written
    code, out, _ = run_cli(main, "-i", "in", "--raw", tmp_path / "raw", *flags)
    assert code == 0
    assert f"Wrote {tmp_path / 'raw' / name}: 3 cases of 2 patients" in out
    monkeypatch.chdir("/")
    read = dataset.read(tmp_path / "raw" / name)
    assert read.findings == ()
    assert [case.name for case in read.cases] == list(SCANS)
    for case in read.cases:
        assert examine(case, read).findings == ()
        assert case.source == (scans / f"{case.name}_T1.nii.gz",)
        assert case.target == (scans / f"{case.name}_{target}.nii.gz",)


def test_scans_of_one_patient_are_a_group(scans, tmp_path, run_cli) -> None:
    run_cli(main, "-i", scans, "--raw", tmp_path / "raw")
    read = dataset.read(tmp_path / "raw" / "Dataset920_T1toFLAIR")
    assert [case.group for case in read.cases] == ["patient01", "patient01", "patient04"]


def test_what_is_missing_is_said(scans, tmp_path, run_cli) -> None:
    (scans / "patient04_s1_FLAIR.nii.gz").unlink()
    code, out, _ = run_cli(main, "-i", scans, "--raw", tmp_path / "raw")
    assert code == 0
    assert "left out: patient04_s1: no FLAIR" in out
    code, _, err = run_cli(main, "-i", tmp_path, "--raw", tmp_path / "other")
    assert code == 1
    assert "No file matches the patterns" in err
    assert not (tmp_path / "other").exists()
