"""Tests of derived DICOM series: valid for another reader, with the values, position and patient in their places."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from nndiff.imaging import dicom, dicom_out
from nndiff.words.kind import KINDS, PET, Kind
from nndiff.words.volume import Grid
from tests.conftest import make_phantom
from tests.imaging.series import write_frames, write_series

SHAPE = (6, 8, 10)
GRID = Grid(SHAPE, (3.0, 1.5, 1.25), (-20.0, 31.5, 700.25))
WHAT = "bridge of Dataset001_Tiny"


@pytest.fixture(params=["CT", "PT", "frames"])
def source(request, tmp_path):
    """A series of any kind, its slices in no order."""
    array = make_phantom(0, SHAPE, "ct")
    if request.param == "frames":
        return write_frames(tmp_path / "source" / "f.dcm", array, GRID).parent
    write_series(tmp_path / "source", array if request.param == "CT" else 1e4 * np.abs(array), GRID, request.param)
    return tmp_path / "source"


@pytest.mark.parametrize("kind", ["ct", "pet", "mr"])
def test_it_comes_back_as_it_was_written(source, tmp_path, kind) -> None:
    array = make_phantom(5, SHAPE, kind, noise=0.2)
    dicom_out.write(array, KINDS[kind], WHAT, source, tmp_path / "made")
    found, grid = dicom.read(tmp_path / "made")
    assert grid.difference(dicom.read(source)[1]) is None
    np.testing.assert_allclose(grid.origin, GRID.origin, atol=1e-3)
    np.testing.assert_allclose(found, array, atol=0.5 if kind == "ct" else array.max() / 60000)


@pytest.mark.parametrize("kind", ["ct", "pet", "mr"])
def test_who_and_where_are_the_sources_and_all_else_is_new(source, tmp_path, kind) -> None:
    dicom_out.write(make_phantom(5, SHAPE, kind), KINDS[kind], WHAT, source, tmp_path / "made")
    theirs, slices = [pydicom.dcmread(path) for path in source.iterdir()], sorted((tmp_path / "made").iterdir())
    ours = [pydicom.dcmread(path) for path in slices]
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert {str(made[keyword].value) for made in ours} == {str(theirs[0][keyword].value)}
    assert len({made.SOPInstanceUID for made in ours}) == len(ours) == SHAPE[0]
    assert len({made.SeriesInstanceUID for made in ours}) == 1
    assert ours[0].SeriesInstanceUID != theirs[0].SeriesInstanceUID
    assert "SYNTHETIC" in ours[0].SeriesDescription
    assert ours[0].ImageType[0] == "DERIVED"
    assert WHAT in ours[0].DerivationDescription
    assert {made.SourceImageSequence[0].ReferencedSOPInstanceUID for made in ours} == {t.SOPInstanceUID for t in theirs}
    frames = [int(made.SourceImageSequence[0].get("ReferencedFrameNumber", 0)) for made in ours]
    assert sorted(frames) == (list(range(1, SHAPE[0] + 1)) if len(theirs) == 1 else [0] * SHAPE[0])
    assert not any(element.tag.is_private for made in ours for element in made)


@pytest.mark.parametrize("kind", ["ct", "pet", "mr"])
def test_every_value_is_valid_for_its_kind(source, tmp_path, kind, monkeypatch) -> None:
    dicom_out.write(make_phantom(5, SHAPE, kind), KINDS[kind], WHAT, source, tmp_path / "made")
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for path in (tmp_path / "made").iterdir():
        header = pydicom.dcmread(path)
        assert all(element.VR for element in header.iterall()), "each value is decoded, and checked"
        assert header.pixel_array.shape == SHAPE[1:]
    if (judge := shutil.which("dciodvfy")) is not None:
        said = subprocess.run([judge, next((tmp_path / "made").iterdir())], capture_output=True, text=True).stderr
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_a_series_that_cannot_be_written_leaves_nothing(source, tmp_path, monkeypatch) -> None:
    calls = []

    def full(self, *_, **__) -> None:  # type: ignore[no-untyped-def]
        calls.append(self)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(Exception, match="No space left"):
        dicom_out.write(make_phantom(5, SHAPE, "ct"), KINDS["ct"], WHAT, source, tmp_path / "out" / "made")
    assert list((tmp_path / "out").iterdir()) == []


def test_whole_numbers_keep_their_unit_and_a_true_zero_has_nothing_below(source, tmp_path) -> None:
    array = make_phantom(5, SHAPE, "ct", noise=0.2)
    found = {}
    for name in ("ct", "pet", "mr"):
        dicom_out.write(array, KINDS[name], WHAT, source, tmp_path / name)
        found[name] = dicom.read(tmp_path / name)[0]
    np.testing.assert_array_equal(found["ct"], np.rint(array))
    assert (found["pet"].min(), found["mr"].min() < -500) == (0, True)


def test_a_kind_without_a_class_of_its_own_is_a_secondary_capture(source, tmp_path) -> None:
    other = Kind("us", "dB", "absolute", PET.source, "as it is", PET.foreground)
    array = make_phantom(5, SHAPE, noise=0.2)
    dicom_out.write(array, other, WHAT, source, tmp_path / "made")
    header = pydicom.dcmread(next((tmp_path / "made").iterdir()))
    assert (header.Modality, header.SOPClassUID) == ("OT", pydicom.uid.SecondaryCaptureImageStorage)
    assert header.SeriesDescription == "SYNTHETIC OT (nndiff)"
    np.testing.assert_allclose(dicom.read(tmp_path / "made")[0], array, atol=array.max() / 60000)
