import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nndiff.imaging import io
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Grid, Layout, Volume

GRID = Grid((3, 4, 5), (3.0, 2.0, 1.5), (-10.5, 20.25, 30.0))


def volume(shape: tuple[int, int, int] = (3, 4, 5), **fields: object) -> Volume:
    grid = Grid(shape, **{"spacing": (3.0, 2.0, 1.5), "origin": (-10.5, 20.25, 30.0), **fields})  # type: ignore[arg-type]
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Volume(array, grid)


def save(array: np.ndarray, path: Path, vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def patched(path: Path, *changes: tuple[str, int, object]) -> Path:
    """An uncompressed NIfTI with some fields of its header overwritten."""
    data = bytearray(path.read_bytes())
    for kind, offset, value in changes:
        struct.pack_into(kind, data, offset, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- geometry


def test_axes_and_positions_agree_with_simpleitk(tmp_path: Path) -> None:
    """Every voxel's position, as ITK computes it from the file, is where the canonical grid says it is."""
    path = tmp_path / "a.mha"
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((7.0, -8.0, 9.0))
    image.SetDirection((0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, 0.6))
    sitk.WriteImage(image, str(path))
    read = io.read([path])
    for index in np.ndindex(read.grid.shape):
        x, y, z = (int(i) for i in np.unravel_index(int(read.array[0][index]), (3, 4, 5))[::-1])
        assert np.allclose(read.grid.position(index), image.TransformIndexToPhysicalPoint((x, y, z)), atol=1e-9)


def test_canonical_runs_to_head_back_and_left(tmp_path: Path) -> None:
    ras = Grid((3, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0, 0, -1, 0, -1, 0, 1, 0, 0))
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    turned, grid, layout = io.canonical(array, ras)
    assert io.layout_letters(ras) == "RAS"
    assert io.layout_letters(grid) == "LPS"
    assert layout == Layout((0, 1, 2), (False, True, True), ras)
    assert np.array_equal(turned, array[:, ::-1, ::-1])
    assert np.shares_memory(turned, array)
    assert grid.origin == (-4.0, -3.0, 0.0)
    assert np.array_equal(grid.matrix, np.eye(3)[:, ::-1])


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ((0, 0, 1, 0, 1, 0, 1, 0, 0), "LPS"),
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), "SPL"),
        ((0, 0, 1, -1, 0, 0, 0, -1, 0), "LIA"),
    ],
)
def test_layout_letters(direction: tuple[float, ...], letters: str) -> None:
    assert io.layout_letters(Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)) == letters


def test_axes_at_45_degrees_do_not_depend_on_rounding() -> None:
    """Two channels whose headers differ in the last digit must be turned alike."""
    axes = set()
    for noise in (-1e-7, 0.0, 1e-7):
        c, s = np.cos(np.pi / 4 + noise), np.sin(np.pi / 4 + noise)
        direction = (0.0, -s, c, 0.0, c, s, 1.0, 0.0, 0.0)
        axes.add(
            io.canonical(np.zeros((2, 3, 4)), Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction))[2].axes
        )
    assert len(axes) == 1


# ---------------------------------------------------------------- reading


def test_header_needs_no_voxels(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    io.write(volume(), path, np.int16)
    header = io.read_header(path)
    assert header == io.Header(3, 1, "16-bit signed integer", (3, 4, 5), header.spacing, "LPS")
    assert np.allclose(header.spacing, (3.0, 2.0, 1.5))


def test_channels_are_stacked_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"a_{k}.mha" for k in range(3)]
    for k, path in enumerate(paths):
        io.write(Volume(np.full((1, 3, 4, 5), k, np.float32), GRID), path)
    read = io.read(paths)
    assert read.array.dtype == np.float32
    assert read.array[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_channels_in_other_layouts_are_compared_in_space(tmp_path: Path) -> None:
    """The same volume stored upside down is the same volume."""
    one, other = tmp_path / "a_0.mha", tmp_path / "a_1.mha"
    plain = volume()
    flipped = Grid((3, 4, 5), GRID.spacing, tuple(plain.grid.position((2, 0, 0))), (0, 0, 1, 0, 1, 0, -1, 0, 0))
    io.write(plain, one)
    io.write(Volume(plain.array[:, ::-1], flipped), other)
    both = io.read([one, other])
    assert np.array_equal(both.array[0], both.array[1])


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"
    io.write(volume(), one)
    io.write(volume(origin=(-10.5, 20.25, 31.0)), other)
    with pytest.raises(NndiffError, match=r"grids of a_0001.nii.gz and a_0000.nii.gz differ(.|\n)*1 mm apart"):
        io.read([one, other])


def test_axis_of_one_voxel(tmp_path: Path) -> None:
    for ending in io.WRITABLE:
        thin = volume((1, 4, 5))
        io.write(thin, tmp_path / f"a{ending}")
        assert np.array_equal(io.read([tmp_path / f"a{ending}"]).array, thin.array)


# ---------------------------------------------------------------- bad files


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NndiffError, match=r"a.nii.gz is missing"):
        io.read([tmp_path / "a.nii.gz"])


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".mhd"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_file_cut_short(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"a{ending}"
    io.write(volume((10, 12, 14)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(NndiffError, match=rf"a{ending}.*(damaged|cannot be read)") as caught:
        io.read([path])
    assert len(str(caught.value).splitlines()) <= 4


def test_uncompressed_file_cut_short_inside_a_whole_gzip(tmp_path: Path) -> None:
    io.write(volume((10, 12, 14)), tmp_path / "a.nii")
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()[:-1]))
    with pytest.raises(NndiffError, match="incomplete"):
        io.read([path])


def test_damage_inside_a_compressed_nifti(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    io.write(volume((60, 60, 60)), path)  # larger than what ITK reads to know the format
    data = bytearray(path.read_bytes())
    data[-40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(NndiffError, match="damaged"):
        io.read([path])


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_text_under_an_image_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_text("an HTML page of a failed download\n" * 50)
    with pytest.raises(NndiffError, match=r"cannot be read|is damaged or incomplete") as caught:
        io.read([path])
    assert len(str(caught.value).splitlines()) <= 4


def test_plain_nifti_under_a_gz_name(tmp_path: Path) -> None:
    io.write(volume(), tmp_path / "a.nii")
    path = (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    with pytest.raises(NndiffError, match="gzip"):
        io.read([path])


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.mha"])
def test_two_axes(tmp_path: Path, name: str) -> None:
    with pytest.raises(NndiffError, match="found 2 axes"):
        io.read([save(np.zeros((4, 5), np.uint8), tmp_path / name)])


@pytest.mark.parametrize("times", [1, 2])
def test_four_axes(tmp_path: Path, times: int) -> None:
    with pytest.raises(NndiffError, match="found 4 axes"):
        io.read([save(np.zeros((times, 3, 4, 5), np.float32), tmp_path / "a.mha")])


def test_four_axes_in_nifti(tmp_path: Path) -> None:
    """ITK would drop a fourth axis of length 1 without a word."""
    path = save(np.zeros((3, 4, 5), np.float32), tmp_path / "a.nii")
    with pytest.raises(NndiffError, match="found 4 axes"):
        io.read([patched(path, ("<h", 40, 4))])


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_colour(tmp_path: Path, ending: str) -> None:
    with pytest.raises(NndiffError, match=r"found 3 \(vector"):
        io.read([save(np.zeros((3, 4, 5, 3), np.uint8), tmp_path / f"a{ending}", vector=True)])


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_complex(tmp_path: Path, ending: str) -> None:
    with pytest.raises(NndiffError, match=r"1 value per voxel; found 2"):
        io.read([save(np.zeros((3, 4, 5), np.complex64), tmp_path / f"a{ending}")])


@pytest.mark.parametrize("size", [0.0, float("nan"), -1.0])
def test_bad_spacing_in_nifti(tmp_path: Path, size: float) -> None:
    """ITK would put 1 mm in its place."""
    path = patched(save(np.zeros((3, 4, 5), np.float32), tmp_path / "a.nii"), ("<f", 80, size))
    with pytest.raises(NndiffError, match="voxel sizes of"):
        io.read([path])


@pytest.mark.parametrize("size", [b"0", b"-1", b"nan"])
def test_bad_spacing_in_metaimage(tmp_path: Path, size: bytes) -> None:
    path = save(np.zeros((3, 4, 5), np.float32), tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 ", b"ElementSpacing = " + size + b" "))
    with pytest.raises(NndiffError, match=r"voxel sizes of|finite numbers"):
        io.read([path])


@pytest.mark.parametrize("size", [3270.0, 0.00327])
@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_voxel_sizes_in_metres_or_micrometres_are_refused(tmp_path: Path, ending: str, size: float) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.float32))
    image.SetSpacing((size, size, size))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    with pytest.raises(NndiffError, match=r"0.01 to 100 mm(.|\n)*metres or micrometres"):
        io.read([tmp_path / f"a{ending}"])


@pytest.mark.parametrize(("units", "word"), [(1, "metres"), (3, "micrometres"), (8 + 1, "metres")])
def test_a_nifti_that_names_other_units_is_refused(tmp_path: Path, units: int, word: str) -> None:
    path = save(np.zeros((3, 4, 5), np.float32), tmp_path / "a.nii")
    with pytest.raises(NndiffError, match=rf"lengths in mm(.|\n)*{word}"):
        io.read([patched(path, ("<B", 123, units))])
    assert io.read([patched(path, ("<B", 123, 2 + 8))]).spacing == (1.0, 1.0, 1.0)


def test_sheared_nifti(tmp_path: Path) -> None:
    path = save(np.zeros((3, 4, 5), np.float32), tmp_path / "a.nii")
    rows = (1.0, 0.2, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    with pytest.raises(NndiffError, match=r"not at right angles(.|\n)*without shear"):
        io.read([patched(path, ("<h", 252, 0), ("<h", 254, 1), ("<12f", 280, rows))])


def test_sheared_metaimage(tmp_path: Path) -> None:
    path = save(np.zeros((3, 4, 5), np.float32), tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix = 1 0 0", b"TransformMatrix = 1 .2 0"))
    with pytest.raises(NndiffError, match="not at right angles"):
        io.read([path])


def test_spacing_in_the_other_byte_order(tmp_path: Path) -> None:
    data = bytearray(352 + 60 * 4)
    struct.pack_into(">i", data, 0, 348)
    struct.pack_into(">8h", data, 40, 3, 5, 4, 3, 1, 1, 1, 1)
    struct.pack_into(">2h", data, 70, 16, 32)
    struct.pack_into(">8f", data, 76, 1, 1.5, 2.0, 3.0, 1, 1, 1, 1)
    struct.pack_into(">f", data, 108, 352)
    data[344:348] = b"n+1\0"
    path = tmp_path / "a.nii"
    path.write_bytes(data)
    assert io.read([path]).spacing == (3.0, 2.0, 1.5)
    struct.pack_into(">f", data, 80, 0.0)
    path.write_bytes(data)
    assert io.read_header(path).spacing == (3.0, 2.0, 0.0)


# ---------------------------------------------------------------- writing


def test_integers_are_rounded_and_held_to_their_range(tmp_path: Path) -> None:
    values = np.array([-70000, -1.6, -0.4, 0.6, 1.4, 70000], np.float32).reshape(1, 1, 1, 6)
    path = tmp_path / "a.nii.gz"
    io.write(Volume(values, Grid((1, 1, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))), path, np.int16)
    assert io.read([path]).array.ravel().tolist() == [-32768, -2, 0, 1, 1, 32767]


def test_files_are_compressed(tmp_path: Path) -> None:
    for ending in (".nii.gz", ".mha", ".nrrd", ".mhd"):
        io.write(
            Volume(np.zeros((1, 20, 20, 20), np.float32), Grid((20, 20, 20), (1.0,) * 3, (0.0,) * 3)),
            tmp_path / f"a{ending}",
        )
        assert (tmp_path / f"a{ending}").stat().st_size < 4000


def test_mhd_is_one_file(tmp_path: Path) -> None:
    io.write(volume(), tmp_path / "a.mhd")
    assert os.listdir(tmp_path) == ["a.mhd"]


def test_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(NndiffError, match=r"cannot write the file format of a.hdr.*\n.*\.nii\.gz"):
        io.write(volume(), tmp_path / "a.hdr")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_full_disk_leaves_nothing(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk ITK's NIfTI writer returns as if all were well, with half a file."""
    whole = sitk.WriteImage

    def half(image: sitk.Image, name: str, compress: bool) -> None:
        whole(image, name, compress)
        os.truncate(name, os.path.getsize(name) // 2)

    monkeypatch.setattr(io.sitk, "WriteImage", half)
    with pytest.raises(NndiffError, match="cannot be written"):
        io.write(volume((10, 12, 14)), tmp_path / f"a{ending}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".mhd"])
def test_failed_write_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{ending}"
    io.write(volume(), path)
    before = path.read_bytes()

    def fail(image: sitk.Image, name: str, compress: bool) -> None:
        Path(name).write_text("half")
        raise RuntimeError("Exception thrown\nITK ERROR: MetaImageIO(0x55): File cannot be written\nReason: none")

    monkeypatch.setattr(io.sitk, "WriteImage", fail)
    with pytest.raises(NndiffError, match=r"cannot be written(.|\n)*found File cannot be written\n"):
        io.write(volume(), path)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before
