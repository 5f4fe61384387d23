"""The fingerprint of a dataset, read again only if a file of the dataset has changed.

    preprocessed/DATASET/fingerprint.json          the fingerprint
    preprocessed/DATASET/fingerprint_of.json       which files it was extracted from, and what it warned of

Reading every scan can take an hour. A dry run therefore keeps its fingerprint for the run that follows it, as long as
there is no plan that was made from another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nndiff.data.fingerprint import extract
from nndiff.plans.plan import load, save
from nndiff.words.crew import Workers
from nndiff.words.dataset import Dataset, Finding
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.version import VERSION, versions

FILE, ORIGIN = "fingerprint.json", "fingerprint_of.json"


@dataclass(frozen=True)
class Origin:
    """What a fingerprint was extracted from."""

    files: str  # digest of the names, sizes and times of all files, and of the settings
    fingerprint: str  # digest of the fingerprint's file
    warnings: tuple[Finding, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Measured:
    fingerprint: Fingerprint
    warnings: tuple[Finding, ...]
    files: str  # digest of what it was extracted from, as it was before
    kept: bool  # whether an earlier fingerprint was still right


def measured(dataset: Dataset, folder: Path, workers: Workers, verify: bool, anew: bool = False) -> Measured:
    """Return the fingerprint in preprocessed/DATASET if it is that of these files, else extract one.

    anew: extract one in any case.
    """
    files = digest_of(dataset, verify)
    earlier = None if anew else _kept(folder, files)
    if earlier is not None:
        return earlier
    found, warnings = extract(dataset, workers, verify)
    return Measured(found, tuple(warnings), files, kept=False)


def keep(folder: Path, found: Measured) -> None:
    """Write the fingerprint and its origin."""
    save(folder / FILE, found.fingerprint)
    save(folder / ORIGIN, Origin(found.files, _digest(folder / FILE), found.warnings, versions()))


def digest_of(dataset: Dataset, verify: bool) -> str:
    """Return a digest that changes with every file of the dataset, as far as sizes and times tell, and with nndiff."""
    digest = hashlib.sha256(f"{VERSION} {verify} {dataset.folder}".encode())
    for path in (dataset.folder / "dataset.json", *(path for case in dataset.cases for path in case.files)):
        for file in _files(path):
            state = file.stat()
            digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """Yield the file, or the files of a series below a folder; what is missing is for the extraction to say."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path


def _kept(folder: Path, files: str) -> Measured | None:
    if not (folder / FILE).is_file() or not (folder / ORIGIN).is_file():
        return None
    try:
        origin = load(Origin, folder / ORIGIN)
        if (origin.files, origin.fingerprint) != (files, _digest(folder / FILE)):
            return None
        return Measured(load(Fingerprint, folder / FILE), origin.warnings, files, kept=True)
    except NndiffError:  # damaged, or of another version
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
