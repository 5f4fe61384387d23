"""ixi: convert IXI (healthy brains) to a raw dataset that translates T1, T2 or PD to another of them; register them.

    FOLDER/…/IXI-T1/IXI002-Guys-0828-T1.nii.gz        IXI-T2/IXI002-Guys-0828-T2.nii.gz        IXI-PD/…-PD.nii.gz

The sequences of a session have different grids: sources are registered rigidly to the target and written on its grid;
the target stays where it is, unchanged. Cases with a doubtful registration are excluded and listed
(brain-development.org/ixi-dataset).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import Role, add_flags, dataset_of, gather, wanted, write
from dataset_conversion.registration import register_sources
from nndiff.cli.command import Command, add_crew, crew

SEQUENCES = ("T1", "T2", "PD")
WORDS = {
    "description": "healthy brains, registered rigidly within a session",
    "reference": "IXI dataset, brain-development.org",
    "licence": "CC BY-SA 3.0",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("ixi", __doc__ or "")
    command.flag(
        "input", short="i", type=Path, required=True, metavar="FOLDER", help="folder that contains IXI-T1, IXI-T2, …"
    )
    command.flag(
        "source", nargs="+", choices=SEQUENCES, default=["T1"], help="one or two source sequences (default: T1)"
    )
    command.flag("target", nargs=1, choices=SEQUENCES, default=["T2"], help="target sequence (default: T2)")
    add_flags(command, 934, "IXI")
    add_crew(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    folder = dataset_of(arguments)
    roles = [Role(side, name, f"{arguments.input}/**/{{case}}-{name}.nii.gz") for side, name in wanted(arguments)]
    gathered = gather(roles)
    register_sources(gathered, roles, folder, "rigid", crew(arguments), arguments.overwrite)
    write(folder, roles, gathered, WORDS, arguments.overwrite)


if __name__ == "__main__":
    sys.exit(main())
