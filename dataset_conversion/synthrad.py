"""synthrad: convert SynthRAD2023 or SynthRAD2025 to a raw dataset, MR → CT (task 1) or CBCT → CT (task 2), with masks.

    FOLDER/…/Task1/{brain,pelvis}/1BA001/{mr,ct,mask}.nii.gz           2023: doi.org/10.5281/zenodo.7260705
    FOLDER/…/Task2/{AB,HN,TH}/2ABA001/{cbct,ct,mask}.mha               2025: doi.org/10.5281/zenodo.14918089

The challenge provides registered images and masks of the body; all files stay where they are. The name of a case
contains its task, region (B brain, P pelvis, AB abdomen, HN head and neck, TH thorax), centre (A to E) and number.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import Role, add_flags, dataset_of, gather, write
from nndiff.cli.command import Command
from nndiff.words.errors import NndiffError

SOURCES = {1: ("MR", "mr"), 2: ("CBCT", "cbct")}
REGIONS = ("B", "P", "AB", "HN", "TH")
ENDINGS = {2023: ".nii.gz", 2025: ".mha"}
REFERENCE = {
    2023: "Thummerer et al., Med Phys 50, 2023: SynthRAD2023 Grand Challenge dataset, doi:10.5281/zenodo.7260705",
    2025: "Thummerer et al., 2025: SynthRAD2025 Grand Challenge dataset, doi:10.5281/zenodo.14918089",
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("synthrad", __doc__ or "")
    command.flag(
        "input",
        short="i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder that contains the unpacked archives",
    )
    command.flag("task", type=int, choices=sorted(SOURCES), required=True, help="1: MR to CT, 2: CBCT to CT")
    command.flag("year", type=int, choices=sorted(ENDINGS), default=2025, help="year of the challenge (default: 2025)")
    command.flag(
        "region", nargs="+", choices=REGIONS, default=list(REGIONS), help="body regions (default: all that exist)"
    )
    add_flags(command, 930, "SynthRAD")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    channel, file = SOURCES[arguments.task]
    case = re.compile(rf"{arguments.task}(?:{'|'.join(arguments.region)})[A-E]\d{{3}}")
    start, ending = f"{arguments.input}/**/{{case}}/", ENDINGS[arguments.year]
    roles = [
        Role("images", channel, f"{start}{file}{ending}", case),
        Role("targets", "CT", f"{start}ct{ending}", case),
        Role("mask", "", f"{start}mask{ending}", case),
    ]
    try:
        gathered = gather(roles)
    except NndiffError as error:
        raise error.at(
            remedy=f"correct -i, --task or --year; the files of {arguments.year} end with {ending}"
        ) from None
    words = {
        "description": f"{channel} to CT for radiotherapy, registered",
        "reference": REFERENCE[arguments.year],
        "licence": "CC BY-NC 4.0",
    }
    write(dataset_of(arguments), roles, gathered, words, arguments.overwrite)


if __name__ == "__main__":
    sys.exit(main())
