"""rad_chestct: convert RAD-ChestCT to chest CTs for generation, all on one grid.

    FOLDER/trn00001.npz, val…, tst…          "ct": int16, 0.8 mm, slices from the neck down, rows front to back,
                                             columns right to left (zenodo.org/records/6406114, Draelos et al.)

CT_Scan_Metadata_Complete_35747.csv in the same folder assigns the scans to patients.
"""

from __future__ import annotations

import argparse
import csv
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_conversion.base import Gathered, add_flags
from dataset_conversion.chests import CHEST, add_grid_flags, convert
from nndiff.cli.command import Command
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Grid, Volume

METADATA = "CT_Scan_Metadata_Complete_*.csv"
SCAN, PATIENT = "NoteAcc_DEID", "MRN_DEID"  # its columns
VOXEL_MM = 0.8
WORDS = {
    "description": "chest CTs for generation",
    "reference": "Draelos et al., RAD-ChestCT, doi:10.5281/zenodo.6406114",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("rad_chestct", __doc__ or "")
    command.flag(
        "input", short="i", type=Path, required=True, metavar="FOLDER", help="folder that contains trn00001.npz, …"
    )
    add_flags(command, 961, "RADChestCT")
    add_grid_flags(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    convert(arguments, found(arguments.input), read, WORDS)


def found(folder: Path) -> Gathered:
    scans = {path.stem: path for path in sorted(folder.rglob("*.npz"))}
    if not scans:
        raise NndiffError(
            "The folder contains no scan.", expected="trn00001.npz, …", where=folder, remedy="correct the path after -i"
        )
    patients = _patients(folder)
    if not patients:
        print(f"The folder contains no {METADATA}, so each scan counts as a separate patient.")
    gathered = Gathered({case: {CHEST: path} for case, path in scans.items()})
    gathered.patients = {case: patients[case] for case in scans if case in patients}
    return gathered


def _patients(folder: Path) -> dict[str, str]:
    for path in sorted(folder.rglob(METADATA)):
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        if rows and not {SCAN, PATIENT} <= rows[0].keys():
            raise NndiffError(
                f"{path.name} does not assign the scans to patients.",
                expected=f"columns {SCAN}, {PATIENT}",
                found=", ".join(rows[0]),
                where=path,
            )
        return {row[SCAN]: row[PATIENT] for row in rows}
    return {}


def read(path: Path) -> Volume:
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive["ct"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise NndiffError(
            f"{path.name} cannot be read.",
            expected="an array called ct",
            found=error,
            where=path,
            remedy="copy the file again",
        ) from None
    if array.ndim != 3:
        raise NndiffError(f"{path.name} is not a volume.", expected="3 axes", found=f"{array.ndim} axes", where=path)
    upwards = np.ascontiguousarray(array[::-1], dtype=np.float32)
    z, y, x = upwards.shape
    return Volume(upwards[None], Grid((z, y, x), (VOXEL_MM,) * 3, (0.0, 0.0, 0.0)))


if __name__ == "__main__":
    sys.exit(main())
