"""What lies in the input folder: CASE_0000.nii.gz, one file a source channel. Structure only, no image is opened."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from nndiff.dataset import CHANNEL, FILE_ENDINGS
from nndiff.errors import NndiffError
from nndiff.plan import Channel


@dataclass(frozen=True)
class InputCase:
    name: str
    files: tuple[Path, ...]  # a source channel each; none in generation
    ending: str  # that its outputs take


@dataclass(frozen=True)
class Inputs:
    cases: tuple[InputCase, ...]
    failures: dict[str, str]  # case → why it cannot be read
    ignored: tuple[str, ...]  # files that are no images by their name


def find(folder: Path, channels: tuple[Channel, ...]) -> Inputs:
    """Every case of the folder, sorted by name."""
    if not folder.is_dir():
        raise NndiffError("The input folder does not exist.", where=folder, remedy="correct -i")
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    endings: dict[str, str] = {}
    failures: dict[str, str] = {}
    ignored = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        ending = next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), None)
        if ending is None:
            ignored.append(path.name)
            continue
        stem = path.name[: -len(ending)]
        match = CHANNEL.match(stem)
        if match is None:
            failures[stem] = _unnumbered(path, channels)
        elif int(match["channel"]) in found[match["case"]]:
            failures[match["case"]] = f"two files are its channel {int(match['channel'])}, one of them {path.name}"
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
            "There is no image in the input folder.",
            expected=f"files such as CASE_0000.nii.gz ({' '.join(FILE_ENDINGS)})",
            found=", ".join(ignored[:5]) or "an empty folder",
            where=folder,
        )
    return Inputs(cases, failures, tuple(ignored))


def _unnumbered(path: Path, channels: tuple[Channel, ...]) -> str:
    names = ", ".join(f"_{i:04d} {channel.name}" for i, channel in enumerate(channels))
    return f"{path.name} does not say which channel it is; name it CASE_0000 ({names})"


def _wrong_channels(name: str, found: list[int], channels: tuple[Channel, ...]) -> str:
    expected = ", ".join(f"{name}_{i:04d} ({channel.name})" for i, channel in enumerate(channels))
    return f"the model takes {len(channels)} source channels, expected {expected}; found channels {found}"
