"""sarcoma_calibration: print the table from which `pet_simulation.Protocol` was chosen: how much a network can learn.

For each setting, the mean over the held-out patients of

    input      PSNR and SSIM of the low-count image, range 0 … the full-count image's maximum
    Gaussian   PSNR after the best Gaussian filter, isotropic in mm, whose width is chosen per case with the truth
    ceiling    PSNR of the reconstruction without noise: the remaining difference is the full-count image's own noise

A network must exceed the second and can hardly exceed the third.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Role, gather
from dataset_conversion.low_count import Patient, patients_of
from dataset_conversion.pet_simulation import Protocol, simulate
from dataset_conversion.sarcoma_petct import CT, PET
from nndiff.cli.command import Command
from nndiff.demo.scanner import ceiling
from nndiff.imaging import io
from nndiff.metrics.image import psnr, ssim
from nndiff.metrics.pet import best_gaussian

SETTINGS = (
    Protocol(),
    Protocol(counts=1300, filter_mm=6.0),
    Protocol(counts=275, filter_mm=8.0),
    Protocol(counts=550, filter_mm=8.0),
    Protocol(counts=1100, filter_mm=8.0),
    Protocol(counts=350, iterations=2, filter_mm=8.0),
    Protocol(counts=1000, iterations=8, filter_mm=8.0),
    Protocol(counts=550, smooth_mm=0.0, filter_mm=8.0),
    Protocol(counts=550, smooth_mm=8.0, filter_mm=8.0),
)


@dataclass(frozen=True)
class Figures:
    psnr: float
    ssim: float
    gaussian: float
    width_mm: float
    ceiling: float


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("sarcoma_calibration", __doc__ or "")
    command.flag(
        "input",
        short="i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=f"folder that contains NAME{PET} and NAME{CT}",
    )
    command.flag(
        "held_out", type=int, default=6, metavar="N", help="number of cases in the table, the last N (default: 6)"
    )
    command.flag("seed", type=int, default=0, metavar="N", help="random seed of the noise (default: 0)")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    roles = [Role("images", name, f"{arguments.input}/{{case}}{ending}") for name, ending in (("PET", PET), ("CT", CT))]
    everybody = patients_of(gather(roles), roles, arguments.held_out, arguments.seed, (), Protocol())
    patients = [patient for patient in everybody if patient.part == "Ts"]
    print("| counts | smoothing | iterations | filter | input PSNR | SSIM | best Gaussian | its width | ceiling |")
    print("|---" * 9 + "|")
    for setting in SETTINGS:
        rows = [figures(patient, setting) for patient in patients]
        mean = Figures(*np.mean([astuple(row) for row in rows], axis=0))
        print(
            f"| {setting.counts:.0f} | {setting.smooth_mm:.0f} | {setting.iterations} | {setting.filter_mm:.0f} | "
            f"{mean.psnr:.2f} | {mean.ssim:.3f} | {mean.gaussian:.2f} | {mean.width_mm:.0f} | {mean.ceiling:.2f} |"
        )


def figures(patient: Patient, protocol: Protocol) -> Figures:
    pet, ct = (io.read([path]) for path in patient.files)
    exam = simulate(pet, ct, protocol, patient.generator)
    bounds = (0.0, float(exam.full.max()))
    filtered, width = best_gaussian(exam.low, exam.full, exam.grid.spacing, bounds)
    return Figures(
        psnr(exam.low, exam.full, bounds),
        ssim(exam.low, exam.full, bounds),
        psnr(filtered, exam.full, bounds),
        width,
        ceiling(exam.noiseless, exam.full),
    )


if __name__ == "__main__":
    sys.exit(main())
