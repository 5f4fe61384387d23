"""autopet: convert autoPET (FDG-PET-CT-Lesions) to low-count and uncorrected PET with simulated counts (see low_count).

FOLDER/PETCT_01140d52d8/08-13-2005-NA-…/SUV.nii.gz  CTres.nii.gz  …         as the scripts of the collection write it
FOLDER/imagesTr/fdg_01140d52d8_08-13-2005…_0000.nii.gz (CT)  _0001.nii.gz (PET)        in nnU-Net's format, also PSMA

Dataset950_AutoPET    low-count PET → full-count PET
Dataset951_AutoNAC    uncorrected low-count PET → corrected full-count PET, of the same scans
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import add_flags
from dataset_conversion.low_count import add_scan_flags, convert
from nndiff.cli.command import Command

WORDS = {
    "reference": "Gatidis and Küstner, FDG-PET-CT-Lesions, The Cancer Imaging Archive, doi:10.7937/gkr0-xv29; "
    "PSMA-FDG-PET-CT-Lesions, doi:10.57754/FDAT.6gjsg-zcg93",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("autopet", __doc__ or "")
    command.flag(
        "input", short="i", type=Path, required=True, metavar="FOLDER", help="folder that contains PETCT_… or imagesTr"
    )
    add_flags(command, 950, "Auto")
    add_scan_flags(command, held_out=20, pixel_mm=4.0)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.input
    if (folder / "imagesTr").is_dir():
        start = f"{folder}/imagesTr/*_{{patient}}_{{case}}"
        convert(arguments, f"{start}_0001.nii.gz", f"{start}_0000.nii.gz", WORDS)
    else:
        start = f"{folder}/**/{{patient}}/{{case}}"
        convert(arguments, f"{start}/SUV.nii.gz", f"{start}/CTres.nii.gz", WORDS)


if __name__ == "__main__":
    sys.exit(main())
