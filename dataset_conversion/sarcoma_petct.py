"""sarcoma_petct: convert PET/CT of soft-tissue sarcomas to low-count and uncorrected PET with simulated counts.

    Dataset910_SarcomaPET    low-count PET → full-count PET
    Dataset911_SarcomaNAC    uncorrected low-count PET → corrected full-count PET, of the same patients

The simulation is that of low_count. Input: a folder of STS_NNN_PET_SUV.nii.gz and STS_NNN_CT.nii.gz on one grid
(Vallières et al., The Cancer Imaging Archive, resampled).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import add_flags
from dataset_conversion.low_count import add_scan_flags, convert
from nndiff.cli.command import Command

PET, CT = "_PET_SUV.nii.gz", "_CT.nii.gz"
WORDS = {
    "reference": "Vallières et al., Soft-tissue-Sarcoma, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.7GO2GSKS",
    "licence": "CC BY 3.0",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("sarcoma_petct", __doc__ or "")
    command.flag(
        "input",
        short="i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=f"folder that contains NAME{PET} and NAME{CT}",
    )
    add_flags(command, 910, "Sarcoma")
    add_scan_flags(command, held_out=6, pixel_mm=0.0)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    folder = arguments.input
    convert(arguments, f"{folder}/{{case}}{PET}", f"{folder}/{{case}}{CT}", WORDS)


if __name__ == "__main__":
    sys.exit(main())
