"""brats: convert BraTS, co-registered and skull-stripped, to a raw dataset: any of T1, T1c, T2, FLAIR to any other.

    FOLDER/…/BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair}.nii.gz             2017 to 2021 (2020: .nii)
    FOLDER/…/BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f}.nii.gz      from 2023 on

From 2023 on, the last number of a name is the time point, and the scans of one patient form a group. The tumour labels
are not used; the files stay where they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import Role, add_flags, dataset_of, gather, wanted, write
from nndiff.cli.command import Command

EARLIER = {"T1": "_t1", "T1c": "_t1ce", "T2": "_t2", "FLAIR": "_flair"}
SINCE_2023 = {"T1": "-t1n", "T1c": "-t1c", "T2": "-t2w", "FLAIR": "-t2f"}
REFERENCE = "Baid et al., 2021: The RSNA-ASNR-MICCAI BraTS 2021 benchmark, arXiv:2107.02314"


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("brats", __doc__ or "")
    command.flag(
        "input", short="i", type=Path, required=True, metavar="FOLDER", help="folder that contains one folder per scan"
    )
    command.flag("source", nargs="+", choices=list(EARLIER), default=["T1"], help="source sequences (default: T1)")
    command.flag(
        "target", nargs="+", choices=list(EARLIER), default=["FLAIR"], help="target sequences (default: FLAIR)"
    )
    add_flags(command, 935, "BraTS")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    since_2023 = next(arguments.input.glob("**/*-t1n.nii*"), None) is not None
    endings = SINCE_2023 if since_2023 else EARLIER
    roles = [
        Role(side, name, f"{arguments.input}/**/{{case}}/{{case}}{endings[name]}.nii*")
        for side, name in wanted(arguments)
    ]
    gathered = gather(roles)
    if since_2023:
        gathered.patients = {case: case.rpartition("-")[0] for case in gathered.cases}
    words = {"description": "glioma, co-registered, skull-stripped, 1 mm", "reference": REFERENCE}
    write(dataset_of(arguments), roles, gathered, words, arguments.overwrite)


if __name__ == "__main__":
    sys.exit(main())
