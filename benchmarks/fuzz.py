"""What nndiff does with damaged files: each is read in a process of its own kind that can be killed.

    python -m benchmarks.fuzz [--images 5000] [--seed 0] [-o FILE.csv]

Sound images of every format (NIfTI, MetaImage and NRRD, plain and packed, DICOM in a folder and in a zip file) are
damaged: bits flipped in the header or anywhere, cut off, bytes removed or repeated, numbers of text headers replaced by
hostile ones. Then each is read. It must end in the sound volume, or in an error in words. All else is counted:

    foreign      an exception that is no NndiffError
    hang, crash  no answer within DEADLINE seconds, or the process died
    geometry     read with another grid without a word, where the format says its geometry twice or packs it with a
                 checksum (.nii with both forms, .nii.gz); in other formats a digit of a voxel size can be wrong unseen
    voxels       other voxels without a word, in a packed format
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import locale
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nndiff.imaging import io
from nndiff.resources.apart import SILENT, Apart, Lost
from nndiff.words.errors import NndiffError
from nndiff.words.text_table import text_table

DEADLINE = 20.0
SHAPE, SPACING, ORIGIN = (6, 7, 9), (1.5, 2.0, 3.0), (-10.5, 20.25, 30.0)
HOSTILE = (
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "999999999999",
    "2147483648",
    "1e-320",
    "0x10",
    "",
    "a",
    "3 3",
    "١",
)
GOOD, WORDS = "good", "words"
BAD = ("foreign", "hang", "crash", "geometry", "voxels")
NAMES = ("a.nii", "a.nii.gz", "a.mha", "z.mha", "a.nrrd", "z.nrrd", "series", "series.zip")
HEADERS = {"a.nii": 348, "a.mha": 420, "z.mha": 440, "a.nrrd": 300, "z.nrrd": 300}
TWICE, PACKED = ("a.nii", "a.nii.gz"), ("a.nii.gz", "z.mha", "z.nrrd")


def seeds(folder: Path) -> None:
    """Write a sound image of every format."""
    generator = np.random.default_rng(0)
    array = generator.normal(100, 20, SHAPE).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    turned = sitk.Euler3DTransform()
    turned.SetRotation(0.1, 0.2, 0.3)
    image.SetDirection(turned.GetMatrix())
    folder.mkdir(parents=True, exist_ok=True)
    for name, packed in (("a.nii", False), ("a.nii.gz", True), ("a.mha", False), ("z.mha", True)):
        sitk.WriteImage(image, str(folder / name), packed)
    for name, packed in (("a.nrrd", False), ("z.nrrd", True)):
        sitk.WriteImage(image, str(folder / name), packed)
    kept = locale.setlocale(locale.LC_ALL)
    _write_series(folder / "series", array)
    locale.setlocale(locale.LC_ALL, kept)  # GDCM's writer sets it to C
    with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "series").iterdir()):
            archive.write(path, path.name)


def _write_series(folder: Path, array: np.ndarray) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    folder.mkdir()
    for k, plane in enumerate(np.rint(array).astype(np.int16)):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(SPACING)
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.4.{k + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3.1",
            "0020|000e": "1.2.3.2",
            "0020|0052": "1.2.3.3",
            "0020|0013": str(k + 1),
            "0020|0032": f"{ORIGIN[0]}\\{ORIGIN[1]}\\{ORIGIN[2] + k * SPACING[2]}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:03d}.dcm"))
        writer.Execute(image)


# ---------------------------------------------------------------- damage


def damaged(name: str, whole: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes of a file, damaged in one of several ways."""
    head = min(HEADERS.get(name, len(whole)), len(whole))
    kind = generator.choice(["head bit", "any bit", "head byte", "cut", "removed", "repeated", "number"])
    data = bytearray(whole)
    if kind == "number" and name.endswith((".mha", ".nrrd")):
        return _with_hostile_number(whole, generator)
    if kind in ("head bit", "any bit", "number"):
        place = int(generator.integers(len(data) if kind == "any bit" else head))
        data[place] ^= 1 << int(generator.integers(8))
    elif kind == "head byte":
        for _ in range(int(generator.integers(1, 5))):
            data[int(generator.integers(head))] = int(
                generator.choice([0, 1, 127, 128, 255, int(generator.integers(256))])
            )
    elif kind == "cut":
        del data[int(generator.integers(len(data))) :]
    else:
        start, length = int(generator.integers(len(data))), int(generator.integers(1, 64))
        data[start : start + length] = b"" if kind == "removed" else data[start : start + length] * 2
    return bytes(data)


def _with_hostile_number(whole: bytes, generator: np.random.Generator) -> bytes:
    lines = whole.split(b"\n")
    numbered = [i for i, line in enumerate(lines[:20]) if any(48 <= byte < 58 for byte in line) and len(line) < 200]
    chosen = int(generator.choice(numbered))
    words = lines[chosen].split(b" ")
    places = [i for i, word in enumerate(words) if any(48 <= byte < 58 for byte in word)]
    words[int(generator.choice(places))] = str(generator.choice(HOSTILE)).encode()
    lines[chosen] = b" ".join(words)
    return b"\n".join(lines)


def write_damaged(name: str, sound: Path, place: Path, generator: np.random.Generator) -> Path:
    """Write a damaged copy of the sound image `name` into an empty folder, and return its path."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    path = place / name
    if name == "series":
        shutil.copytree(sound / name, path)
        victim = sorted(path.iterdir())[int(generator.integers(SHAPE[0]))]
        victim.write_bytes(damaged(name, victim.read_bytes(), generator))
    else:
        path.write_bytes(damaged(name, (sound / name).read_bytes(), generator))
    return path


# ---------------------------------------------------------------- reading in a process apart


@dataclass(frozen=True)
class Outcome:
    kind: str  # GOOD, WORDS or one of BAD
    words: str


def read_one(path: Path) -> list[object]:
    volume = io.read([path])
    grid = volume.layout.grid if volume.layout else volume.grid
    geometry = [*grid.shape, *grid.spacing, *grid.origin, *grid.direction]
    return [geometry, hashlib.sha256(np.ascontiguousarray(volume.array).tobytes()).hexdigest()]


def asked(reader: Apart[Path, list[object]], path: Path) -> Outcome | list[object]:
    """Return what was read from a file, or how its reading ended."""
    try:
        return reader(path, DEADLINE)
    except Lost as error:
        return Outcome("hang" if SILENT in str(error.found) else "crash", str(error))
    except NndiffError as error:
        return Outcome(WORDS, str(error))
    except Exception as error:
        return Outcome("foreign", f"{type(error).__name__}: {error}")


def tried(images: int, seed: int, folder: Path, names: Sequence[str] = NAMES) -> Iterator[tuple[str, Path, Outcome]]:
    """Yield the format, the file and what came of every damaged image; files that went wrong are kept."""
    seeds(folder / "sound")
    generator = np.random.default_rng(seed)
    with Apart(read_one) as reader:
        whole = {name: reader(folder / "sound" / name, DEADLINE) for name in names}
        for number in range(images):
            name = names[number % len(names)]
            path = write_damaged(name, folder / "sound", folder / "now", generator)
            outcome = _judged(name, asked(reader, path), whole[name])
            if outcome.kind in BAD:
                kept = folder / "kept" / f"{number:05d}_{outcome.kind}_{name}"
                kept.parent.mkdir(exist_ok=True)
                path.rename(kept)
                path = kept
            yield name, path, outcome


def _judged(name: str, found: Outcome | list[object], whole: list[object]) -> Outcome:
    if isinstance(found, Outcome):
        return found
    if not np.allclose(np.array(found[0]), np.array(whole[0]), rtol=2e-2, atol=1e-1):
        return Outcome("geometry" if name in TWICE else GOOD, f"{found[0]}")
    return Outcome("voxels" if name in PACKED and found[1] != whole[1] else GOOD, "")


def told(
    trials: Iterable[tuple[str, Path, Outcome]], names: Sequence[str], bad: Sequence[str], output: Path | None
) -> int:
    """Print what went wrong and a table of what came of the files by name, and return the exit code."""
    counted: Counter[tuple[str, str]] = Counter()
    for name, path, outcome in trials:
        counted[name, outcome.kind] += 1
        if outcome.kind in bad:
            print(f"{outcome.kind}: {path}: {outcome.words[:200]}", flush=True)
    kinds = (GOOD, WORDS, *bad)
    rows = [["", *kinds], *([name, *(str(counted[name, kind]) for kind in kinds)] for name in names)]
    print(text_table(rows))
    if output is not None:
        with output.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return int(any(counted[name, kind] for name in names for kind in bad))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("-o", "--output", type=Path, default=None, metavar="FILE.csv")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="keep the files that went wrong here")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        trials = tried(arguments.images, arguments.seed, arguments.keep or Path(folder), arguments.only)
        return told(trials, arguments.only, BAD, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
