"""ljubljana_mri: convert MR of multiple sclerosis (Laboratory of Imaging Technologies, Ljubljana), T1 → FLAIR or T2.

FOLDER/patient01_s1_{T1,T2,FLAIR}.nii.gz          registered within a scan; scans of one patient form a group

Dataset920_T1toFLAIR    Dataset921_T1toT2 with --target T2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import Role, folder_of, gather, write
from nndiff.cli.command import Command, paths_of

NUMBERS = {"FLAIR": 920, "T2": 921}
WORDS = {
    "description": "T1 to another sequence of multiple sclerosis patients, registered, thick slices",
    "reference": "Lesjak et al., Neuroinformatics 2016 and 2018: MS databases of Ljubljana",
    "licence": "CC BY",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("ljubljana_mri", __doc__ or "")
    command.flag(
        "input",
        short="i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder that contains patientNN_sM_T1.nii.gz, …",
    )
    command.flag("target", choices=sorted(NUMBERS), default="FLAIR", help="target sequence for T1 (default: FLAIR)")
    command.flag("overwrite", action="store_true", help="replace a dataset.json that differs")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    start = f"{arguments.input}/{{patient}}_{{case}}"
    roles = [
        Role(side, name, f"{start}_{name}.nii.gz") for side, name in (("images", "T1"), ("targets", arguments.target))
    ]
    folder = folder_of(paths_of(arguments).raw, NUMBERS[arguments.target], f"T1to{arguments.target}")
    write(folder, roles, gather(roles), WORDS, arguments.overwrite)


if __name__ == "__main__":
    sys.exit(main())
