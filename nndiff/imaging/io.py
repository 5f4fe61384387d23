"""Read and write image files and keep their geometry.

A file has one of 48 orientations; in memory a volume is canonical (S, P, L). The two differ only by an axis permutation
and flips, so the conversion is exact in both directions:

    canonical[k] = file[axes[k]], reversed where flips[k]          write ∘ read = identity on voxels and on geometry

Geometry is preserved exactly in MHA, to 1e-14 in NRRD (it stores direction · spacing), and within 1e-4 mm and 1e-6 in
NIfTI, whose header is float32. ITK's NIfTI reader and writer do not report truncated files and full disks, so both are
checked here.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from nndiff.imaging import dicom, nifti, text_headers
from nndiff.imaging.judge import CHUNK, REMEDY, damaged, in_words, judged
from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic
from nndiff.words.volume import FloatArray, Grid, Layout, Triple, Volume

sitk: Any = SimpleITK  # SimpleITK has no type annotations
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # errors are raised; warnings would break the progress bars

WRITABLE = (*nifti.ENDINGS, ".nrrd", ".mha", ".mhd")
ORTHONORMAL_TOLERANCE = 1e-3
NOTE = "ITK_FileNotes"  # descrip of NIfTI
SMALLEST, LARGEST = 0.01, 100.0  # mm; smaller voxels are in metres, larger ones in micrometres, or both are errors


@dataclass(frozen=True)
class Header:
    """The header of an image file. Shape and spacing are in the file's own axes, slowest axis first."""

    dimension: int
    components: int  # numbers per voxel: 3 for colour, 2 for complex
    pixel_type: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    layout: str  # directions of the axes, fastest first, e.g. LPS; empty unless 3D


# ---------------------------------------------------------------- reading


def read(paths: Sequence[Path]) -> Volume:
    """Return one 3D file or DICOM series per channel, stacked: float32, canonical, with the first channel's layout."""
    first, grid, layout = _channel_of(paths[0])  # [Z, Y, X]
    array = np.empty((len(paths), *grid.shape), dtype=np.float32)  # [C, Z, Y, X]
    array[0] = first
    for index, path in enumerate(paths[1:], start=1):
        channel, other, _ = _channel_of(path)
        if difference := grid.difference(other):
            raise NndiffError(
                f"The voxel grids of {path.name} and {paths[0].name} differ.",
                expected="one grid for all channels of a case",
                found=difference,
                where=path,
                remedy="resample one file onto the grid of the other, and run the command again",
            )
        array[index] = channel
    return Volume(array, grid, layout)


def read_header(path: Path) -> Header:
    """Return the header of a file or DICOM series without loading its voxels."""
    with in_words(path):
        return _header_of(path)


def _header_of(path: Path) -> Header:
    if dicom.is_series(path):
        grid, pixel_type = dicom.describe(path)
        return Header(
            dimension=3,
            components=1,
            pixel_type=pixel_type,
            shape=grid.shape,
            spacing=grid.spacing,
            layout=layout_letters(grid),
        )
    reader = _information(path)
    dimension = reader.GetDimension()
    spacing = tuple(reader.GetSpacing()[::-1])
    if nifti.is_nifti(path):
        # ITK drops trailing axes of length 1 and replaces a missing voxel size by 1 mm, so both are read from the file
        if reader.GetNumberOfComponents() == 1:  # otherwise the fifth axis holds the components
            dimension = max(dimension, int(reader.GetMetaData("dim[0]")))
        stored = nifti.header(path).sizes[::-1]
        spacing = spacing if _plausible(stored) else stored
    return Header(
        dimension=dimension,
        components=reader.GetNumberOfComponents(),
        pixel_type=sitk.GetPixelIDValueAsString(reader.GetPixelID()),
        shape=tuple(reader.GetSize()[::-1]),
        spacing=spacing,
        layout=layout_letters(_grid(reader)) if dimension == 3 else "",
    )


def _channel_of(path: Path) -> tuple[FloatArray, Grid, Layout]:
    with in_words(path):
        return _read_channel(path)


def _read_channel(path: Path) -> tuple[FloatArray, Grid, Layout]:
    if dicom.is_series(path):
        found, series = dicom.read(path)
        _accept_spacing(series.spacing, path)
        return canonical(found, series)
    _accept(read_header(path), path)
    no_numbers = _check_whole(path)
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    grid = _grid(image)
    _accept_direction(grid, path)
    array = sitk.GetArrayFromImage(image)
    array.reshape(-1)[no_numbers] = np.nan  # the NIfTI library reads NaN and infinity as 0
    return canonical(array, grid)


def _information(path: Path) -> Any:
    if not path.is_file():
        raise NndiffError(f"{path.name} is missing.", where=path, remedy="check the name and the folder")
    if not os.access(path, os.R_OK):
        raise NndiffError(
            f"{path.name} cannot be read.", found="permission denied", where=path, remedy="run chmod u+r on it"
        )
    if nifti.is_nifti(path):
        nifti.header(path)
    else:
        text_headers.demand_sound(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    return reader


def _accept(header: Header, path: Path) -> None:
    def refuse(expected: str, found: object, remedy: str) -> NndiffError:
        return NndiffError(
            f"{path.name} is not a 3D volume that nndiff reads.",
            expected=expected,
            found=found,
            where=path,
            remedy=remedy,
        )

    if header.dimension != 3:
        raise refuse(
            "3 axes", f"{header.dimension} axes", "save one 3D volume per file, without a time or channel axis"
        )
    if header.components != 1 or "complex" in header.pixel_type:
        found = f"{header.components} ({header.pixel_type})"
        raise refuse("1 value per voxel", found, "save one file per channel, and the magnitude of complex data")
    _accept_spacing(header.spacing, path)


def _accept_spacing(spacing: Sequence[float], path: Path) -> None:
    if not _plausible(spacing):
        raise NndiffError(
            f"nndiff cannot use {path.name}: no scanner has voxels of this size.",
            expected=f"voxel sizes of {SMALLEST:g} to {LARGEST:g} mm",
            found=spacing,
            where=path,
            remedy="write the true voxel size into the header, in mm; this one may be in metres or micrometres",
        )


def _accept_direction(grid: Grid, path: Path) -> None:
    if not np.allclose(grid.matrix.T @ grid.matrix, np.eye(3), atol=ORTHONORMAL_TOLERANCE):
        raise _sheared(path, np.round(grid.matrix[:, ::-1], 4).tolist())


# ---------------------------------------------------------------- orientation


def canonical(array: FloatArray, grid: Grid) -> tuple[FloatArray, Grid, Layout]:
    """Return a view of `array` [..., Z, Y, X] with axes as near to S, P, L as possible, its grid, and the layout."""
    axes = _nearest_axes(grid)
    flips = tuple(bool(grid.matrix[2 - k, axis] < 0) for k, axis in enumerate(axes))  # row 2 - k of LPS: S, P, L
    layout = Layout(axes, (flips[0], flips[1], flips[2]), grid)
    return _flipped(_permuted(array, axes), layout.flips), canonical_grid(layout), layout


def canonical_grid(layout: Layout) -> Grid:
    """Return the grid of the canonical volume: voxel (0, 0, 0) is the file's inferior, anterior, right corner."""
    grid, axes = layout.grid, layout.axes
    corner = [0, 0, 0]
    for axis, flip in zip(axes, layout.flips, strict=True):
        corner[axis] = grid.shape[axis] - 1 if flip else 0
    signs = np.where(layout.flips, -1.0, 1.0)
    direction = grid.matrix[:, axes] * signs
    a, b, c = axes
    moved = grid.moved((corner[0], corner[1], corner[2]), (grid.shape[a], grid.shape[b], grid.shape[c]))
    spacing = (grid.spacing[a], grid.spacing[b], grid.spacing[c])
    return Grid(moved.shape, spacing, moved.origin, tuple(float(value) for value in direction.ravel()))


def layout_letters(grid: Grid) -> str:
    """Return the directions of the axes, fastest first: LPS for a canonical grid, RAS for most NIfTI files."""
    letters = ["", "", ""]
    for k, axis in enumerate(_nearest_axes(grid)):
        positive = grid.matrix[2 - k, axis] >= 0
        letters[2 - axis] = ("SPL" if positive else "IAR")[k]
    return "".join(letters)


def _nearest_axes(grid: Grid) -> Triple:
    """Return the axis permutation with the largest sum of cosines to S, P, L.

    The sum is rounded, so that two grids at 45° that differ only by noise get the same permutation.
    """
    cosines = np.abs(grid.matrix[::-1])  # [S P L, array axis]
    a, b, c = max(
        itertools.permutations(range(3)),
        key=lambda axes: round(sum(cosines[k, axis] for k, axis in enumerate(axes)), 3),
    )
    return a, b, c


def _permuted(array: npt.NDArray[Any], axes: Triple) -> npt.NDArray[Any]:
    lead = array.ndim - 3
    return array.transpose(*range(lead), *(lead + axis for axis in axes))


def _flipped(array: npt.NDArray[Any], flips: tuple[bool, bool, bool]) -> npt.NDArray[Any]:
    z, y, x = (slice(None, None, -1 if flip else 1) for flip in flips)
    return array[..., z, y, x]


def as_stored(array: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Return a canonical array in the axes of its file."""
    a, b, c = (int(axis) for axis in np.argsort(layout.axes))
    return _permuted(_flipped(array, layout.flips), (a, b, c))


# ---------------------------------------------------------------- writing


def write(volume: Volume, path: Path, dtype: npt.DTypeLike = np.float32, note: str = "") -> None:
    """Write one channel, compressed, in the axes and geometry of its layout; integers are rounded and clipped.

    `note` stands in the header, in NIfTI its first 79 bytes.
    """
    assert volume.channels == 1, "one file a channel"
    ending = next((ending for ending in WRITABLE if path.name.endswith(ending)), None)
    if ending is None:
        raise NndiffError(
            f"nndiff cannot write the file format of {path.name}.", expected=", ".join(WRITABLE), where=path
        )
    array, grid = volume.array[0], volume.grid
    if volume.layout is not None:
        array, grid = as_stored(array, volume.layout), volume.layout.grid
    assert array.shape == grid.shape, (array.shape, grid.shape)
    image = sitk.GetImageFromArray(_cast(array, np.dtype(dtype)))
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.matrix[:, ::-1].ravel().tolist())
    if note:
        image.SetMetaData(NOTE, note)
    with atomic(path) as part:
        _write_image(image, part)


def _write_image(image: Any, part: Path) -> None:
    # an .mhd header names a separate voxel file; written as .mha it is one file, which every reader of .mhd accepts
    target = part.with_suffix(".mha") if part.suffix == ".mhd" else part
    try:
        sitk.WriteImage(image, str(target), True)
        _check_whole(target)
        target.replace(part)
    except (RuntimeError, NndiffError) as error:
        raise NndiffError(
            "An image cannot be written.",
            found=_last_words(error) if isinstance(error, RuntimeError) else error.found,
            where=part.parent,
            remedy="free some space or choose another folder, and run the same command again",
        ) from None
    finally:
        if target != part:
            target.unlink(missing_ok=True)


def _cast(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind not in "iu":
        return np.ascontiguousarray(array, dtype=dtype)
    limits = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(np.rint(array), limits.min, limits.max).astype(dtype))


# ---------------------------------------------------------------- SimpleITK and NIfTI


def _grid(image: Any) -> Grid:
    """Return the grid of an ITK image, whose axes are in the order x, y, z and whose direction is stored row by row."""
    x, y, z = (int(value) for value in image.GetSize()[:3])
    u, v, w = (float(value) for value in image.GetSpacing()[:3])
    matrix = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3][:, ::-1]
    a, b, c = (float(value) for value in image.GetOrigin()[:3])
    return Grid((z, y, x), (w, v, u), (a, b, c), tuple(float(value) for value in matrix.ravel()))


def _plausible(spacing: Sequence[float]) -> bool:
    return all(SMALLEST <= value <= LARGEST for value in spacing)  # false for NaN too


def _check_whole(path: Path) -> npt.NDArray[np.intp]:
    """Refuse a NIfTI file with other bytes than its header states, or with a wrong checksum in .gz.

    ITK returns arbitrary values for missing bytes. Return the indices, in the file's order, of the voxels that are NaN
    or infinite, for which ITK's NIfTI library returns 0. Other formats are checked by `text_headers`.
    """
    if not nifti.is_nifti(path):
        text_headers.demand_whole(path)
        return np.empty(0, np.intp)
    stated = nifti.header(path)
    no_numbers, size = [np.empty(0, np.intp)], 0
    with judged(path), gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
        stream.read(stated.offset)
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            if (dtype := stated.floats) is not None and size < stated.bytes:
                values = np.frombuffer(chunk, dtype, min(len(chunk), stated.bytes - size) // dtype.itemsize)
                no_numbers.append(np.flatnonzero(~np.isfinite(values)) + size // dtype.itemsize)
            size += len(chunk)
    if size != stated.bytes:
        raise damaged(path, f"{size} bytes of voxels", f"{stated.bytes} bytes")
    return np.concatenate(no_numbers)


# ---------------------------------------------------------------- errors


def _unreadable(path: Path, error: RuntimeError) -> NndiffError:
    if "orthonormal" in str(error):
        return _sheared(path, None)
    return NndiffError(f"{path.name} cannot be read.", found=_last_words(error), where=path, remedy=REMEDY)


def _sheared(path: Path, direction: object) -> NndiffError:
    return NndiffError(
        f"{path.name}: the axes are not at right angles.",
        expected="orthonormal directions",
        found=direction,
        where=path,
        remedy="resample it onto a grid without shear, e.g. nibabel.processing.resample_to_output(nibabel.load(file))",
    )


def _last_words(error: RuntimeError) -> str:
    """Return the line of an ITK error that gives the innermost cause, without memory addresses."""
    tail = str(error).split("ERROR:")[-1]
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    line = lines[-1] if lines and "nrrd" in lines[-1] else (lines or ["unknown"])[0]
    return re.sub(r"\w+\(0x[0-9a-f]+\): ", "", line)
