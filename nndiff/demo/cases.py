"""Simulated scans as raw datasets, in the format of any dataset, of which they are also an example.

    Dataset900_DemoPET    low-count PET → full-count PET
    Dataset901_DemoNAC    uncorrected low-count PET → corrected full-count PET, of the same bodies

In addition to the training cases there are held-out ones (imagesTs, targetsTs) with their lesions (regionsTs: lesion 1,
2, …) and ceiling.json: {case: PSNR of the noise-free reconstruction against the full-count target}. A model can hardly
exceed this ceiling, because the noise of the target is not a function of the low counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nndiff.demo.bodies import SHAPE, SPACING, Body, random_body
from nndiff.demo.scanner import Scanner, acquire, ceiling
from nndiff.imaging import io
from nndiff.resources.outcomes import Failure, demand_success
from nndiff.resources.workers import run
from nndiff.words.errors import NndiffError
from nndiff.words.files import write_json
from nndiff.words.volume import Volume

DATASETS = {
    "Dataset900_DemoPET": "low-count PET to full-count PET, simulated",
    "Dataset901_DemoNAC": "uncorrected low-count PET to corrected full-count PET, simulated",
}
# At full dose: about 900 counts per SUV and mL after attenuation, as in 2 minutes in 2D mode, which gives 15 % noise in
# the liver. A tenth of the counts gives 33 dB, the best Gaussian filter then 38 dB, and the ceiling is 43 dB, so there
# is room to learn.
TRUE_COUNTS_A_SLICE = 3e4
BYTES_A_CASE = 500 * 10**6
FIRST, FIRST_DOSE = "body900", 0.1  # the body that the model in model.zip translates


@dataclass(frozen=True)
class DemoCase:
    """One simulated case, as a worker process receives it."""

    name: str
    seed: int
    part: str  # Tr | Ts
    dose: float  # share of the counts that the low-count scan keeps
    raw: Path


def simulate(
    raw: Path, training: int, held_out: int, doses: Sequence[float], seed: int, workers: int | None = None
) -> list[Path]:
    """Write both demo datasets below `raw`, and return their folders.

    The doses are assigned to the cases in turn. Case i depends only on (seed, i) and on its dose.
    """
    if training < 1 or held_out < 0 or not doses or not all(0 < dose < 1 for dose in doses):
        raise NndiffError(
            "The demo needs at least one training case and a dose between 0 and 1.",
            found=f"{training} cases, dose {', '.join(map(str, doses))}",
            remedy="correct --training or --dose",
        )
    parts = ["Tr"] * training + ["Ts"] * held_out
    cases = [
        DemoCase(name=f"body{i:03d}", seed=seed, part=part, dose=doses[i % len(doses)], raw=raw)
        for i, part in enumerate(parts)
    ]
    outcomes = run(write_case, cases, workers, BYTES_A_CASE, "Simulate")
    ceilings: dict[str, float] = {}
    failures = []
    for case, outcome in outcomes:
        if isinstance(outcome, Failure):
            failures.append(outcome)
        elif outcome is not None:
            ceilings[case.name] = round(outcome, 3)
    demand_success(failures, len(cases), "Simulate")
    return _described(raw, training, ceilings)


def simulate_one(raw: Path, seed: int) -> list[Path]:
    """Write the datasets with one held-out body, and return their folders.

    It is a body that neither `simulate` nor the model in model.zip has had, at the dose of that model.
    """
    case = DemoCase(name=FIRST, seed=seed, part="Ts", dose=FIRST_DOSE, raw=raw)
    return _described(raw, 0, {case.name: round(write_case(case) or 0.0, 3)})


def _described(raw: Path, training: int, ceilings: Mapping[str, float]) -> list[Path]:
    """Write what describes the datasets, and return their folders."""
    for name, description in DATASETS.items():
        words = {"channel_names": {"0": "PET"}, "target_names": {"0": "PET"}, "file_ending": ".nii.gz"}
        if "NAC" in name:
            words["channel_names"] = {"0": "NAC PET"}
        write_json(
            raw / name / "dataset.json",
            {"name": name[11:], "description": description, **words, "numTraining": training},
        )
        write_json(raw / name / "ceiling.json", dict(sorted(ceilings.items())))
    return [raw / name for name in DATASETS]


def write_case(case: DemoCase) -> float | None:
    """Write all files of a case; return the ceiling if it is a held-out one."""
    generator = np.random.default_rng([case.seed, int(case.name[4:])])
    body = random_body(generator, SHAPE, SPACING)
    scanner = Scanner(body.grid.shape[2], body.grid.spacing[2])
    expected = scanner.expected(body.activity, body.attenuation, TRUE_COUNTS_A_SLICE)
    low, uncorrected, full = acquire(scanner, expected, body.grid, case.dose, generator)
    for name, source in zip(DATASETS, (low, uncorrected), strict=True):
        folder = case.raw / name
        _write(folder / f"images{case.part}" / f"{case.name}_0000.nii.gz", source, body)
        _write(folder / f"targets{case.part}" / f"{case.name}_0000.nii.gz", full, body)
        if case.part == "Ts":
            _write(folder / "regionsTs" / f"{case.name}.nii.gz", body.regions, body, np.uint8)
    return ceiling(scanner.reconstruct(expected, body.grid), full) if case.part == "Ts" else None


def _write(path: Path, array: npt.NDArray[Any], body: Body, dtype: npt.DTypeLike = np.float32) -> None:
    io.write(Volume(array[None].astype(np.float32), body.grid), path, dtype)
