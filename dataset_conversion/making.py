"""Common code of converters that write files: one resumable job per case, and the exclusion of doubtful cases.

    gathered ─ a job ─▶ files, last STEP/CASE.json: the results and any doubt ─▶ gathered without doubtful cases

A record marks finished work, which is not repeated while the input files stay unchanged. STEP/_settings.json holds the
settings of all jobs; other settings are refused unless --overwrite repeats everything.
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
from nndiff.resources.outcomes import Failure
from nndiff.resources.workers import run
from nndiff.words.crew import Workers
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, sweep, write_json
from nndiff.words.volume import FloatArray, Volume

SETTINGS = "_settings.json"  # no case name begins with _
AIR_IS_BELOW = -300.0  # HU
SEEN = "files"  # key of a record: the state of the files that it was made from


@dataclass(frozen=True)
class Job:
    """The work on one case; subclasses add its parameters."""

    case: str
    files: tuple[Path, ...]  # that it reads
    made: tuple[Path, ...]  # that it writes

    @property
    def name(self) -> str:
        return self.case


J = TypeVar("J", bound=Job)
Record = dict[str, Any]


@dataclass(frozen=True)
class Step(Generic[J]):
    """One step of a conversion: the function that is applied to every case, and its settings."""

    name: str  # of the folder of records
    do: Callable[[J, Path], Record]  # writes a job's files, and a picture to the path; its record may hold a doubt
    settings: Mapping[str, Any] = field(default_factory=dict)
    bytes_a_job: int = 10**9


def make(step: Step[J], jobs: Sequence[J], gathered: Gathered, folder: Path, workers: Workers, overwrite: bool) -> None:
    """Run all jobs; move failed and doubtful cases from `gathered.cases` to `left_out`, and remove their files."""
    records = folder / step.name
    _settle(records, step.settings, overwrite)
    for holds in {path.parent for job in jobs for path in job.made}:
        sweep(holds)
    if overwrite:
        known = {job.name for job in jobs}
        _forget([path for path in _records(records) if path.stem not in known])
    tasks = [_Task(job, step.do, records / f"{job.name}.json") for job in jobs]
    why: dict[str, str] = {}
    for task, outcome in run(_done, tasks, workers, step.bytes_a_job, step.name.capitalize()):
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
    """Yield (name of the job, record) of all finished jobs of a step."""
    for path in _records(folder / step):
        yield path.stem, read_json(path)


def _records(records: Path) -> list[Path]:
    return [path for path in sorted(records.glob("*.json")) if path.name != SETTINGS]


def read(path: Path) -> Volume:
    """Return one image; refuse NaN and infinite voxels."""
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
    """Return why a CT cannot be in HU, or an empty text: in HU it has values of air and of water."""
    low, high = float(ct.array.min()), float(ct.array.max())
    if low <= AIR_IS_BELOW and high >= 0:
        return ""
    return f"the CT seems not to be in HU: values from {low:.0f} to {high:.0f}"


def _one_line(message: str) -> str:
    return "; ".join(line.strip() for line in message.splitlines())


def grey(array: FloatArray) -> FloatArray:
    """Return an image scaled for pictures: its P1 becomes 0 and its P99.8 becomes 1."""
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
    """Return a digest of the path, size and time of a file, or of all files of a series, which hides their names."""
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        marks = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    except OSError as error:
        raise NndiffError(f"{path.name} cannot be read.", found=error.strerror, where=path) from None
    return [hashlib.blake2b("\n".join(marks).encode(), digest_size=16).hexdigest()]


def _forget(records: Sequence[Path]) -> None:
    """Remove records that are no longer needed, and the files that their jobs wrote."""
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
