"""The cases of the input: a folder with CASE_0000.nii.gz, one file per source channel. No image is opened here.

A channel may be a DICOM series, in a folder CASE_0000 or a file CASE_0000.zip; for a model with one channel the name
CASE is enough. If the input folder itself is a series, it is one case, with the name of the folder. If the input is a
file, it is one case, with the other channels beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nndiff.imaging import dicom
from nndiff.plans.channels import Channel
from nndiff.words.dataset import CHANNEL, FILE_ENDINGS
from nndiff.words.errors import NndiffError
from nndiff.words.names import shown, unfit
from nndiff.words.paths import demand_input
from nndiff.words.telling import counted

DICOM_TO = ".nii.gz"


@dataclass(frozen=True)
class InputCase:
    """A case to predict."""

    name: str
    files: tuple[Path, ...]  # one per source channel; none in generation
    ending: str  # file ending of its outputs


@dataclass(frozen=True)
class Inputs:
    """The contents of the input folder."""

    cases: tuple[InputCase, ...]
    failures: dict[str, str]  # case → the reason why it cannot be read
    ignored: tuple[str, ...]  # files whose names are not those of images


def find(folder: Path, channels: tuple[Channel, ...]) -> Inputs:
    """Return all cases of the folder, sorted by name, or the one case of a file."""
    demand_input(folder)
    alone = folder.is_file()
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    endings: dict[str, str] = {}
    failures: dict[str, str] = {}
    ignored = []
    itself = not alone and dicom.holds_dicom(folder)
    for path in _channels_of(folder) if alone else [folder] if itself else sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        named = _named(path.resolve() if itself else path, channels, alone)
        if named is None:
            ignored.append(path.name)
            continue
        stem, ending = named
        match = CHANNEL.match(stem)
        if match is None:
            failures[shown(stem)] = _unnumbered(path, channels)
        elif why := unfit(match["case"]):
            failures[shown(match["case"])] = f"the text cannot be the name of a case: {why}; rename {shown(path.name)}"
        elif int(match["channel"]) in found[match["case"]]:
            failures[match["case"]] = (
                f"two files are channel {int(match['channel'])} of this case, one of them {path.name}"
            )
        else:
            found[match["case"]][int(match["channel"])] = path
            endings[match["case"]] = ending
    wanted = list(range(len(channels)))
    for name, files in found.items():
        if sorted(files) != wanted and name not in failures:
            failures[name] = _wrong_channels(name, sorted(files), channels)
    cases = tuple(
        InputCase(name, tuple(files[i] for i in wanted), endings[name])
        for name, files in sorted(found.items())
        if name not in failures
    )
    if not cases and not failures:
        raise NndiffError(
            "The input folder contains no image.",
            expected=f"files such as CASE_0000.nii.gz ({' '.join(FILE_ENDINGS)})",
            found=", ".join(ignored[:5]) or "an empty folder",
            where=folder,
            remedy="correct the path after -i, or rename the files",
        )
    return Inputs(cases, failures, tuple(ignored))


def listed(files: Mapping[str, tuple[Path, ...]]) -> Inputs:
    """Return cases whose files are known, sorted by name; a DICOM series becomes NIfTI."""
    cases = (InputCase(name, paths, _ending(paths[0]) or DICOM_TO) for name, paths in sorted(files.items()))
    return Inputs(tuple(cases), {}, ())


def to_generate(volumes: int, ending: str) -> Inputs:
    """Return the cases of a generation: one name per volume, without files."""
    return Inputs(tuple(InputCase(f"volume_{i:03d}", (), ending) for i in range(volumes)), {}, ())


def _channels_of(file: Path) -> list[Path]:
    """Return the file and, if it is one channel of a case, those beside it."""
    ending = _ending(file)
    match = None if ending is None else CHANNEL.match(file.name.removesuffix(ending))
    if match is None or ending is None:
        return [file]
    stems = {path: CHANNEL.match(path.name.removesuffix(ending)) for path in file.parent.glob(f"*{ending}")}
    return sorted(path for path, stem in stems.items() if stem is not None and stem["case"] == match["case"])


def _named(path: Path, channels: tuple[Channel, ...], alone: bool) -> tuple[str, str] | None:
    """Return CASE_0000 and the file ending of its outputs, or None if the path is not an image.

    A file that is given `alone` needs no channel number, if the model has one channel.
    """
    archive = path.suffix.lower() == ".zip"
    if archive or (path.is_dir() and any(dicom.holds_dicom(folder) for folder in (path, *_below(path)))):
        stem = path.stem if archive else path.name
        return (f"{stem}_0000" if len(channels) == 1 and not CHANNEL.match(stem) else stem), DICOM_TO
    ending = _ending(path)
    if ending is None or not path.is_file():
        return None
    stem = path.name[: -len(ending)]
    return (f"{stem}_0000" if alone and len(channels) == 1 and not CHANNEL.match(stem) else stem), ending


def _ending(path: Path) -> str | None:
    return next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), None)


def _below(path: Path) -> list[Path]:
    return [folder for folder in path.rglob("*") if folder.is_dir()]


def _unnumbered(path: Path, channels: tuple[Channel, ...]) -> str:
    names = ", ".join(f"_{i:04d} {channel.name}" for i, channel in enumerate(channels))
    return f"the name of {shown(path.name)} has no channel number; rename it to CASE_0000 ({names})"


def _wrong_channels(name: str, found: list[int], channels: tuple[Channel, ...]) -> str:
    expected = ", ".join(f"{name}_{i:04d} ({channel.name})" for i, channel in enumerate(channels))
    return f"the model needs {counted(len(channels), 'source channel')}: expected {expected}; found channels {found}"
