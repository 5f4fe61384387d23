"""lidc: convert LIDC-IDRI to chest CTs for generation, all on one grid.

    FOLDER/…/LIDC-IDRI-0001/STUDY/SERIES/*.dcm          with any names of studies and series

Radiographs are skipped; a patient with two CTs has two cases (cancerimagingarchive.net/collection/lidc-idri).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import Gathered, add_flags
from dataset_conversion.chests import CHEST, add_grid_flags, convert
from dataset_conversion.making import read
from nndiff.cli.command import Command
from nndiff.imaging import dicom
from nndiff.words.errors import NndiffError

PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
WORDS = {
    "description": "chest CTs for generation",
    "reference": "Armato et al., LIDC-IDRI, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    "licence": "CC BY 3.0",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("lidc", __doc__ or "")
    command.flag(
        "input", short="i", type=Path, required=True, metavar="FOLDER", help="folder that contains LIDC-IDRI-0001, …"
    )
    add_flags(command, 960, "LIDC")
    add_grid_flags(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    convert(arguments, found(arguments.input), read, WORDS)


def found(folder: Path) -> Gathered:
    """Return every CT series of every patient; patients without one are excluded."""
    gathered = Gathered()
    patients = [path for path in sorted(folder.rglob("LIDC-IDRI-*")) if PATIENT.fullmatch(path.name) and path.is_dir()]
    for patient in patients:
        series = [path for path in sorted(patient.rglob("*")) if path.is_dir() and dicom.holds_dicom(path)]
        scans = [path for path in series if dicom.modality(path) == "CT"]
        for number, path in enumerate(scans, start=1):
            case = patient.name if number == 1 else f"{patient.name}_{number}"
            gathered.cases[case] = {CHEST: path}
            gathered.patients[case] = patient.name
        if not scans:
            gathered.left_out[patient.name] = "no CT series"
    if not gathered.cases:
        raise NndiffError(
            "The folder contains no CT series.",
            expected="LIDC-IDRI-0001/STUDY/SERIES/*.dcm",
            found=f"{len(patients)} patients" if patients else None,
            where=folder,
            remedy="correct the path after -i",
        )
    return gathered


if __name__ == "__main__":
    sys.exit(main())
