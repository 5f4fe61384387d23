"""The text headers of MetaImage (.mha, .mhd) and NRRD, and their voxels, judged before a library sees them."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nndiff.imaging.judge import CHUNK, LONGEST_HEADER, Wrong, demand_room, demand_shape, judged, numbers, refuse, whole

META, NRRD = (".mha", ".mhd"), (".nrrd",)
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


def demand_sound(path: Path) -> None:
    """Refuse a file whose header states what cannot be true; formats without a text header are not looked at."""
    with judged(path):
        _voxels(path)


def demand_whole(path: Path) -> None:
    """Refuse a file whose voxels are missing, too many or damaged."""
    with judged(path):
        if (voxels := _voxels(path)) is not None:
            _demand_voxels(voxels)


def _voxels(path: Path) -> _Voxels | None:
    """Return where the voxels are, after the header was judged."""
    name = path.name.lower()
    return _meta(path) if name.endswith(META) else _nrrd(path) if name.endswith(NRRD) else None


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

    def demand(names: Sequence[str], count: int) -> None:
        for name in names:
            if name in fields:
                numbers(name, fields[name].split(), count)

    axes = whole("NDims", fields.get("NDims", ""))
    shape = [whole("DimSize", word) for word in fields.get("DimSize", "").split()]
    demand_shape(axes, shape, ("NDims", "DimSize"))
    demand(("ElementSpacing", "ElementSize"), axes)
    demand(("Offset", "Position", "Origin"), axes)
    demand(("TransformMatrix", "Rotation", "Orientation"), axes * axes)
    demand(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 1)
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    each = META_TYPES.get(kind, META_TYPES.get(kind.removeprefix("U")))
    if each is None:
        refuse("a type of voxels (ElementType)", fields.get("ElementType"))
    channels = whole("ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if not 1 <= channels <= 1 << 16:
        refuse("1 value or more a voxel (ElementNumberOfChannels)", channels)
    size = math.prod(shape) * each * channels
    packed = fields.get("CompressedData", "False").lower() == "true"
    text = fields.get("BinaryData", "True").lower() != "true"
    source, start = path, end
    if (where := fields["ElementDataFile"]).lower() != "local":
        source, start = _beside(path, where), whole("HeaderSize", fields.get("HeaderSize", "0"))
    if packed:
        stated = whole("CompressedDataSize", fields.get("CompressedDataSize", ""))
        if stated != (there := source.stat().st_size - max(0, start)):
            refuse(f"{there} bytes of packed voxels (CompressedDataSize)", stated)
    voxels = _Voxels(source, start, size, "text" if text else "zlib" if packed else "raw")
    demand_room(source, size, packed or text)
    return voxels


def _meta_fields(path: Path) -> tuple[Mapping[str, str], int]:
    """Return the fields of the header, and the byte after it."""
    fields = dict[str, str]()
    for line, end in _lines(path):
        name, sign, value = line.partition("=")
        if not sign:
            refuse("lines of the form NAME = VALUE", line[:60])
        if name.strip() in fields:
            refuse("every field once", name.strip())
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields, end
    raise Wrong("a header that ends with ElementDataFile", "none")


def _nrrd(path: Path) -> _Voxels:
    """Return where the voxels of a NRRD file are, after its header was judged."""
    fields, end = _nrrd_fields(path)
    axes = whole("dimension", fields.get("dimension", ""))
    shape = [whole("sizes", word) for word in fields.get("sizes", "").split()]
    demand_shape(axes, shape, ("dimension", "sizes"))
    each = NRRD_TYPES.get(fields.get("type", ""))
    if each is None:
        refuse("a type of voxels (type)", fields.get("type"))
    for name in ("space directions", "space origin"):
        for vector in re.findall(r"\(([^)]*)\)", fields.get(name, "")):
            numbers(name, vector.split(","), None)
    if "spacings" in fields:
        words = [word for word in fields["spacings"].split() if word.lower() != "nan"]  # of an axis that is not spatial
        numbers("spacings", words, None)
    encoding = fields.get("encoding", "").lower()
    packing = PACKINGS.get(encoding)
    if packing is None:
        refuse("raw, gzip or ascii (encoding)", fields.get("encoding"))
    size, source = math.prod(shape) * each, path
    skipped = whole("byte skip", fields.get("byte skip", fields.get("byteskip", "0")))
    if where := fields.get("data file", fields.get("datafile")):
        source, end = _beside(path, where), 0
    if skipped < -1 or int(fields.get("line skip", "0") or 0):
        refuse("voxels right after the header", f"byte skip {skipped}, line skip {fields.get('line skip', 0)}")
    demand_room(source, size, packing != "raw")
    return _Voxels(source, -1 if skipped == -1 else end + skipped, size, packing)


def _nrrd_fields(path: Path) -> tuple[Mapping[str, str], int]:
    fields = dict[str, str]()
    lines = _lines(path)
    first, _ = next(lines, ("", 0))
    if not re.fullmatch(r"NRRD000\d", first.strip()):
        refuse("the first line of a NRRD file", first[:20])
    for line, end in lines:
        if not line.strip():
            return fields, end
        if line.startswith("#") or ":=" in line:  # a comment, a value of the user's own
            continue
        name, sign, value = line.partition(":")
        if not sign:
            refuse("lines of the form NAME: VALUE", line[:60])
        if name.strip().lower() in fields:
            refuse("every field once", name.strip())
        fields[name.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        return fields, 0
    raise Wrong("a header that ends with an empty line", "none")


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every line of a text header and the byte after it."""
    end = 0
    with open(path, "rb") as stream:
        while (line := stream.readline(LONGEST_HEADER)) and end < LONGEST_HEADER:
            end += len(line)
            if b"\0" in line:
                refuse("text", line[:20])
            yield line.decode("utf-8", errors="replace").rstrip("\r\n"), end


def _beside(path: Path, name: str) -> Path:
    """Return the file of the voxels, which must lie beside the header."""
    if Path(name).name != name or name.upper() == "LIST" or "%" in name:
        refuse("voxels in this file, or in one file beside it", name)
    source = path.with_name(name)
    if not source.is_file():
        refuse(f"the voxels in {name}", "no such file")
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
            found = _unpacked_bytes(stream, voxels.bytes)
        else:
            with gzip.open(stream) as unpacked:
                found = sum(len(chunk) for chunk in iter(lambda: unpacked.read(CHUNK), b""))
    if found != voxels.bytes:
        refuse(f"{voxels.bytes} bytes of voxels", f"{found} bytes")


def _unpacked_bytes(stream: BinaryIO, most: int) -> int:
    """Return how many bytes a zlib stream unpacks to; the checksum at its end is compared."""
    unpacking, found = zlib.decompressobj(), 0
    for chunk in iter(lambda: stream.read(CHUNK), b""):
        while chunk and not unpacking.eof and found <= most:
            found += len(unpacking.decompress(chunk, CHUNK))
            chunk = unpacking.unconsumed_tail
    if not unpacking.eof and found <= most:
        refuse("voxels that are packed to the end", "a stream that is cut off")
    return found
