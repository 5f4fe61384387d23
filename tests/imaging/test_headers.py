"""Laws of reading a stranger's file: sound ones of every kind are read, and damage of any kind ends in words."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks import fuzz
from nndiff.imaging import io
from nndiff.words.errors import NndiffError
from tests.imaging.test_io import patched

ARRAY = np.random.default_rng(0).normal(100, 20, (6, 7, 9)).astype(np.float32)
QFORM, SFORM, SIZES, QUATERNION, ROWS = 252, 254, 80, 256, 280  # bytes of a NIfTI header


def image(path: Path, packed: bool = False) -> Path:
    """An image that is turned, with voxels of three sizes."""
    made = sitk.GetImageFromArray(ARRAY)
    made.SetSpacing((1.5, 2.0, 3.0))
    made.SetOrigin((-10.5, 20.25, 30.0))
    turned = sitk.Euler3DTransform()
    turned.SetRotation(0.1, 0.2, 0.3)
    made.SetDirection(turned.GetMatrix())
    sitk.WriteImage(made, str(path), packed)
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(NndiffError) as caught:
        io.read([path])
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def test_nothing_damaged_hangs_crashes_misleads_or_ends_without_words(tmp_path: Path) -> None:
    """A thousand damaged images of eight formats (`python -m benchmarks.fuzz` has more)."""
    kinds = dict.fromkeys(fuzz.NAMES, 0)
    for name, path, outcome in fuzz.tried(1000, 11, tmp_path):
        assert outcome.kind not in fuzz.BAD, (path, outcome)
        kinds[name] += outcome.kind == fuzz.WORDS
    assert min(kinds.values()) > 30, "every format is also damaged beyond use"


# ---------------------------------------------------------------- what is right is read


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (4, 4)])
def test_a_nifti_with_one_form_or_two_that_agree(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = image(tmp_path / "a.nii")
    whole = io.read([path])
    found = io.read([patched(path, ("<h", QFORM, codes[0]), ("<h", SFORM, codes[1]))])
    assert not whole.grid.difference(found.grid)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_format_and_type_is_read(tmp_path: Path, name: str, packed: bool, dtype: str) -> None:
    array = np.rint(ARRAY).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name), packed)
    found = io.read([tmp_path / name])
    assert np.array_equal(io.as_stored(found.array[0], found.layout), array)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
def test_nrrd_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    array = np.rint(ARRAY).astype("<i2")
    text = " ".join(map(str, array.reshape(-1))).encode()
    packed = {"raw": array.tobytes(), "gzip": gzip.compress(array.tobytes()), "ascii": text}[encoding]
    head = f"NRRD0004\n# by hand\ntype: short\ndimension: 3\nsizes: 9 7 6\nspacings: 1 2 3\nencoding: {encoding}\n"
    path = tmp_path / "a.nrrd"
    path.write_bytes(f"{head}endian: little\nkey:=value: 1\n\n".encode() + packed)
    found = io.read([path])
    assert found.grid.spacing == (3.0, 2.0, 1.0)
    assert np.array_equal(io.as_stored(found.array[0], found.layout), array)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what cannot be true is refused


@pytest.mark.parametrize("number", ["999999999999", "-1", "0", "8", "1e3", "", "3 3", "nan", "9" * 40])
def test_a_number_of_axes_that_is_none(tmp_path: Path, number: str) -> None:
    path = image(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", f"NDims = {number}".encode()))
    refused(path)
    path = image(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"dimension: 3", f"dimension: {number}".encode()))
    refused(path)


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_position_that_is_no_number(tmp_path: Path, place: int, number: float) -> None:
    refused(patched(image(tmp_path / "a.nii"), ("<f", ROWS + 4 * place, number)), "finite numbers (sform)")
    if place < 6:
        refused(patched(image(tmp_path / "b.nii"), ("<f", QUATERNION + 4 * place, number)), "finite numbers (qform)")


def test_two_positions_that_differ(tmp_path: Path) -> None:
    for place in range(12):
        path = image(tmp_path / "a.nii")
        (value,) = np.frombuffer(path.read_bytes(), "<f4", 1, ROWS + 4 * place)
        refused(patched(path, ("<f", ROWS + 4 * place, float(value) + 0.3)))
    refused(patched(image(tmp_path / "b.nii"), ("<f", QUATERNION + 12, 5.0)), "mm apart (qform and sform)")
    refused(patched(image(tmp_path / "c.nii"), ("<f", SIZES, 2.0)), "(pixdim)", "(sform)")
    refused(patched(image(tmp_path / "d.nii"), ("<12f", ROWS, (0.0,) * 12)), "three directions")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "z.mha", "a.nrrd", "z.nrrd"])
def test_a_small_file_that_claims_a_large_volume(tmp_path: Path, name: str) -> None:
    """Before anything of that size is allocated."""
    path = image(tmp_path / name, packed=name[0] == "z")
    if ".nii" in name:
        plain = patched(image(tmp_path / "plain.nii"), ("<8h", 40, (3, 1200, 1200, 1200, 1, 1, 1, 1)))
        path.write_bytes(plain.read_bytes() if name == "a.nii" else gzip.compress(plain.read_bytes()))
    else:
        path.write_bytes(path.read_bytes().replace(b"9 7 6", b"1200 1200 1200"))
    refused(path, "6912000", "bytes")


@pytest.mark.parametrize("name", ["z.mha", "a.mha", "a.nrrd", "z.nrrd"])
@pytest.mark.parametrize("shape", [b"9 7 12", b"9 7 5"])
def test_more_or_fewer_slices_than_there_are(tmp_path: Path, name: str, shape: bytes) -> None:
    path = image(tmp_path / name, packed=name[0] == "z")
    path.write_bytes(path.read_bytes().replace(b"9 7 6", shape))
    refused(path, "bytes")


@pytest.mark.parametrize("planes", [5, 12])
def test_a_nifti_with_more_or_fewer_planes_than_it_has(tmp_path: Path, planes: int) -> None:
    refused(patched(image(tmp_path / "a.nii"), ("<h", 46, planes)), "bytes")


@pytest.mark.parametrize("name", ["z.mha", "z.nrrd", "a.nii.gz"])
def test_any_flipped_bit_of_packed_voxels_is_noticed(tmp_path: Path, name: str) -> None:
    path = image(tmp_path / name, packed=True)
    whole = path.read_bytes()
    for place in range(len(whole) - 700, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        refused(path)


def test_packed_voxels_that_another_library_would_take_for_whole(tmp_path: Path) -> None:
    """A stream that ends early, and one with its length misstated."""
    path = image(tmp_path / "z.mha", packed=True)
    head, _, packed = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    short = zlib.compress(zlib.decompress(packed)[:-4])
    fields = head.replace(f"CompressedDataSize = {len(packed)}".encode(), f"CompressedDataSize = {len(short)}".encode())
    path.write_bytes(fields + b"ElementDataFile = LOCAL\n" + short)
    refused(path, "1512 bytes of voxels", "1508 bytes")
    cut = head.replace(
        f"CompressedDataSize = {len(packed)}".encode(), f"CompressedDataSize = {len(packed) - 3}".encode()
    )
    path.write_bytes(cut + b"ElementDataFile = LOCAL\n" + packed[:-3])
    refused(path, "packed to the end")
    for wrong in (b"CompressedDatASize = ", b"CompressedDataSize = 1"):
        changed = head.replace(b"CompressedDataSize = ", wrong)
        path.write_bytes(changed + b"ElementDataFile = LOCAL\n" + packed)
        refused(path, "CompressedDataSize")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("<2h", 70, (16, 64)), "a data type"),
        (("<2h", 70, (3, 32)), "a data type"),
        (("<f", 108, float("nan")), "voxels after the header"),
        (("<f", 108, 0.0), "voxels after the header"),
        (("<f", 108, 352.5), "voxels after the header"),
        (("<f", 108, 1e9), "voxels after the header"),
        (("<f", 76, 0.5), "pixdim[0]"),
        (("<3f", QUATERNION, (1.0, 1.0, 0.0)), "a rotation"),
        (("<h", 40, 0), "1 to 7 axes"),
        (("<h", 40, 9), "1 to 7 axes"),
        (("<h", 44, 0), "1 voxel or more"),
        (("<4s", 344, b"ni1\0"), "the letters n+1"),
        (("<i", 0, 349), "begins with 348"),
    ],
)
def test_a_nifti_field_that_cannot_be(tmp_path: Path, change: tuple[str, int, object], words: str) -> None:
    refused(patched(image(tmp_path / "a.nii"), change), words)


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("a.mha", "NDims = 3", "NDims = 3\nNDims = 3", "every field once"),
        ("a.nrrd", "dimension: 3", "dimension: 3\ndimension: 3", "every field once"),
        ("a.nrrd", "dimension: 3", "dimension: 3\nline skip: 1", "right after the header"),
        ("a.nrrd", "dimension: 3", "dimension: 3\nbyte skip: -2", "right after the header"),
        ("a.nrrd", "type: float", "type: block", "a type of voxels"),
        ("a.nrrd", "encoding: raw", "encoding: rar", "raw, gzip or ascii"),
        ("a.nrrd", "NRRD0", "NRRDX", "the first line"),
        ("a.mha", "MET_FLOAT", "MET_STRING", "a type of voxels"),
        ("a.mha", "Offset = -10.5", "Offset = 1 -10.5", "3 numbers (Offset)"),
        ("a.mha", "Offset = -10.5", "Offset = 1e999", "finite numbers (Offset)"),
        ("a.mha", "ElementType", "ElementNumberOfChannels = 0\nElementType", "1 value or more"),
        ("a.mha", "ElementDataFile", "ElementData", "expected text"),
        ("a.mha", "LOCAL", "voxels.raw", "no such file"),
    ],
)
def test_a_field_of_text_that_cannot_be(tmp_path: Path, name: str, before: str, after: str, words: str) -> None:
    path = image(tmp_path / name)
    whole = path.read_bytes()
    assert before.encode() in whole
    path.write_bytes(whole.replace(before.encode(), after.encode(), 1))
    refused(path, words)


def test_an_improper_rotation_has_two_forms_that_agree(tmp_path: Path) -> None:
    """Its third axis is reversed, which a qform states apart from its rotation."""
    made = sitk.GetImageFromArray(ARRAY)
    made.SetDirection((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    sitk.WriteImage(made, str(tmp_path / "a.nii"))
    found = io.read([tmp_path / "a.nii"])
    assert np.array_equal(found.array[0], ARRAY[::-1]), "the axis to the head is turned back"


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "a%03d.raw", "LIST"])
def test_voxels_elsewhere_are_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.mhd"
    path.write_text(f"NDims = 3\nDimSize = 1 1 1\nElementType = MET_UCHAR\nElementDataFile = {name}\n")
    refused(path, "one file beside it")


def test_a_second_version_of_nifti_is_told_what_to_do(tmp_path: Path) -> None:
    refused(patched(image(tmp_path / "a.nii"), ("<i", 0, 540)), "nibabel.Nifti1Image")


def test_an_error_of_any_kind_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyError("key"), RecursionError(), TypeError("one\ntwo"), MemoryError()):

        def failing(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(io, "_grid", failing)
        refused(image(tmp_path / "a.nii"))
