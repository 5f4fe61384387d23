"""Headers of image files, judged before any library sees them: libraries hang, crash or mislead on some that are wrong.

    demand_sound(path)     what the header states is possible, agrees with itself, and fits into the file
    in_words(path)         reading in this context ends well, or in an NndiffError
    demand_whole(path)     the voxels of MetaImage and NRRD are all there, and agree with the checksum of a packed file

Judged are NIfTI-1, MetaImage (.mha, .mhd) and NRRD. Whether nndiff can use an image (three axes, one value per
voxel, right angles) is for `io` to say.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nndiff.words.errors import NndiffError
from nndiff.words.volume import POSITION_TOLERANCE, SPACING_TOLERANCE

REMEDY = "export or copy the file again"
MOST_AXES = 7
LONGEST_HEADER = 1 << 20  # bytes of text
DEFLATE = 1032  # bytes that a byte can unpack to at most, by the format
CHUNK = 1 << 22
SHEAR = 1e-3  # cosine between two axes
NIFTI_TYPES = {2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
NIFTI_TYPES |= {1536: 16, 1792: 16, 2048: 32, 2304: 4}  # bytes by code
META_TYPES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
NRRD_TYPES = {
    name: size
    for size, names in {
        1: "signed char,int8,int8_t,uchar,unsigned char,uint8,uint8_t",
        2: "short,short int,signed short,signed short int,int16,int16_t,ushort,unsigned short,unsigned short int,"
        "uint16,uint16_t",
        4: "int,signed int,int32,int32_t,uint,unsigned int,uint32,uint32_t,float",
        8: "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t,ulonglong,"
        "unsigned long long,unsigned long long int,uint64,uint64_t,double",
    }.items()
    for name in names.split(",")
}
PACKINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", **dict.fromkeys(("ascii", "text", "txt", "hex"), "text")}


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn any error about a stranger's file into one in words; --debug shows where it came from."""
    try:
        yield
    except NndiffError:
        raise
    except MemoryError as error:
        raise NndiffError(
            f"{path.name} needs more memory than there is.", where=path, remedy="use fewer workers, or a larger machine"
        ) from error
    except Exception as error:  # libraries raise errors of any kind
        found = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise NndiffError(f"{path.name} cannot be read.", found=found, where=path, remedy=REMEDY) from error


def demand_sound(path: Path) -> None:
    """Refuse a file whose header states what cannot be true."""
    judge = _judge_of(path)
    if judge is not None:
        _guarded(path, lambda: judge(path))


def demand_whole(path: Path) -> None:
    """Refuse a MetaImage or NRRD file whose voxels are missing or damaged."""
    if path.name.lower().endswith((".mha", ".mhd")):
        _guarded(path, lambda: _demand_voxels(_meta(path)))
    elif path.name.lower().endswith(".nrrd"):
        _guarded(path, lambda: _demand_voxels(_nrrd(path)))


def _judge_of(path: Path) -> Callable[[Path], object] | None:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _nifti
    if name.endswith((".mha", ".mhd")):
        return _meta
    return _nrrd if name.endswith(".nrrd") else None


class _Wrong(Exception):
    """What a header states, and what it should."""

    def __init__(self, expected: str, found: object):
        super().__init__(expected)
        self.expected, self.found = expected, found


def _guarded(path: Path, judge: Callable[[], object]) -> None:
    try:
        judge()
    except _Wrong as wrong:
        raise NndiffError(
            f"{path.name} is damaged or incomplete.",
            expected=wrong.expected,
            found=str(wrong.found)[:200],
            where=path,
            remedy=REMEDY,
        ) from None
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise NndiffError(
            f"{path.name} is damaged or incomplete.", found=str(error)[:200], where=path, remedy=REMEDY
        ) from None


def _refuse(expected: str, found: object) -> NoReturn:
    raise _Wrong(expected, found)


# ---------------------------------------------------------------- NIfTI


NIFTI_SIZE, NIFTI_2_SIZE = 348, 540  # bytes of a header, which begins with this number
DIM, KIND, PIXDIM, OFFSET = (40, "8h"), (70, "2h"), (76, "8f"), (108, "f")  # place and type of a field
CODES, QUATERNION, ROWS, MAGIC = (252, "2h"), (256, "6f"), (280, "12f"), (344, "4s")


def _nifti(path: Path) -> None:
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else open(path, "rb") as stream:
        start = stream.read(NIFTI_SIZE)
    if len(start) < NIFTI_SIZE:
        _refuse(f"a header of {NIFTI_SIZE} bytes", f"{len(start)} bytes")
    sizes = {order: struct.unpack_from(f"{order}i", start)[0] for order in "<>"}
    if NIFTI_2_SIZE in sizes.values():
        _refuse("NIfTI-1", "NIfTI-2, which nibabel.Nifti1Image.from_image converts")
    order = next((order for order, size in sizes.items() if size == NIFTI_SIZE), None)
    if order is None:
        _refuse(f"a NIfTI header, which begins with {NIFTI_SIZE}", sizes["<"])

    def field(place: tuple[int, str]) -> tuple[Any, ...]:
        return struct.unpack_from(order + place[1], start, place[0])

    if field(MAGIC) != (b"n+1\0",):
        _refuse("the letters n+1 of a NIfTI file with its voxels", field(MAGIC)[0])
    axes, *dims = field(DIM)
    if not 1 <= axes <= MOST_AXES:
        _refuse(f"1 to {MOST_AXES} axes", axes)
    shape = dims[:axes]
    if min(shape) < 1:
        _refuse("1 voxel or more along every axis", shape)
    code, bits = field(KIND)
    if NIFTI_TYPES.get(code, -1) * 8 != bits:
        _refuse("a data type and its number of bits", f"type {code} with {bits} bits")
    (offset,) = field(OFFSET)
    if not NIFTI_SIZE + 4 <= offset < LONGEST_HEADER or offset != int(offset):
        _refuse("voxels after the header", f"voxels from byte {offset}")
    _demand_room(path, math.prod(shape) * bits // 8 + int(offset), packed)
    _nifti_geometry(shape, field(PIXDIM), field(CODES), field(QUATERNION), field(ROWS))


def _nifti_geometry(
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
        _demand_finite("qform", quaternion)
        if pixdim[0] not in (-1, 0, 1):
            _refuse("1 or -1 for the direction of the third axis (pixdim[0])", pixdim[0])
        b, c, d = quaternion[:3]
        if b * b + c * c + d * d > 1 + 1e-3:
            _refuse("a rotation (qform)", f"the quaternion {quaternion[:3]}")
        forms.append(_of_quaternion(quaternion, sizes, pixdim[0]))
    if codes[1] > 0:
        _demand_finite("sform", rows)
        affine = np.array(rows).reshape(3, 4)
        if not abs(np.linalg.det(affine[:, :3])) > 0:
            _refuse("three directions (sform)", affine[:, :3].tolist())
        forms.append(affine)
        lengths = np.linalg.norm(affine[:, :3], axis=0)
        cosines = (affine[:, :3].T @ affine[:, :3]) / np.outer(lengths, lengths)
        sheared = not np.allclose(cosines, np.eye(3), atol=SHEAR)  # which `io` explains
        if usable and not sheared and not np.allclose(lengths, sizes, rtol=SPACING_TOLERANCE):
            _refuse(f"voxels of the size {_short(sizes)} mm (pixdim)", f"{_short(lengths)} mm (sform)")
    if len(forms) == 2 and usable:
        end = np.array([*((n - 1) for n in (*shape, 1, 1)[:3]), 1.0])
        apart = max(
            float(np.linalg.norm((forms[0] - forms[1]) @ (end * corner)))
            for corner in np.array(np.meshgrid([0, 1], [0, 1], [0, 1], [1])).reshape(4, -1).T
        )
        if not apart <= max(POSITION_TOLERANCE, SPACING_TOLERANCE * float(end.max())) * min(sizes):
            _refuse(
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


# ---------------------------------------------------------------- MetaImage and NRRD


@dataclass(frozen=True)
class _Voxels:
    """Where the voxels of an image with a text header are."""

    path: Path
    start: int  # byte; -1: the last so many bytes of the file
    bytes: int  # unpacked
    packing: str  # raw, zlib, gzip, text


def _meta(path: Path) -> _Voxels:
    """Return where the voxels of a MetaImage are, after its header was judged."""
    fields, end = _meta_fields(path)

    def numbers(names: Sequence[str], count: int) -> None:
        for name in names:
            if name in fields:
                _numbers(name, fields[name].split(), count)

    axes = _whole("NDims", fields.get("NDims", ""))
    if not 1 <= axes <= MOST_AXES:
        _refuse(f"1 to {MOST_AXES} axes (NDims)", axes)
    shape = [_whole("DimSize", word) for word in fields.get("DimSize", "").split()]
    if len(shape) != axes or min(shape) < 1:
        _refuse(f"{axes} axes of 1 voxel or more (DimSize)", fields.get("DimSize"))
    numbers(("ElementSpacing", "ElementSize"), axes)
    numbers(("Offset", "Position", "Origin"), axes)
    numbers(("TransformMatrix", "Rotation", "Orientation"), axes * axes)
    numbers(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 1)
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    each = META_TYPES.get(kind, META_TYPES.get(kind.removeprefix("U")))
    if each is None:
        _refuse("a type of voxels (ElementType)", fields.get("ElementType"))
    channels = _whole("ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if not 1 <= channels <= 1 << 16:
        _refuse("1 value or more a voxel (ElementNumberOfChannels)", channels)
    size = math.prod(shape) * each * channels
    packed = fields.get("CompressedData", "False").lower() == "true"
    text = fields.get("BinaryData", "True").lower() != "true"
    source, start = path, end
    if (where := fields["ElementDataFile"]).lower() != "local":
        source, start = _beside(path, where), _whole("HeaderSize", fields.get("HeaderSize", "0"))
    if packed:
        stated = _whole("CompressedDataSize", fields.get("CompressedDataSize", ""))
        if stated != (there := source.stat().st_size - max(0, start)):
            _refuse(f"{there} bytes of packed voxels (CompressedDataSize)", stated)
    voxels = _Voxels(source, start, size, "text" if text else "zlib" if packed else "raw")
    _demand_room(source, size, packed or text)
    return voxels


def _meta_fields(path: Path) -> tuple[Mapping[str, str], int]:
    """Return the fields of the header, and the byte after it."""
    fields = dict[str, str]()
    for line, end in _lines(path):
        name, sign, value = line.partition("=")
        if not sign:
            _refuse("lines of the form NAME = VALUE", line[:60])
        if name.strip() in fields:
            _refuse("every field once", name.strip())
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields, end
    _refuse("a header that ends with ElementDataFile", "none")


def _nrrd(path: Path) -> _Voxels:
    """Return where the voxels of a NRRD file are, after its header was judged."""
    fields, end = _nrrd_fields(path)
    axes = _whole("dimension", fields.get("dimension", ""))
    if not 1 <= axes <= MOST_AXES:
        _refuse(f"1 to {MOST_AXES} axes (dimension)", axes)
    shape = [_whole("sizes", word) for word in fields.get("sizes", "").split()]
    if len(shape) != axes or min(shape) < 1:
        _refuse(f"{axes} axes of 1 voxel or more (sizes)", fields.get("sizes"))
    each = NRRD_TYPES.get(fields.get("type", ""))
    if each is None:
        _refuse("a type of voxels (type)", fields.get("type"))
    for name in ("space directions", "space origin"):
        for vector in re.findall(r"\(([^)]*)\)", fields.get(name, "")):
            _numbers(name, vector.split(","), None)
    if "spacings" in fields:
        words = [word for word in fields["spacings"].split() if word.lower() != "nan"]  # of an axis that is not spatial
        _numbers("spacings", words, None)
    encoding = fields.get("encoding", "").lower()
    packing = PACKINGS.get(encoding)
    if packing is None:
        _refuse("raw, gzip or ascii (encoding)", fields.get("encoding"))
    size, source = math.prod(shape) * each, path
    skipped = _whole("byte skip", fields.get("byte skip", fields.get("byteskip", "0")))
    if where := fields.get("data file", fields.get("datafile")):
        source, end = _beside(path, where), 0
    if skipped < -1 or int(fields.get("line skip", "0") or 0):
        _refuse("voxels right after the header", f"byte skip {skipped}, line skip {fields.get('line skip', 0)}")
    _demand_room(source, size, packing != "raw")
    return _Voxels(source, -1 if skipped == -1 else end + skipped, size, packing)


def _nrrd_fields(path: Path) -> tuple[Mapping[str, str], int]:
    fields = dict[str, str]()
    lines = _lines(path)
    first, _ = next(lines, ("", 0))
    if not re.fullmatch(r"NRRD000\d", first.strip()):
        _refuse("the first line of a NRRD file", first[:20])
    for line, end in lines:
        if not line.strip():
            return fields, end
        if line.startswith("#") or ":=" in line:  # a comment, a value of the user's own
            continue
        name, sign, value = line.partition(":")
        if not sign:
            _refuse("lines of the form NAME: VALUE", line[:60])
        if name.strip().lower() in fields:
            _refuse("every field once", name.strip())
        fields[name.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        return fields, 0
    _refuse("a header that ends with an empty line", "none")


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every line of a text header and the byte after it."""
    end = 0
    with open(path, "rb") as stream:
        while (line := stream.readline(LONGEST_HEADER)) and end < LONGEST_HEADER:
            end += len(line)
            if b"\0" in line:
                _refuse("text", line[:20])
            yield line.decode("utf-8", errors="replace").rstrip("\r\n"), end


def _beside(path: Path, name: str) -> Path:
    """Return the file of the voxels, which must lie beside the header."""
    if Path(name).name != name or name.upper() == "LIST" or "%" in name:
        _refuse("voxels in this file, or in one file beside it", name)
    source = path.with_name(name)
    if not source.is_file():
        _refuse(f"the voxels in {name}", "no such file")
    return source


def _demand_voxels(voxels: _Voxels) -> None:
    """Refuse voxels that are missing, too many or damaged."""
    if voxels.packing == "text":
        return
    with open(voxels.path, "rb") as stream:
        start = voxels.path.stat().st_size - voxels.bytes if voxels.start == -1 else voxels.start
        stream.seek(max(0, start))
        if voxels.packing == "raw":
            found = voxels.path.stat().st_size - start
        elif voxels.packing == "zlib":
            found = _unpacked_bytes(stream, zlib.decompressobj(), voxels.bytes)
        else:
            with gzip.open(stream) as unpacked:
                found = sum(len(chunk) for chunk in iter(lambda: unpacked.read(CHUNK), b""))
    if found != voxels.bytes:
        _refuse(f"{voxels.bytes} bytes of voxels", f"{found} bytes")


def _unpacked_bytes(stream: Any, unpacking: Any, most: int) -> int:
    """Return how many bytes a zlib stream unpacks to; the checksum at its end is compared."""
    found = 0
    for chunk in iter(lambda: stream.read(CHUNK), b""):
        while chunk and not unpacking.eof and found <= most:
            found += len(unpacking.decompress(chunk, CHUNK))
            chunk = unpacking.unconsumed_tail
    if not unpacking.eof and found <= most:
        _refuse("voxels that are packed to the end", "a stream that is cut off")
    return found


# ---------------------------------------------------------------- numbers


def _demand_room(path: Path, needed: int, packed: bool) -> None:
    """Refuse more bytes than the file can hold: a small file must not claim memory that only its header speaks of."""
    length = path.stat().st_size
    most = length * DEFLATE if packed else length
    if needed > most:
        _refuse(f"{needed} bytes", f"{length} bytes{' packed' if packed else ''}")


def _whole(name: str, word: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", word.strip()):
        _refuse(f"a whole number ({name})", word[:40])
    return int(word)


def _numbers(name: str, words: Sequence[str], count: int | None) -> None:
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            _refuse(f"numbers ({name})", word[:40])
    if count is not None and len(values) != count:
        _refuse(f"{count} numbers ({name})", len(values))
    _demand_finite(name, values)


def _demand_finite(name: str, values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        _refuse(f"finite numbers ({name})", _short(values))


def _short(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
