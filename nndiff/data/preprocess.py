"""Prepare all raw cases of a dataset for each configuration of its plan, and store them.

Cases are prepared in parallel, as many as RAM allows. Finished cases are skipped: a case is finished if its arrays are
complete and its record names the same preparation, files and group. Configurations with equal preparations share one
set of files: the second folder gets hard links.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nndiff.data.prepare import Prepared, prepare
from nndiff.imaging import io, store
from nndiff.plans.channels import Preparation
from nndiff.plans.plan import Plan, digest
from nndiff.resources.machine import GB, disk_free
from nndiff.resources.outcomes import Failure, demand_success
from nndiff.resources.owner import owned
from nndiff.resources.workers import run
from nndiff.words.crew import Workers
from nndiff.words.dataset import Case, Dataset
from nndiff.words.errors import NndiffError
from nndiff.words.files import sweep
from nndiff.words.strict_json import encode
from nndiff.words.volume import FloatArray, Volume

BYTES_A_VOXEL_AND_CHANNEL = 24  # of the larger grid, per worker: raw, normalised, resampled, undone, temporaries


@dataclass(frozen=True)
class Summary:
    configuration: str
    folder: Path
    done: int
    skipped: int
    removed: int  # prepared cases that the dataset no longer has
    worst_error: float  # largest error of undo, in normalised units
    worst_case: str
    cut: tuple[str, ...]  # cases that are larger than the one shape of generation


def preprocess(
    dataset: Dataset, plan: Plan, configurations: Sequence[str], folder: Path, workers: Workers = None
) -> list[Summary]:
    """Prepare every case for every configuration in its folder below `folder`; return one summary per configuration."""
    dataset.demand_sound()
    with owned(folder):
        return [_of_configuration(dataset, plan, name, folder, workers) for name in configurations]


def _of_configuration(dataset: Dataset, plan: Plan, name: str, folder: Path, workers: Workers) -> Summary:
    """Prepare every case for one configuration."""
    task = _Task(_preparation(plan, name), folder / name)
    sweep(task.folder)
    removed = _remove_strangers(task.folder, {case.name for case in dataset.cases})
    todo = [case for case in dataset.cases if not task.done(case)]
    twins = [replace(task, folder=folder / other) for other in plan.configurations if other != name]
    twin = next((twin for twin in twins if todo and all(map(twin.done, dataset.cases))), None)
    if twin is not None:
        for case in todo:
            store.link_case(twin.folder, task.folder, case.name)
    elif todo:
        _prepare_all(task, todo, workers)
    return _summary(name, task.folder, dataset, len(todo), removed)


def _preparation(plan: Plan, name: str) -> Preparation:
    if name not in plan.configurations:
        raise NndiffError(
            f"The plan has no configuration '{name}'.",
            expected=" or ".join(plan.configurations),
            remedy=f"plan it first: nndiff_plan -d {plan.dataset[7:10]} -c {name}",
        )
    return plan.preparation(name)


def _prepare_all(task: _Task, todo: Sequence[Case], workers: Workers) -> None:
    held, voxels = _voxels(todo, task.preparation)
    channels = len(task.preparation.source_channels) + len(task.preparation.target_channels)
    _demand_disk(task.folder, voxels * (4 * channels + 1) * len(todo))
    bytes_each = BYTES_A_VOXEL_AND_CHANNEL * channels * held
    outcomes = list(run(task, todo, workers, bytes_each, f"Preprocess {task.folder.name}"))
    demand_success([outcome for _, outcome in outcomes if isinstance(outcome, Failure)], len(todo), "Preprocess")


@dataclass(frozen=True)
class _Task:
    preparation: Preparation
    folder: Path

    def done(self, case: Case) -> bool:
        try:
            record = store.read_record(self.folder, case.name)
            if record is not None:
                store.open_case(self.folder, case.name)
        except NndiffError:  # the stored case is damaged: this run prepares it again
            return False
        return (
            record is not None
            and record.get("preparation") == digest(self.preparation)
            and record.get("files") == _signatures(case)
            and record.get("group") == case.group
        )

    def __call__(self, case: Case) -> None:
        source = io.read(case.source) if case.source else None
        target = io.read(case.target)
        mask = io.read([case.mask]) if case.mask else None
        _demand_one_grid(case, source, target, mask)
        _demand_finite(source, target)
        prepared = prepare(source, target, mask, self.preparation)
        arrays = {"source": prepared.source, "target": prepared.target, "mask": prepared.mask}
        present = {name: array for name, array in arrays.items() if array is not None}
        store.write_case(self.folder, case.name, present, self._record(case, prepared, target))

    def _record(self, case: Case, prepared: Prepared, target: Volume) -> dict[str, Any]:
        cut = cut_away(prepared)
        return {
            "case": case.name,
            "group": case.group,
            "preparation": digest(self.preparation),
            "files": _signatures(case),
            "shape": list(prepared.grid.shape),
            "spacing": list(prepared.grid.spacing),
            "cut": round(cut, 4),
            "undo_error": 0.0 if cut else float(f"{undo_error(prepared, target):.3g}"),
            "undo": encode(prepared.undo),
        }


def undo_error(prepared: Prepared, target: Volume) -> float:
    """Return the rms of undo(prepared target) - target inside the crop, in normalised units: the resampling error."""
    assert prepared.target is not None
    home = prepared.undo(prepared.target)
    inside = (slice(None), *prepared.undo.box.slices)
    squares = [
        np.square((a - b) / m.scale, dtype=np.float64).mean()
        for a, b, m in zip(home.array[inside], target.array[inside], prepared.undo.maps, strict=True)
    ]
    return math.sqrt(float(np.mean(squares)))


def cut_away(prepared: Prepared) -> float:
    """Return the share of the case that does not fit the one shape of generation; 0 in translation."""
    kept = [min(n, m) / n for n, m in zip(prepared.undo.resampled.shape, prepared.grid.shape, strict=True)]
    return 1 - math.prod(kept)


# ---------------------------------------------------------------- records and checks


def _remove_strangers(folder: Path, known: set[str]) -> int:
    strangers = [name for name in store.cases(folder) if name not in known] if folder.is_dir() else []
    for name in strangers:
        store.remove_case(folder, name)
    return len(strangers)


def _summary(name: str, folder: Path, dataset: Dataset, done: int, removed: int) -> Summary:
    records = {case.name: store.read_record(folder, case.name) or {} for case in dataset.cases}
    worst = max(records, key=lambda case: records[case]["undo_error"])
    cut = tuple(case for case, record in records.items() if record["cut"] > 0)
    return Summary(
        configuration=name,
        folder=folder,
        done=done,
        skipped=len(dataset.cases) - done,
        removed=removed,
        worst_error=records[worst]["undo_error"],
        worst_case=worst,
        cut=cut,
    )


def _signatures(case: Case) -> dict[str, list[int]]:
    """Return size and modification time of each file, so that a changed scan is prepared again."""
    stats = {path: path.stat() for path in case.files}
    return {str(path): [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


def _voxels(cases: Sequence[Case], preparation: Preparation) -> tuple[int, int]:
    """Return the voxels of the first readable case, from its header: the most that is held at once, and what is stored.

    The first counts for memory: before or after resampling, the larger number. The second counts for the disk.
    """
    for case in cases:
        try:
            header = io.read_header(case.files[0])
        except NndiffError:  # this case fails later, without stopping the others
            continue
        grown = math.prod(header.spacing) / math.prod(preparation.spacing)
        resampled = math.ceil(math.prod(header.shape) * grown)
        stored = math.prod(preparation.volume_shape) if preparation.volume_shape else resampled
        return max(math.prod(header.shape), stored), stored
    return 1, 1


def _demand_disk(folder: Path, needed: int) -> None:
    free = disk_free(folder)
    if needed > free:
        raise NndiffError(
            "There is not enough free disk space for the preprocessed data.",
            expected=f"up to {needed / GB:.1f} GB",
            found=f"{free / GB:.1f} GB free",
            where=folder,
            remedy="free some space, pass a --preprocessed folder on another disk, or prepare one configuration (-c)",
        )


def _demand_one_grid(case: Case, source: Volume | None, target: Volume, mask: Volume | None) -> None:
    reference = source or target
    for side, volume, files in (("target", target, case.target), ("mask", mask, (case.mask,))):
        difference = reference.grid.difference(volume.grid) if volume is not None else None
        if difference is not None:
            what = f"The voxel grid of the {side} differs from that of the case's first file: {difference}."
            raise NndiffError(what, where=files[0], remedy="resample one onto the other, and run the command again")


def _demand_finite(source: Volume | None, target: Volume) -> None:
    for side, volume in (("source", source), ("target", target)):
        if volume is not None and not _finite(volume.array):
            raise NndiffError(
                f"The {side} contains NaN or infinite values.",
                remedy="replace these values in the file; nndiff does not guess them",
            )


def _finite(array: FloatArray) -> bool:
    return bool(np.isfinite(array).all())
