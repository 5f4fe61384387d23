"""udpet: convert the Ultra-Low Dose PET challenge to a raw dataset, low-count → full-count PET, DICOM series in place.

    FOLDER/…/SCAN/{Full_dose, 1-2 dose, 1-4 dose, 1-10 dose, …, 1-100 dose}/*      Biograph Vision Quadra
    FOLDER/…/SCAN/{…NORMAL, …D2 or …DRF_2, …, …D100 or …DRF_100}/*              uExplorer

Each reduction factor of a scan is a separate case; all cases of a scan form a group. Activities are converted to SUV by
the headers of each series, when it is read (udpet-challenge.github.io).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import UNFIT, Gathered, Role, add_flags, dataset_of, write
from nndiff.cli.command import Command
from nndiff.imaging import dicom
from nndiff.words.errors import NndiffError

FULL = re.compile(r"full_dose|(.*[ _])?normal", re.IGNORECASE)
PART = re.compile(r"(?:1-(?P<siemens>\d+) dose|(?:.*[ _])?D(?:RF_)?(?P<united>\d+))", re.IGNORECASE)
FACTORS = (4, 10, 20, 50, 100)
SOURCE, TARGET = Role("images", "PET", "1-N dose"), Role("targets", "PET", "Full_dose")
REFERENCE = "Ultra-Low Dose PET Imaging Challenge, udpet-challenge.github.io"


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("udpet", __doc__ or "")
    command.flag(
        "input",
        short="i",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder that contains the unpacked archives",
    )
    command.flag(
        "drf",
        type=int,
        nargs="+",
        default=list(FACTORS),
        metavar="N",
        help="dose reduction factors (default: 4 10 20 50 100)",
    )
    add_flags(command, 936, "UDPET")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    words = {"description": "low-count to full-count total-body PET", "reference": REFERENCE}
    gathered = found(arguments.input, arguments.drf)
    write(dataset_of(arguments), [SOURCE, TARGET], gathered, words, arguments.overwrite)


def found(folder: Path, factors: Sequence[int]) -> Gathered:
    """Return a case for every requested reduction factor of every scan, paired with its full counts."""
    scans: dict[Path, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.rglob("*")):
        factor = _factor(path.name)
        if factor is not None and path.is_dir() and dicom.holds_dicom(path):
            scans[path.parent][factor].append(path)
    gathered = Gathered()
    for scan, series in scans.items():
        name = UNFIT.sub("_", scan.name)
        for factor in sorted(set(factors)):
            case, pair = f"{name}_DRF{factor}", (series.get(factor, []), series.get(1, []))
            if any(len(paths) > 1 for paths in pair):
                gathered.left_out[case] = f"two series match the same role in {scan}"
            elif not all(pair):
                gathered.left_out[case] = f"no {'series of this factor' if pair[1] else 'full-count series'} in {scan}"
            elif case in gathered.cases:
                gathered.left_out[case] = f"another scan has the same name: {scan}"
            else:
                gathered.cases[case] = {SOURCE: pair[0][0], TARGET: pair[1][0]}
                gathered.patients[case] = name
    if not gathered.cases:
        raise NndiffError(
            "The folder contains no pair of a low-count and a full-count series.",
            expected=f"SCAN/Full_dose and SCAN/1-{factors[0]} dose, folders of DICOM files",
            found=next((f"{case}: {why}" for case, why in gathered.left_out.items()), "no such folder"),
            where=folder,
            remedy="correct -i or --drf, and unpack the archives",
        )
    return gathered


def _factor(name: str) -> int | None:
    """Return the reduction factor in the name of a series' folder: 1 for full counts, None for other folders."""
    if FULL.fullmatch(name):
        return 1
    match = PART.fullmatch(name)
    return None if match is None else int(match["siemens"] or match["united"])


if __name__ == "__main__":
    sys.exit(main())
