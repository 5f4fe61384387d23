"""Installation of a model that was handed on: its parts, verified, in a folder of their own below the results.

    MODEL.zip ─ verified, decoded ─▶ temporary folder ─ verified again ─▶ results/models/NAME

Everything is decoded before the first byte is written, so a file that is refused leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nndiff import archive, folds
from nndiff.archive import Parts
from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic_folder
from nndiff.words.names import unfit
from nndiff.words.paths import MANIFEST, demand_zip


@dataclass(frozen=True)
class Installed:
    """An installed model."""

    folder: Path
    already: bool  # whether it had been installed before


def install(path: Path, name: str | None, models: Path) -> Installed:
    """Install the archive as `name` (by default, its file's name) below the folder of all installed models."""
    demand_zip(path)
    folder = models / _named(path, name)
    with archive.opened(path) as parts:
        verify(parts)
        if folder.exists():
            _demand_same(folder, parts)
            return Installed(folder, already=True)
        with atomic_folder(folder) as part:
            for each, listed in parts.manifest.parts.items():
                with open(part / each, "wb") as stream:
                    stream.writelines(parts.chunks(each, listed.bytes))
            (part / MANIFEST).write_bytes(parts.text)
            with archive.opened(part) as written:
                verify(written)
    return Installed(folder, already=False)


def verify(parts: Parts) -> None:
    """Refuse an archive that could not predict: decode every fold of it."""
    folds.demand_one_model([archive.read_fold(parts, fold)[0] for fold in archive.folds_in(parts)])


def _named(path: Path, name: str | None) -> str:
    chosen = path.stem if name is None else name
    if why := unfit(chosen):
        raise NndiffError(
            "This cannot be the name of an installed model.",
            found=f"{chosen!a}: {why}",
            remedy="pass another one: --name NAME",
        )
    return chosen


def _demand_same(folder: Path, parts: Parts) -> None:
    """Refuse to replace another model, or an installed one that is damaged."""
    try:
        with archive.opened(folder) as there:
            same = there.manifest.parts == parts.manifest.parts
            if same:
                verify(there)
    except NndiffError as error:
        remedy = "delete this folder, and install the model again"
        raise error.at(prefix="The installed model is damaged. ", remedy=remedy) from None
    if not same:
        raise NndiffError(
            f"Another model is installed as '{folder.name}'.",
            expected="the same content",
            found="other content",
            where=folder,
            remedy="pass another name (--name NAME), or delete that folder",
        )
