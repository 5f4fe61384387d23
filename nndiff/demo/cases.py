"""Simulated scans as a raw dataset: the same format that a hospital's folder has, so it also shows the format.

    Dataset900_DemoPET    low-count PET → full-count PET
    Dataset901_DemoNAC    uncorrected low-count PET → corrected full-count PET, of the same bodies

Beside the training cases stand held-out ones (imagesTs, targetsTs) with their lesions (masksTs).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nndiff.demo.bodies import SHAPE, SPACING, Body, random_body
from nndiff.demo.scanner import Scanner
from nndiff.errors import NndiffError
from nndiff.files import write_json
from nndiff.imaging import io
from nndiff.volume import FloatArray, Volume
from nndiff.workers import Failure, demand_success, run, worker_count

DATASETS = {
    "Dataset900_DemoPET": "low-count PET to full-count PET, simulated",
    "Dataset901_DemoNAC": "uncorrected low-count PET to corrected full-count PET, simulated",
}
TRUE_COUNTS_A_SLICE = 1e6  # at full dose
BYTES_A_CASE = 500 * 10**6


@dataclass(frozen=True)
class DemoCase:
    name: str
    seed: int
    part: str  # Tr | Ts
    dose: float  # share of the counts that the low-count scan keeps
    raw: Path


def simulate(raw: Path, training: int, held_out: int, dose: float, seed: int, workers: int | None = None) -> list[Path]:
    """Write both demo datasets below `raw`; case i depends on (seed, i) alone."""
    if training < 1 or held_out < 0 or not 0 < dose < 1:
        raise NndiffError(
            "The demo needs at least one training case and a dose between 0 and 1.",
            found=f"{training} cases, dose {dose}",
        )
    parts = ["Tr"] * training + ["Ts"] * held_out
    cases = [DemoCase(f"body{i:03d}", seed, part, dose, raw) for i, part in enumerate(parts)]
    outcomes = run(write_case, cases, worker_count(workers, len(cases), BYTES_A_CASE), "Simulate")
    demand_success([outcome for _, outcome in outcomes if isinstance(outcome, Failure)], len(cases), "Simulate")
    for name, description in DATASETS.items():
        words = {"channel_names": {"0": "PET"}, "target_names": {"0": "PET"}, "file_ending": ".nii.gz"}
        if "NAC" in name:
            words["channel_names"] = {"0": "NAC PET"}
        write_json(
            raw / name / "dataset.json",
            {"name": name[11:], "description": description, **words, "numTraining": training},
        )
    return [raw / name for name in DATASETS]


def write_case(case: DemoCase) -> None:
    generator = np.random.default_rng([case.seed, int(case.name[4:])])
    body = random_body(generator, SHAPE, SPACING)
    low, uncorrected, full = acquire(body, case.dose, generator)
    for name, source in zip(DATASETS, (low, uncorrected), strict=True):
        folder = case.raw / name
        _write(folder / f"images{case.part}" / f"{case.name}_0000.nii.gz", source, body)
        _write(folder / f"targets{case.part}" / f"{case.name}_0000.nii.gz", full, body)
        if case.part == "Ts":
            _write(folder / "masksTs" / f"{case.name}.nii.gz", body.lesions.astype(np.float32), body)


def acquire(body: Body, dose: float, generator: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(low-count, low-count uncorrected, full-count) images of one body, from one scan."""
    scanner = Scanner(body.grid.shape[2], body.grid.spacing[2])
    scan = scanner.scan(body.activity, body.attenuation, TRUE_COUNTS_A_SLICE, generator)
    low = scan.thinned(dose, generator)
    return tuple(  # type: ignore[return-value]
        scanner.reconstruct(what, body.grid, corrected) for what, corrected in ((low, True), (low, False), (scan, True))
    )


def _write(path: Path, array: FloatArray, body: Body) -> None:
    io.write(Volume(array[None], body.grid), path)
