"""The header of a NIfTI-1 file, judged before a library sees the file."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nndiff.imaging.judge import LONGEST_HEADER, demand_finite, demand_room, demand_shape, judged, refuse, short
from nndiff.words.volume import POSITION_TOLERANCE, SPACING_TOLERANCE

ENDINGS = (".nii.gz", ".nii")
SHEAR = 1e-3  # cosine between two axes
TYPES = {2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
TYPES |= {1536: 16, 1792: 16, 2048: 32, 2304: 4}  # bytes by code
FLOATS = {16: "f4", 64: "f8"}
SIZE, SIZE_OF_2 = 348, 540  # bytes of a header, which begins with this number
DIM, KIND, PIXDIM, OFFSET, UNITS = (40, "8h"), (70, "2h"), (76, "8f"), (108, "f"), (123, "B")  # place and type
OTHER_UNITS = {1: "metres", 3: "micrometres"}  # of lengths: the lowest three bits of xyzt_units
CODES, QUATERNION, ROWS, MAGIC = (252, "2h"), (256, "6f"), (280, "12f"), (344, "4s")


@dataclass(frozen=True)
class Header:
    """What the header states of the voxels."""

    order: str  # of bytes: < or >
    shape: tuple[int, ...]  # fastest axis first
    sizes: tuple[float, float, float]  # of a voxel, fastest axis first; maybe not positive
    code: int  # of the data type
    offset: int  # of the first voxel, in bytes
    bytes: int  # of all voxels

    @property
    def floats(self) -> np.dtype[Any] | None:
        """Return the data type, if it is one that has NaN and infinity."""
        return np.dtype(self.order + FLOATS[self.code]) if self.code in FLOATS else None


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def header(path: Path) -> Header:
    """Return the header; refuse one that states what cannot be true."""
    with judged(path):
        return _header(path)


def _header(path: Path) -> Header:
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else open(path, "rb") as stream:
        start = stream.read(SIZE)
    if len(start) < SIZE:
        refuse(f"a header of {SIZE} bytes", f"{len(start)} bytes")
    sizes = {order: struct.unpack_from(f"{order}i", start)[0] for order in "<>"}
    if SIZE_OF_2 in sizes.values():
        refuse("NIfTI-1", "NIfTI-2, which nibabel.Nifti1Image.from_image converts")
    order = next((order for order, size in sizes.items() if size == SIZE), None)
    if order is None:
        refuse(f"a NIfTI header, which begins with {SIZE}", sizes["<"])

    def field(place: tuple[int, str]) -> tuple[Any, ...]:
        return struct.unpack_from(order + place[1], start, place[0])

    if field(MAGIC) != (b"n+1\0",):
        refuse("the letters n+1 of a NIfTI file with its voxels", field(MAGIC)[0])
    if (units := OTHER_UNITS.get(field(UNITS)[0] & 7)) is not None:  # libraries differ in what they make of them
        refuse("lengths in mm (xyzt_units 2), to which the voxel sizes must be converted", units)
    axes, *dims = field(DIM)
    shape = tuple(dims[: max(0, axes)])
    demand_shape(axes, shape)
    code, bits = field(KIND)
    if TYPES.get(code, -1) * 8 != bits:
        refuse("a data type and its number of bits", f"type {code} with {bits} bits")
    (offset,) = field(OFFSET)
    if not SIZE + 4 <= offset < LONGEST_HEADER or offset != int(offset):
        refuse("voxels after the header", f"voxels from byte {offset}")
    found = Header(order, shape, field(PIXDIM)[1:4], code, int(offset), math.prod(shape) * bits // 8)
    demand_room(path, found.offset + found.bytes, packed)
    _demand_one_position(shape, field(PIXDIM), field(CODES), field(QUATERNION), field(ROWS))
    return found


def _demand_one_position(
    shape: Sequence[int],
    pixdim: Sequence[float],
    codes: Sequence[int],
    quaternion: Sequence[float],
    rows: Sequence[float],
) -> None:
    """Refuse numbers that are none, and two positions that differ. Voxel sizes of 0 or less are left to `io`."""
    forms = []
    sizes = pixdim[1:4]
    usable = all(math.isfinite(size) and size > 0 for size in sizes)
    if codes[0] > 0:
        demand_finite("qform", quaternion)
        if pixdim[0] not in (-1, 0, 1):
            refuse("1 or -1 for the direction of the third axis (pixdim[0])", pixdim[0])
        b, c, d = quaternion[:3]
        if b * b + c * c + d * d > 1 + 1e-3:
            refuse("a rotation (qform)", f"the quaternion {quaternion[:3]}")
        forms.append(_of_quaternion(quaternion, sizes, pixdim[0]))
    if codes[1] > 0:
        demand_finite("sform", rows)
        affine = np.array(rows).reshape(3, 4)
        if not abs(np.linalg.det(affine[:, :3])) > 0:
            refuse("three directions (sform)", affine[:, :3].tolist())
        forms.append(affine)
        lengths = np.linalg.norm(affine[:, :3], axis=0)
        cosines = (affine[:, :3].T @ affine[:, :3]) / np.outer(lengths, lengths)
        sheared = not np.allclose(cosines, np.eye(3), atol=SHEAR)  # which `io` explains
        if usable and not sheared and not np.allclose(lengths, sizes, rtol=SPACING_TOLERANCE):
            refuse(f"voxels of the size {short(sizes)} mm (pixdim)", f"{short(lengths)} mm (sform)")
    if len(forms) == 2 and usable:
        end = np.array([*((n - 1) for n in (*shape, 1, 1)[:3]), 1.0])
        apart = max(
            float(np.linalg.norm((forms[0] - forms[1]) @ (end * corner)))
            for corner in np.array(np.meshgrid([0, 1], [0, 1], [0, 1], [1])).reshape(4, -1).T
        )
        if not apart <= max(POSITION_TOLERANCE, SPACING_TOLERANCE * float(end.max())) * min(sizes):
            refuse(
                "one position in space",
                f"two, up to {apart:.3g} mm apart (qform and sform); if you know which is right, keep only that one",
            )


def _of_quaternion(numbers: Sequence[float], sizes: Sequence[float], sign: float) -> np.ndarray:
    """Return the affine map of a qform, as the standard defines it."""
    b, c, d = numbers[:3]
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    scale = np.array([sizes[0], sizes[1], sizes[2] * (-1 if sign < 0 else 1)])
    return np.column_stack([rotation * scale, numbers[3:6]])
