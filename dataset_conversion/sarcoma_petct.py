"""PET/CT of soft-tissue sarcomas → two raw datasets, with counts simulated on real patients.

    Dataset910_SarcomaPET    low-count PET → full-count PET
    Dataset911_SarcomaNAC    uncorrected low-count PET → corrected full-count PET, of the same patients

    x    = Gaussian * SUV               a clinical PET is a noisy reconstruction: smoothed, it serves as the activity
    mu   = a · (HU + 1000) + b          at 511 keV, one line below a break point and one above
    ybar = s · exp(-A mu) · A x + scatter and randoms           y ~ Poisson(ybar); low dose: each count kept or not

The scanner is the demo's. Source and target are reconstructions of y, thinned and whole, on the PET's own grid;
ceiling.json says how near a reconstruction without noise comes to each held-out target. Input: a folder of
STS_NNN_PET_SUV.nii.gz and STS_NNN_CT.nii.gz on one grid (Vallières et al., The Cancer Imaging Archive, resampled).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from nndiff.cli.command import Command, add_workers, paths_of
from nndiff.demo.scanner import FWHM, Scanner, acquire, ceiling
from nndiff.errors import NndiffError
from nndiff.files import write_json
from nndiff.imaging import io
from nndiff.volume import SPACING_TOLERANCE, Box, FloatArray, Grid, Volume
from nndiff.workers import Failure, demand_success, run, worker_count

DATASETS = {
    "Dataset910_SarcomaPET": ("PET", "low-count PET to full-count PET, counts simulated on clinical PET/CT"),
    "Dataset911_SarcomaNAC": ("NAC PET", "uncorrected low-count PET to corrected full-count PET, counts simulated"),
}
PET, CT = "_PET_SUV.nii.gz", "_CT.nii.gz"
REFERENCE = "Vallières et al., Soft-tissue-Sarcoma, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.7GO2GSKS"
BYTES_A_CASE = 500 * 10**6

# Carney et al., Med Phys 33, 2006, 120 kVp: mu per mm = slope · (HU + 1000) + offset
SOFT_SLOPE = 9.6e-6
BONE_SLOPE, BONE_OFFSET, BREAK = 5.10e-6, 4.71e-3, 47.0  # from BREAK upwards


@dataclass(frozen=True)
class Protocol:
    """How the patients are scanned; README.md has the table that these values were chosen from."""

    # True counts at full dose for each SUV and mL that attenuation lets through. A mL at SUV 1 holds about 4 kBq an
    # hour after 400 MBq; in 3D mode a scanner counts some 7 of 1000 decays: this is about two minutes a bed.
    counts: float = 3600.0
    smooth_mm: float = 5.0  # FWHM over the clinical PET: about its own resolution
    iterations: int = Scanner.iterations
    filter_mm: float = 4.0
    dose: float = 0.1  # share of the counts that the low-count scan keeps


@dataclass(frozen=True)
class Patient:
    name: str
    pet: Path
    ct: Path
    part: str  # Tr | Ts
    seed: int
    raw: Path
    protocol: Protocol

    @property
    def generator(self) -> np.random.Generator:
        """Of the seed and the name alone: who else is converted makes no difference."""
        return np.random.default_rng([self.seed, *self.name.encode()])


@dataclass(frozen=True, eq=False)
class Exam:
    """The images of one scan, all [Z, Y, X] in SUV (uncorrected: as if nothing attenuated)."""

    low: FloatArray
    uncorrected: FloatArray
    full: FloatArray
    noiseless: FloatArray


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("sarcoma_petct", __doc__ or "")
    add_flags(command)
    command.flag("dose", type=float, default=Protocol.dose, metavar="SHARE", help="of the counts that are kept (0.1)")
    add_workers(command)
    return command.run(_work, argv)


def add_flags(command: Command) -> None:
    command.flag("input", short="i", type=Path, required=True, metavar="FOLDER", help=f"holds NAME{PET} and NAME{CT}")
    command.flag("held_out", type=int, default=6, metavar="N", help="the last N go to imagesTs and targetsTs (6)")
    command.flag("seed", type=int, default=0, metavar="N", help="other seeds, other noise (0)")


def _work(arguments: argparse.Namespace) -> None:
    protocol = Protocol(dose=arguments.dose)
    patients = find(arguments.input, paths_of(arguments).raw, arguments.held_out, arguments.seed, protocol)
    for folder in convert(patients, arguments.np):
        print(f"Wrote {folder}")


# ---------------------------------------------------------------- patients


def find(folder: Path, raw: Path, held_out: int, seed: int, protocol: Protocol) -> list[Patient]:
    """Everybody in the folder by name; the last `held_out` are held out."""
    names = sorted(path.name.removesuffix(PET) for path in folder.glob(f"*{PET}"))
    if not 0 <= held_out < len(names):
        raise NndiffError(
            "There is nobody to train on.",
            expected=f"more than {held_out} files named NAME{PET}",
            found=len(names),
            where=folder,
            remedy="check --input, or hold out fewer (--held_out)",
        )
    if not 0 < protocol.dose < 1:
        raise NndiffError("A low-count scan keeps a share of the counts.", expected="0 < dose < 1", found=protocol.dose)
    first = len(names) - held_out
    return [
        Patient(name, folder / f"{name}{PET}", folder / f"{name}{CT}", "Tr" if i < first else "Ts", seed, raw, protocol)
        for i, name in enumerate(names)
    ]


def convert(patients: Sequence[Patient], workers: int | None = None) -> list[Path]:
    """Write both datasets; the folders' names."""
    ceilings, failures = {}, []
    for patient, outcome in run(write, patients, worker_count(workers, len(patients), BYTES_A_CASE), "Convert"):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        elif patient.part == "Ts":
            ceilings[patient.name] = round(outcome, 3)
    demand_success(failures, len(patients), "Convert")
    folders = [patients[0].raw / name for name in DATASETS]
    for folder in folders:
        write_json(folder / "dataset.json", _words(folder.name, sum(patient.part == "Tr" for patient in patients)))
        write_json(folder / "ceiling.json", dict(sorted(ceilings.items())))
    return folders


def write(patient: Patient) -> float:
    """The files of one patient; the ceiling."""
    volume = io.read([patient.pet, patient.ct])  # [2, Z, Y, X]
    exam = simulate(volume, patient.protocol, patient.generator)
    for name, source in zip(DATASETS, (exam.low, exam.uncorrected), strict=True):
        for kind, array in (("images", source), ("targets", exam.full)):
            path = patient.raw / name / f"{kind}{patient.part}" / f"{patient.name}_0000.nii.gz"
            io.write(Volume(array[None], volume.grid, volume.layout), path)
    return ceiling(exam.noiseless, exam.full)


def _words(name: str, training: int) -> dict[str, object]:
    channel, description = DATASETS[name]
    return {
        "name": name.partition("_")[2],
        "description": description,
        "reference": REFERENCE,
        "licence": "CC BY 3.0",
        "channel_names": {"0": channel},
        "target_names": {"0": "PET"},
        "file_ending": ".nii.gz",
        "numTraining": training,
    }


# ---------------------------------------------------------------- physics


def simulate(volume: Volume, protocol: Protocol, generator: np.random.Generator) -> Exam:
    """One scan of a patient; `volume` is PET in SUV and CT in HU, [2, Z, Y, X]."""
    grid, box = _square(volume.grid)
    activity = _laid(_smoothed(volume.array[0], volume.grid, protocol.smooth_mm), grid, box)
    mu = _laid(attenuation(volume.array[1]), grid, box)
    scanner = Scanner(grid.shape[2], grid.spacing[2], iterations=protocol.iterations, filter_mm=protocol.filter_mm)
    counts = protocol.counts * surviving_ml(scanner, activity, mu, grid)
    expected = scanner.expected(activity, mu, counts / grid.shape[0])
    images = (*acquire(scanner, expected, grid, protocol.dose, generator), scanner.reconstruct(expected, grid))
    return Exam(*(image[box.slices] for image in images))


def attenuation(hu: FloatArray) -> FloatArray:
    """Attenuation at 511 keV per mm: below the break point as mixtures of air and water, above it as bone."""
    above_air = hu.astype(np.float64) + 1000
    mu = np.where(hu < BREAK, SOFT_SLOPE * above_air, BONE_SLOPE * above_air + BONE_OFFSET)
    return np.maximum(mu, 0).astype(np.float32)


def _smoothed(suv: FloatArray, grid: Grid, fwhm_mm: float) -> FloatArray:
    sigma = [fwhm_mm / FWHM / spacing for spacing in grid.spacing]
    smooth: FloatArray = ndimage.gaussian_filter(suv, sigma, mode="nearest")
    return np.maximum(smooth, 0)


def surviving_ml(scanner: Scanner, activity: FloatArray, mu: FloatArray, grid: Grid) -> float:
    """SUV · mL that attenuation lets through, the mean over the angles."""
    slices, _, _ = grid.shape
    suv_mm = slices / scanner.expected(activity, mu, 1.0).sensitivity  # one count a slice: 1 / their mean
    return suv_mm / scanner.angles * scanner.pixel_mm * grid.spacing[0] / 1000


def _square(grid: Grid) -> tuple[Grid, Box]:
    """The smallest grid with square slices around this one, and where in it this one lies."""
    z, y, x = grid.shape
    _, dy, dx = grid.spacing
    if abs(dy / dx - 1) > SPACING_TOLERANCE:
        raise NndiffError(
            "The scanner's pixels are square.", expected="one spacing in the slice", found=f"{dy} x {dx} mm"
        )
    side = max(y, x)
    start = (0, (side - y) // 2, (side - x) // 2)
    return replace(grid, shape=(z, side, side)), Box(start, (z, start[1] + y, start[2] + x))


def _laid(array: FloatArray, grid: Grid, box: Box) -> FloatArray:
    """Zero around it: neither activity nor attenuation."""
    whole = np.zeros(grid.shape, dtype=np.float32)
    whole[box.slices] = array
    return whole


if __name__ == "__main__":
    sys.exit(main())
