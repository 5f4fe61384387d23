"""Read a DICOM series, in a folder or a zip file, as one complete volume, sorted by position, in physical units.

    headers (pydicom) ─▶ one series, one orientation, even distances      slices (GDCM) · slope + intercept ─▶ [Z, Y, X]
    PET in Bq/ml ─▶ SUV (suv.py)                                          other units stay as stored: CT in HU

Every slice has its own slope and intercept. Of the headers, `read` and `describe` return only the geometry and the
pixel type; `headers` returns them in full, to write a derived series. A series that does not form a volume (a missing
slice, a tilted gantry, two series together) is refused, and the error says what was found.
"""

from __future__ import annotations

import contextlib
import math
import re
import stat
import tempfile
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from nndiff.imaging.judge import in_words
from nndiff.imaging.suv import suv_factor
from nndiff.words.errors import NndiffError
from nndiff.words.volume import FloatArray, Grid, Spacing

sitk: Any = SimpleITK

PREAMBLE = 128  # bytes before the letters DICM
UNEVEN = 0.01  # of the distance of two slices: the largest deviation of one distance
DIRECTION_TOLERANCE = 1e-3
TILT_TOLERANCE = 1e-3  # of the distance of two slices: the largest sideways shift
LARGEST_ZIP = 16 * 10**9  # bytes, unpacked
HIGHEST_RATIO = 200  # of a member's unpacked to its packed size; images are compressed two to twenty times
NAMED = 5
SHORT = 3  # letters: a name of at most so many is only matched as a whole word
SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "å": "aa", "æ": "ae"})
NO_NAMES = {"anon", "anonymous", "anonymized", "anonymised", "patient", "subject", "unknown", "phantom", "test", "case"}
REMEDY = "export the complete series again"


@dataclass(frozen=True)
class Slice:
    file: Path
    frame: int  # index in a multi-frame file; -1: the file holds one slice
    position: tuple[float, float, float]
    orientation: tuple[float, ...]  # direction cosines of a row, then of a column
    spacing: tuple[float, float]  # of rows, of columns
    shape: tuple[int, int]
    slope: float
    intercept: float


@dataclass(frozen=True)
class Series:
    slices: tuple[Slice, ...]
    grid: Grid
    factor: float  # converts the values to SUV; 1 for other modalities, and for PET that is stored in SUV
    pixel_type: str


def is_series(path: Path) -> bool:
    """Return whether a path must be a DICOM series, because it is a folder or a zip file."""
    return path.is_dir() or path.suffix.lower() == ".zip"


def holds_dicom(folder: Path) -> bool:
    """Return whether any file directly in a folder is DICOM."""
    return any(path.is_file() and _is_dicom(path) for path in folder.iterdir())


def modality(folder: Path) -> str:
    """Return the DICOM modality of the first DICOM file directly in a folder: CT, PT, MR, DX, …"""
    with in_words(folder):
        first = next(path for path in sorted(folder.iterdir()) if path.is_file() and _is_dicom(path))
        return str(_header(first, folder).get("Modality", ""))


def names_patient(path: Path, text: str) -> bool:
    """Return whether a text contains the patient's name or number.

    Placeholders of de-identification do not count, nor does a number that is also the name.
    """
    with in_words(path), _files(path) as files:
        header = _header(files[0], path) if files else {}
    name, number = (str(header.get(keyword, "")).lower() for keyword in ("PatientName", "PatientID"))
    if name == number:
        return False
    whole, parts = _plain(text), set(re.split(r"[\W\d_]+", _plain(text)))
    plain = _letters(number)
    if len(plain) > SHORT and plain not in NO_NAMES and plain in _letters(text):
        return True
    words = {spelt for word in re.split(r"[\W\d_]+", name) for spelt in (_plain(word), _plain(word.translate(SPELT)))}
    return any(word in whole if len(word) > SHORT else word in parts for word in words - NO_NAMES if len(word) > 1)


def patient_number(path: Path) -> str:
    """Return the PatientID of a series, '' if it has none or a placeholder."""
    with in_words(path), _files(path) as files:
        number = str(_header(files[0], path).get("PatientID", "")).strip() if files else ""
    return "" if _plain(number) in NO_NAMES else number


def _letters(text: str) -> str:
    """Return the letters and digits of a text alone, so that 12-345 is found in 12345."""
    return re.sub(r"[\W_]+", "", _plain(text))


def _plain(text: str) -> str:
    """Return the text without accents, in lower case."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(letter)
    )


def read(path: Path) -> tuple[FloatArray, Grid]:
    with _files(path) as files:
        series, _ = _series(files, path)
        array = np.stack([_pixels(part, path) for part in series.slices])  # [Z, Y, X]
    return array * np.float32(series.factor), series.grid


def describe(path: Path) -> tuple[Grid, str]:
    """Return the grid and the pixel type of a series, without reading its voxels."""
    series, _ = headers(path)
    return series.grid, series.pixel_type


def headers(path: Path) -> tuple[Series, list[Any]]:
    """Return the series and the headers of its slices, in the order of the slices."""
    with in_words(path), _files(path) as files:
        return _series(files, path)


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def _files(path: Path) -> Iterator[list[Path]]:
    if path.is_dir():
        yield sorted(file for file in path.rglob("*") if file.is_file() and _is_dicom(file))
        return
    with tempfile.TemporaryDirectory(prefix="nndiff_dicom_") as folder:
        yield [file for file in _unpacked(path, Path(folder)) if _is_dicom(file)]


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(PREAMBLE)
        return stream.read(4) == b"DICM"


def _unpacked(path: Path, folder: Path) -> list[Path]:
    """Unpack every member under a running number, so that no name in the archive becomes a path; return the files."""

    def refuse(found: str, remedy: str) -> NndiffError:
        return NndiffError(
            f"{path.name} is a zip file that nndiff does not unpack.", found=found, where=path, remedy=remedy
        )

    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                parts = Path(member.filename.replace("\\", "/")).parts
                if ".." in parts or Path(member.filename).is_absolute() or stat.S_ISLNK(member.external_attr >> 16):
                    raise refuse(
                        f"a path that leads out of the archive, or a link: {member.filename}",
                        "pack the files of the series alone",
                    )
                if member.flag_bits & 1:
                    raise refuse("an encrypted file", "unpack it yourself, and pass the folder")
                if member.file_size > HIGHEST_RATIO * max(1, member.compress_size):
                    found = f"{member.filename}, which would unpack to {member.file_size} bytes"
                    raise refuse(found, "check the file; if it is what you expect, unpack it and pass the folder")
            total = sum(member.file_size for member in members)
            if total > LARGEST_ZIP:
                raise refuse(f"{total} bytes when unpacked", "unpack it yourself, and pass the folder")
            files = []
            for number, member in enumerate(members):
                files.append(folder / f"{number:06d}")
                files[-1].write_bytes(archive.read(member))
            return files
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise NndiffError(
            f"{path.name} cannot be unpacked.", found=error, where=path, remedy="copy or pack it again"
        ) from None


# ---------------------------------------------------------------- headers → a series


def _series(files: Sequence[Path], path: Path) -> tuple[Series, list[Any]]:
    found = {file: header for file in files if (header := _header(file, path)).get("Rows")}
    if not found:
        what = f"{len(files)} DICOM files, but no image" if files else "no DICOM file"
        raise NndiffError(
            "The folder or zip file contains no DICOM image.", found=what, where=path, remedy="check the path"
        )
    every = list(found.values())
    _demand_one_series(every, path)
    ordered, grid = _ordered([part for file, header in found.items() for part in _slices(file, header, path)], path)
    sign = "signed" if every[0].get("PixelRepresentation", 0) else "unsigned"
    pixel_type = f"{every[0].BitsAllocated}-bit {sign}"
    return Series(ordered, grid, suv_factor(every, path), pixel_type), [found[part.file] for part in ordered]


def _header(file: Path, path: Path) -> Any:
    try:
        import pydicom
    except ImportError:
        raise NndiffError(
            "Reading DICOM needs the package pydicom.", where=path, remedy='pip install "nndiff[dicom]"'
        ) from None
    try:
        return pydicom.dcmread(file, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError) as error:
        raise NndiffError("A DICOM file cannot be read.", found=error, where=path, remedy=REMEDY) from None


def _demand_one_series(headers: Sequence[Any], path: Path) -> None:
    series = defaultdict(list)
    for header in headers:
        series[str(header.get("SeriesInstanceUID", ""))].append(header)
    if len(series) > 1:
        words = [
            f"{h[0].get('Modality', '?')} '{h[0].get('SeriesDescription', '')}' ({len(h)})" for h in series.values()
        ]
        raise NndiffError(
            "The folder or zip file contains several DICOM series.",
            expected="one series per folder or zip file",
            found=f"{len(series)}: {', '.join(words[:NAMED])}{', …' if len(words) > NAMED else ''}",
            where=path,
            remedy="move each series into its own folder",
        )


def _slices(file: Path, header: Any, path: Path) -> list[Slice]:
    rows, columns = (header.get(keyword) for keyword in ("Rows", "Columns"))
    if not (isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0):
        raise NndiffError(
            "A DICOM slice does not state its size.",
            expected="the attributes Rows and Columns, a number each",
            found=f"{rows} and {columns}",
            where=path,
            remedy=REMEDY,
        )
    shape = rows, columns
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise NndiffError("A slice is a colour image.", expected="one value per voxel", where=path, remedy=REMEDY)
    if "PerFrameFunctionalGroupsSequence" not in header:
        if int(header.get("NumberOfFrames", 1)) > 1:
            raise NndiffError(
                "A multi-frame DICOM file does not state the positions of its frames.", where=path, remedy=REMEDY
            )
        return [_slice(file, -1, [header], shape, path)]
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    return [
        _slice(file, number, [*_functional(frame), *_functional(shared[0])], shape, path)
        for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence)
    ]


def _functional(group: Any) -> list[Any]:
    """Return the items of a functional group, which hold a slice's attributes in a multi-frame file."""
    return [element.value[0] for element in group if element.VR == "SQ" and element.value] if group else []


def _slice(file: Path, frame: int, places: Sequence[Any], shape: tuple[int, int], path: Path) -> Slice:
    def of(keyword: str, count: int, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        value = next((place.get(keyword) for place in places if place.get(keyword) is not None), default)
        given = [] if value is None else list(value) if isinstance(value, Iterable) else [value]
        try:
            found = tuple(float(number) for number in given)
        except (TypeError, ValueError):
            found = ()
        if len(found) != count or not all(math.isfinite(number) for number in found):
            raise NndiffError(
                "A DICOM slice does not state where it is or what its numbers mean.",
                expected=f"the attribute {keyword} with {count} number{'s' if count > 1 else ''}",
                found=value,
                where=path,
                remedy="remove files that are not slices of the volume, or export the series again",
            )
        return found

    def number(keyword: str, default: float) -> float:
        return of(keyword, 1, (default,))[0]

    x, y, z = of("ImagePositionPatient", 3)
    rows, columns = of("PixelSpacing", 2)
    return Slice(
        file=file,
        frame=frame,
        position=(x, y, z),
        orientation=of("ImageOrientationPatient", 6),
        spacing=(rows, columns),
        shape=shape,
        slope=number("RescaleSlope", 1.0),
        intercept=number("RescaleIntercept", 0.0),
    )


def _ordered(slices: Sequence[Slice], path: Path) -> tuple[tuple[Slice, ...], Grid]:
    """Return the slices sorted along their normal, and their grid; refuse slices that do not form a regular stack."""

    def refuse(what: str, expected: str, found: str, remedy: str = REMEDY) -> NndiffError:
        return NndiffError(what, expected=expected, found=found, where=path, remedy=remedy)

    first = slices[0]
    for other in slices:
        if other.shape != first.shape:
            sizes = f"{first.shape} and {other.shape}"
            raise refuse("The slices differ in size.", "one size", sizes, "move localizers to another folder")
        turned = np.abs(np.subtract(other.orientation, first.orientation)).max()
        if turned > DIRECTION_TOLERANCE:
            found = f"{_rounded(first.orientation)} and {_rounded(other.orientation)}"
            raise refuse(
                "The slices differ in orientation.", "one orientation", found, "move localizers to another folder"
            )
        if not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            raise refuse("The slices differ in pixel size.", "one size", f"{first.spacing} and {other.spacing} mm")
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    if abs(row @ column) > DIRECTION_TOLERANCE or min(first.spacing) <= 0:
        raise refuse(
            "The orientation or pixel size of a slice is invalid.",
            "rows and columns at right angles",
            _rounded(first.orientation),
        )
    normal = np.cross(row, column)
    ordered = sorted(slices, key=lambda part: float(normal @ part.position))
    if len(ordered) < 2:
        raise refuse("A volume needs at least two slices.", "two slices or more", "1")
    places = np.array([part.position for part in ordered])
    steps = np.diff(places, axis=0)  # [N - 1, 3]
    along = steps @ normal
    step = float(np.median(along))
    if along.min() < UNEVEN * max(step, 1e-6):
        at = _rounded(ordered[int(along.argmin())].position)
        remedy = "move each phase, frame or echo to its own folder"
        raise refuse("Two slices have the same position.", "one slice per position", f"two at {at} mm", remedy)
    off = int(np.abs(along / step - 1).argmax())
    if abs(along[off] / step - 1) > UNEVEN:
        missing = round(along[off] / step) - 1
        what = f"At least {missing} slices are missing" if missing > 1 else "A slice is missing"
        what = what if missing > 0 else "The slices are unevenly spaced"
        places_of = f"a gap of {along[off]:.3g} mm after {_rounded(ordered[off].position)}, elsewhere {step:.3g} mm"
        raise refuse(f"{what}.", f"{len(ordered) + max(0, missing)} slices at even distances", places_of)
    tilt = np.linalg.norm(steps - along[:, None] * normal, axis=1).max() / step
    if tilt > TILT_TOLERANCE:
        angle = np.degrees(np.arctan(tilt))
        raise refuse(
            "The gantry was tilted, so the slices are shifted against each other.",
            "slices stacked along their normal",
            f"a tilt of {angle:.1f} degrees",
            "resample the series onto an upright grid first, for example with dcm2niix",
        )
    spacing: Spacing = (step, *first.spacing)
    matrix = np.stack([normal, column, row], axis=1)  # columns: slices, rows, columns
    shape = (len(ordered), *first.shape)
    return tuple(ordered), Grid(shape, spacing, ordered[0].position, tuple(float(value) for value in matrix.ravel()))


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


# ---------------------------------------------------------------- voxels


def _pixels(part: Slice, path: Path) -> FloatArray:
    """Return the values of one slice, stored number · slope + intercept: [Y, X]."""
    try:
        if part.frame < 0:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(part.file), sitk.sitkFloat32))[0]  # type: ignore[no-any-return]
        from pydicom.pixels.utils import pixel_array

        frames = pixel_array(part.file, index=part.frame)
        return np.asarray(frames * part.slope + part.intercept, dtype=np.float32)
    except (RuntimeError, AttributeError, ValueError, NotImplementedError) as error:
        raise NndiffError(
            "The voxels of a slice cannot be decoded.",
            found=str(error).strip().splitlines()[-1],
            where=path,
            remedy="export the series uncompressed, or decompress it (gdcmconv --raw)",
        ) from None
