"""Tests of reading DICOM: a series gives the volume that it was made from; what is not a volume is refused."""

from __future__ import annotations

import re
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000, RLELossless

from nndiff.imaging import dicom, io
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Grid
from tests.conftest import make_phantom
from tests.imaging.series import DOSE, HALF_LIFE, WAITED, WEIGHT, write_frames, write_series

SHAPE = (6, 8, 10)
UPRIGHT = Grid(SHAPE, (3.0, 1.5, 1.25), (-20.0, 31.5, 700.25))
ANGLE = np.radians(20)
OBLIQUE = replace(
    UPRIGHT,
    direction=tuple(
        np.array([[0, 0, 1], [np.sin(ANGLE), np.cos(ANGLE), 0], [np.cos(ANGLE), -np.sin(ANGLE), 0]])[[2, 1, 0]][
            ::-1
        ].ravel()
    ),
)


def body(kind: str = "ct") -> np.ndarray:
    return make_phantom(3, SHAPE, kind, noise=0.2)


def zipped(folder: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in folder.iterdir():
            archive.write(file, f"exam/{file.name}")
    return path


def as_nifti(path: Path, array: np.ndarray, grid: Grid):  # type: ignore[no-untyped-def]
    """The same volume by the reader of files that the rest of nndiff is tested with."""
    from nndiff.words.volume import Layout, Volume

    layout = Layout((0, 1, 2), (False, False, False), grid)
    io.write(Volume(array[None].astype(np.float32), grid, layout), path)
    return io.read([path])


@pytest.mark.parametrize("grid", [UPRIGHT, OBLIQUE], ids=["upright", "oblique"])
def test_a_ct_is_where_and_what_it_was(tmp_path, grid) -> None:
    array = np.round(body())
    write_series(tmp_path / "ct", array, grid)
    truth = as_nifti(tmp_path / "truth.mha", array, grid)
    for path in (tmp_path / "ct", zipped(tmp_path / "ct")):
        found = io.read([path])
        assert truth.grid.difference(found.grid) is None
        np.testing.assert_allclose(found.grid.origin, truth.grid.origin, atol=1e-3)
        np.testing.assert_allclose(found.grid.spacing, truth.grid.spacing, atol=1e-3)
        np.testing.assert_array_equal(found.array, truth.array)
        header = io.read_header(path)
        assert (header.shape, header.layout) == (SHAPE, io.read_header(tmp_path / "truth.mha").layout)


def test_files_and_folders_beside_the_slices_do_not_count(tmp_path) -> None:
    (tmp_path / "ct" / "AA").mkdir(parents=True)
    (tmp_path / "ct" / "AB.txt").write_text("notes " * 100)
    assert not dicom.holds_dicom(tmp_path / "ct")
    write_series(tmp_path / "ct", body(), UPRIGHT)
    assert dicom.holds_dicom(tmp_path / "ct")
    assert dicom.modality(tmp_path / "ct") == "CT"


def test_a_pet_is_in_suv_whatever_the_slope_of_its_slices(tmp_path) -> None:
    suv = body("pet")
    activity = suv * DOSE * 2 ** (-WAITED / HALF_LIFE) / (1000 * WEIGHT)
    write_series(tmp_path / "pet", activity, UPRIGHT, "PT")
    slopes = {str(pydicom.dcmread(path).RescaleSlope) for path in (tmp_path / "pet").iterdir()}
    assert len(slopes) == SHAPE[0]
    found = io.read([tmp_path / "pet"]).array[0]
    np.testing.assert_allclose(found, as_nifti(tmp_path / "suv.mha", suv, UPRIGHT).array[0], atol=1e-3 * suv.max())
    write_series(tmp_path / "admin", activity, UPRIGHT, "PT", DecayCorrection="ADMIN")
    np.testing.assert_allclose(io.read([tmp_path / "admin"]).array[0], found * 2 ** (-WAITED / HALF_LIFE), rtol=1e-4)
    write_series(tmp_path / "suv", suv, UPRIGHT, "PT", Units="GML")
    np.testing.assert_allclose(io.read([tmp_path / "suv"]).array[0], found, atol=1e-3 * suv.max())


@pytest.mark.parametrize(
    ("words", "waited"),
    [
        ({"RadiopharmaceuticalStartDateTime": "20240229093000.5"}, WAITED),
        ({"RadiopharmaceuticalStartDateTime": "20240229093000.5+0100"}, WAITED),
        ({"SeriesTime": "180000"}, WAITED),  # a reconstruction made in the evening
        ({"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "003000", "AcquisitionTime": "003000"}, 3600.0),
    ],
    ids=["whole date", "with a zone", "post-processed", "over midnight"],
)
def test_decay_runs_from_the_injection_to_the_scan(tmp_path, words, waited) -> None:
    activity = body("pet") * 1e4
    write_series(tmp_path / "pet", activity, UPRIGHT, "PT", **words)
    factor = 1000 * WEIGHT / (DOSE * 2 ** (-waited / HALF_LIFE))
    assert io.read([tmp_path / "pet"]).array.max() == pytest.approx(activity.max() * factor, rel=1e-3)


def test_many_frames_in_a_file_are_a_volume(tmp_path) -> None:
    array = np.stack([np.round(plane / (k + 1)) * (k + 1) for k, plane in enumerate(body() + 1000)]) - 1000
    write_frames(tmp_path / "ct" / "enhanced.dcm", array, OBLIQUE)
    truth, found = as_nifti(tmp_path / "truth.mha", array, OBLIQUE), io.read([tmp_path / "ct"])
    assert truth.grid.difference(found.grid) is None
    np.testing.assert_allclose(found.array, truth.array, atol=1e-3)


def test_compressed_slices_are_decoded(tmp_path) -> None:
    array = np.round(body())
    paths = write_series(tmp_path / "ct", array, UPRIGHT)
    plain = io.read([tmp_path / "ct"]).array
    for path in paths:
        header = pydicom.dcmread(path)
        header.compress(RLELossless)
        header.save_as(path)
    np.testing.assert_array_equal(io.read([tmp_path / "ct"]).array, plain)
    for path in paths:
        header = pydicom.dcmread(path)
        header.file_meta.TransferSyntaxUID = JPEG2000
        header.save_as(path)
    with pytest.raises(NndiffError, match="cannot be decoded"):
        io.read([tmp_path / "ct"])


# ---------------------------------------------------------------- what is no volume


def shifted(k: int, by: tuple[float, float, float]) -> list[str]:
    return [f"{value + k * d:.10g}" for value, d in zip(UPRIGHT.position((k, 0, 0)), by, strict=True)]


def place(z: float) -> list[str]:
    x, y, _ = UPRIGHT.origin
    return [str(x), str(y), f"{z:.10g}"]


@pytest.mark.parametrize(
    ("modality", "words", "found"),
    [
        ("CT", {"ImagePositionPatient": lambda k: shifted(k, (0, 0.4, 0))}, r"gantry was tilted.*7\.6 degrees"),
        ("CT", {"ImagePositionPatient": lambda k: place(3 * k + 3 * (k > 3))}, "A slice is missing"),
        ("CT", {"ImagePositionPatient": lambda k: place(3 * k + (k > 3))}, "unevenly spaced"),
        ("CT", {"ImagePositionPatient": lambda k: place(3 * (k // 2))}, "Two slices have the same position"),
        ("CT", {"ImageOrientationPatient": lambda k: ["1", "0", "0", "0", *("01" if k == 2 else "10")]}, "orientation"),
        ("CT", {"PixelSpacing": lambda k: ["1.5", str(1.25 + (k == 4))]}, "pixel size"),
        (
            "CT",
            {"SeriesInstanceUID": lambda k: f"1.2.{k % 2}", "SeriesDescription": lambda k: "ab"[k % 2]},
            "2: CT 'a'",
        ),
        ("CT", {"ImagePositionPatient": None}, "does not state where it is"),
        ("CT", {"PixelSpacing": ["2.0"]}, "PixelSpacing with 2 numbers"),
        ("CT", {"PixelSpacing": ["2.0", "nan"]}, "PixelSpacing with 2 numbers"),
        ("CT", {"RescaleSlope": "nan"}, "RescaleSlope with 1 number"),
        ("CT", {"RescaleIntercept": "inf"}, "RescaleIntercept with 1 number"),
        ("CT", {"Columns": None}, "Rows and Columns"),
        ("CT", {"Rows": [4, 4]}, "Rows and Columns"),
        ("PT", {"PatientWeight": None}, "no valid PatientWeight"),
        ("PT", {"PatientWeight": "0"}, "no valid PatientWeight"),
        ("PT", {"RadionuclideTotalDose": None}, "no valid RadionuclideTotalDose"),
        ("PT", {"RadiopharmaceuticalStartTime": None}, "time of injection"),
        ("PT", {"Units": "CNTS"}, "neither Bq/ml nor SUV"),
        ("PT", {"DecayCorrection": "NONE"}, "not corrected for radioactive decay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_what_is_no_volume_is_refused(tmp_path, modality, words, found) -> None:
    write_series(tmp_path / "series", body("pet") * 1e4 if modality == "PT" else body(), UPRIGHT, modality, **words)
    with pytest.raises(NndiffError) as error:
        io.read([tmp_path / "series"])
    assert re.search(found, str(error.value), re.DOTALL), str(error.value)
    assert str(tmp_path / "series") in str(error.value)
    assert error.value.remedy


def turned(by: float) -> list[str]:
    """The direction of rows, then that of columns turned towards the normal, which stays at a right angle to rows."""
    return ["1", "0", "0", "0", f"{np.cos(by):.10g}", f"{np.sin(by):.10g}"]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", lambda k, by: place(3 * (k + 10 * by * (k > 3)))),
        ("ImagePositionPatient", lambda k, by: place(3 * (k - 10 * by * (k > 3)))),
        ("ImagePositionPatient", lambda k, by: shifted(k, (0, 3 * by, 0))),
        ("ImageOrientationPatient", lambda k, by: turned(by * (k == 2))),
        ("ImageOrientationPatient", lambda k, by: ["1", "0", "0", f"{by:.10g}", "1", "0"]),
        ("PixelSpacing", lambda k, by: ["1.5", f"{1.25 * (1 + by * (k == 4)):.10g}"]),
    ],
    ids=["gap", "overlap", "tilt", "turned", "angle", "pixels"],
)
def test_rounding_is_tolerated_and_what_is_more_is_not(tmp_path, keyword, value) -> None:
    """Distances may differ by 1%; tilt, direction, right angles and pixel sizes by a thousandth."""
    write_series(tmp_path / "rounded", body(), UPRIGHT, **{keyword: lambda k: value(k, 0.0008)})
    assert io.read([tmp_path / "rounded"]).grid.shape == SHAPE
    write_series(tmp_path / "wrong", body(), UPRIGHT, **{keyword: lambda k: value(k, 0.0013)})
    with pytest.raises(NndiffError):
        io.read([tmp_path / "wrong"])


@pytest.mark.parametrize(("missing", "words"), [(1, "A slice is missing"), (2, "At least 2 slices are missing")])
def test_a_gap_says_how_many_slices_are_missing(tmp_path, missing, words) -> None:
    write_series(tmp_path / "ct", body(), UPRIGHT, ImagePositionPatient=lambda k: place(3 * (k + missing * (k > 3))))
    with pytest.raises(NndiffError, match=f"(?s){words}.*expected {SHAPE[0] + missing} slices") as error:
        io.read([tmp_path / "ct"])
    assert "a gap of" in str(error.value)


def test_pixels_have_a_size(tmp_path) -> None:
    write_series(tmp_path / "ct", body(), UPRIGHT, PixelSpacing=["0", "1.25"])
    with pytest.raises(NndiffError, match="pixel size of a slice is invalid"):
        io.read([tmp_path / "ct"])


@pytest.mark.parametrize(
    ("words", "found"),
    [({"SamplesPerPixel": 3}, "a colour image"), ({"NumberOfFrames": "2"}, "positions of its frames")],
    ids=["colour", "frames"],
)
def test_what_is_no_plane_of_values_is_refused(tmp_path, words, found) -> None:
    write_series(tmp_path / "ct", body(), UPRIGHT, **words)
    with pytest.raises(NndiffError, match=found):
        io.read([tmp_path / "ct"])


def test_a_frame_has_what_all_share_unless_it_has_its_own(tmp_path) -> None:
    array = np.stack([np.round(plane / (k + 1)) * (k + 1) for k, plane in enumerate(body() + 1000)]) - 1000
    file = write_frames(tmp_path / "ct" / "enhanced.dcm", array, OBLIQUE)
    own = io.read([tmp_path / "ct"])
    header = pydicom.dcmread(file)
    shared = pydicom.Dataset()
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        setattr(shared, name, header.PerFrameFunctionalGroupsSequence[0][name].value)
        for frame in header.PerFrameFunctionalGroupsSequence:
            del frame[name]
    decoy = pydicom.Dataset()
    decoy.RescaleSlope, decoy.RescaleIntercept = "77", "7"
    shared.PixelValueTransformationSequence = pydicom.Sequence([decoy])
    header.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    header.save_as(file)
    found = io.read([tmp_path / "ct"])
    assert found.grid == own.grid
    np.testing.assert_array_equal(found.array, own.array)


def test_what_holds_no_image_is_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NndiffError, match="no DICOM file"):
        io.read([tmp_path / "empty"])
    paths = write_series(tmp_path / "one", body(), UPRIGHT)
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(NndiffError, match="A volume needs at least two slices"):
        io.read([tmp_path / "one"])
    paths[0].write_bytes(paths[0].read_bytes()[:400])
    with pytest.raises(NndiffError):
        io.read([tmp_path / "one"])


@pytest.mark.parametrize("trick", ["above", "absolute", "link", "bomb", "damaged", "encrypted flag"])
def test_an_archive_is_not_trusted(tmp_path, trick) -> None:
    path, outside = tmp_path / "x.zip", tmp_path / "outside"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        name = {"above": "../outside", "absolute": str(outside)}.get(trick, "a.dcm")
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        if trick == "link":
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, b"\0" * (10**7 if trick == "bomb" else 10))
    data = path.read_bytes()
    if trick == "damaged":
        path.write_bytes(data[: len(data) // 2])
    if trick == "encrypted flag":
        at = data.index(b"PK\x01\x02") + 8
        path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    with pytest.raises(NndiffError, match=r"x\.zip (cannot be unpacked|is a zip file that nndiff does not unpack)"):
        io.read([path])
    assert not outside.exists()


@pytest.mark.parametrize(("zeros", "unpacked"), [(100, True), (400, False)])
def test_an_archive_may_be_packed_tightly_but_not_absurdly(tmp_path, zeros, unpacked) -> None:
    """A member of 2 kB of noise and so many times as many zeros; images are compressed two to twenty times."""
    noise = np.random.default_rng(0).bytes(2000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", noise + b"\0" * (zeros * len(noise)))
    with pytest.raises(NndiffError, match="no DICOM image" if unpacked else "does not unpack"):
        io.read([tmp_path / "x.zip"])


@pytest.mark.parametrize(("gigabytes", "words"), [(15, "cannot be unpacked"), (17, "bytes when unpacked")])
def test_an_archive_that_states_more_than_16_gb_is_not_begun(tmp_path, gigabytes, words) -> None:
    """Half of it in each of two members, whose true content is a few bytes."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in "ab":
            archive.writestr(name, b"few")
        for member in archive.filelist:
            member.file_size, member.compress_size = gigabytes * 10**9 // 2, 10**9
    with pytest.raises(NndiffError, match=words):
        io.read([tmp_path / "x.zip"])


def test_voxels_of_a_size_that_no_scanner_has_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "metres", body(), replace(UPRIGHT, spacing=(0.003, 0.0015, 0.00125)))
    with pytest.raises(NndiffError, match=r"0.01 to 100 mm(.|\n)*metres"):
        io.read([tmp_path / "metres"])
