"""bids: convert a BIDS dataset to a raw dataset that translates one kind of image to another of the same session.

    FOLDER/sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz        FOLDER/sub-01/pet/sub-01_trc-FDG_pet.nii.gz

Both images must lie on one grid. A kind is a suffix, preceded by entities if a session has several such images: T1w,
acq-iso_T1w, trc-FDG_pet. All sessions of a subject form a group; the files stay where they are
(bids-specification.readthedocs.io).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.base import Role, add_channels, add_flags, dataset_of, gather, wanted, write
from nndiff.cli.command import Command
from nndiff.words.errors import NndiffError, nearest

SUFFIXES = {  # suffix → its folder, the channel's name
    "T1w": ("anat", "T1"),
    "T2w": ("anat", "T2"),
    "FLAIR": ("anat", "FLAIR"),
    "PDw": ("anat", "PD"),
    "inplaneT1": ("anat", "T1"),
    "inplaneT2": ("anat", "T2"),
    "pet": ("pet", "PET"),
}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("bids", __doc__ or "")
    add_channels(command, "folder that contains sub-…", "source channels, such as T1w or acq-iso_T1w")
    add_flags(command, None, None)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.input
    if not (folder.is_dir() and any(folder.glob("sub-*"))):
        raise NndiffError(
            "The folder contains no subject.", expected="sub-01, …", where=folder, remedy="correct the path after -i"
        )
    sessions = any(folder.glob("sub-*/ses-*"))
    roles = [_role(folder, side, kind, sessions) for side, kind in wanted(arguments)]
    write(dataset_of(arguments), roles, gather(roles), {}, arguments.overwrite)


def _role(folder: Path, side: str, kind: str, sessions: bool) -> Role:
    suffix = kind.rpartition("_")[2]
    if suffix not in SUFFIXES:
        raise NndiffError(f"'{kind}' is not a known kind of image.", remedy=nearest(suffix, SUFFIXES))
    below, name = SUFFIXES[suffix]
    start = "{patient}/{case}" if sessions else "{case}"
    return Role(side, name, f"{folder}/{start}/{below}/{start.replace('/', '_')}*_{kind}.nii*")


if __name__ == "__main__":
    sys.exit(main())
