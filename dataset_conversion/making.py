"""What converters that write files share: a job a case, taken up where it stopped; who is in doubt is left out.

    gathered ─ a job ─▶ files, last STEP/CASE.json: what was found, and a doubt or none ─▶ gathered without the doubtful

A record stands for finished work: while the files it was made of stay as they are, it is not done again.
STEP/_settings.json says what all of it was made with; other settings are refused unless everything shall be made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from dataset_conversion.base import REPORT, Gathered
from nndiff.imaging import io
from nndiff.resources.workers import Failure, run, worker_count
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, sweep, write_json
from nndiff.words.volume import FloatArray, Volume

SETTINGS = "_settings.json"  # no case begins with _
AIR_IS_BELOW = -300.0  # HU
SEEN = "files"  # in a record: what each of them was made of


@dataclass(frozen=True)
class Job:
    """A case's work; what more it needs is a subclass's."""

    case: str
    files: tuple[Path, ...]  # of what
    made: tuple[Path, ...]  # what

    @property
    def name(self) -> str:
        return self.case


J = TypeVar("J", bound=Job)
Record = dict[str, Any]


@dataclass(frozen=True)
class Step(Generic[J]):
    """What is done to every case, and with what."""

    name: str  # of the folder of records
    do: Callable[[J, Path], Record]  # the files of a job; a picture, if any, goes to the path. May say a doubt
    settings: Mapping[str, Any] = field(default_factory=dict)
    bytes_a_job: int = 10**9


def make(
    step: Step[J], jobs: Sequence[J], gathered: Gathered, folder: Path, workers: int | None, overwrite: bool
) -> None:
    """Do all jobs; whoever fails or is in doubt goes from `gathered.cases` to `left_out`, and has no files."""
    records = folder / step.name
    _settle(records, step.settings, overwrite)
    for holds in {path.parent for job in jobs for path in job.made}:
        sweep(holds)
    if overwrite:
        known = {job.name for job in jobs}
        _forget([path for path in _records(records) if path.stem not in known])
    tasks = [_Task(job, step.do, records / f"{job.name}.json") for job in jobs]
    why: dict[str, str] = {}
    for task, outcome in run(_done, tasks, worker_count(workers, len(tasks), step.bytes_a_job), step.name.capitalize()):
        doubt = _one_line(outcome.message) if isinstance(outcome, Failure) else str(outcome.get("doubt", ""))
        if doubt:
            why.setdefault(task.job.case, doubt)
    for case in why:
        gathered.cases.pop(case, None)
        for path in (path for job in jobs if job.case == case for path in job.made):
            path.unlink(missing_ok=True)
    gathered.left_out.update(why)
    if not gathered.cases:
        write_json(folder / REPORT, {"cases": 0, "left_out": gathered.left_out})
        case, doubt = next(iter(why.items()))
        raise NndiffError(f"No case passed the step {step.name}.", found=f"{case}: {doubt}", where=folder / REPORT)


def records_of(step: str, folder: Path) -> Iterator[tuple[str, Record]]:
    """(job, record) of all finished work."""
    for path in _records(folder / step):
        yield path.stem, read_json(path)


def _records(records: Path) -> list[Path]:
    return [path for path in sorted(records.glob("*.json")) if path.name != SETTINGS]


def read(path: Path) -> Volume:
    """One image, all of whose voxels are numbers."""
    volume = io.read([path])
    bad = int(np.count_nonzero(~np.isfinite(volume.array)))
    if bad:
        raise NndiffError(
            f"{path.name} contains NaN or infinite values.",
            found=f"{bad} of {volume.array.size} voxels",
            where=path,
            remedy="replace these values in the file; nndiff does not guess them",
        )
    return volume


def no_hu(ct: Volume) -> str:
    """Why a CT cannot be in HU, or nothing: there is air, and there is water."""
    low, high = float(ct.array.min()), float(ct.array.max())
    if low <= AIR_IS_BELOW and high >= 0:
        return ""
    return f"the CT seems not to be in HU: values from {low:.0f} to {high:.0f}"


def _one_line(message: str) -> str:
    return "; ".join(line.strip() for line in message.splitlines())


def grey(array: FloatArray) -> FloatArray:
    """For pictures: what matters of any kind of image in 0 to 1."""
    low, high = np.percentile(array, (1, 99.8))
    return np.asarray((array - low) / max(float(high - low), 1e-9), dtype=np.float32)


@dataclass(frozen=True)
class _Task(Generic[J]):
    job: J
    do: Callable[[J, Path], Record]
    record: Path

    @property
    def name(self) -> str:
        return self.job.name


def _done(task: _Task[Any]) -> Record:
    seen = [mark for path in task.job.files for mark in _marks(path)]
    if task.record.exists():
        record = dict(read_json(task.record))
        if record.get(SEEN) == seen and (record.get("doubt") or all(path.exists() for path in task.job.made)):
            return record
    found = task.do(task.job, task.record.with_suffix(".png"))
    folder = task.record.parent.parent
    made = [str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in task.job.made]
    record = {**found, SEEN: seen, "made": made}
    write_json(task.record, record)
    return record


def _marks(path: Path) -> list[str]:
    """By which a file, or each of a series, is known again; its name stays out."""
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        marks = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    except OSError as error:
        raise NndiffError(f"{path.name} cannot be read.", found=error.strerror, where=path) from None
    return [hashlib.blake2b("\n".join(marks).encode(), digest_size=16).hexdigest()]


def _forget(records: Sequence[Path]) -> None:
    """Finished work that nobody asks for any more, and what was made by it."""
    for record in records:
        for name in read_json(record).get("made", []):
            (record.parent.parent / name).unlink(missing_ok=True)
        record.with_suffix(".png").unlink(missing_ok=True)
        record.unlink()


def _settle(records: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    path = records / SETTINGS
    if path.exists() and read_json(path) != settings:
        if not overwrite:
            raise NndiffError(
                "This dataset was made with other settings.",
                expected=", ".join(f"{key} {value}" for key, value in read_json(path).items()),
                found=", ".join(f"{key} {value}" for key, value in settings.items()),
                where=records.parent,
                remedy="pass --overwrite to make it again, or choose another number (-d)",
            )
        _forget(_records(records))
    write_json(path, dict(settings))
