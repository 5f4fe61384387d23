"""nndiff_convert: convert any folder of volumes to a raw dataset by file name patterns; the files stay where they are.

    nndiff_convert -d 12 -n T1toFLAIR --source 'T1=scans/{case}/t1.nii.gz' --target 'FLAIR=scans/{case}/flair.nii.gz'
    nndiff_convert -d 13 -n Low --source 'PET=low/{patient}_*.nii.gz' --target 'PET=full/{patient}_*.nii.gz'
    nndiff_convert -d 14 -n Chests --target 'CT=archive/**/{case}_chest.nrrd'

Several --source or --target become several channels, in that order. The name before the = is the channel's name;
without it, the name is searched for in the file's name. --register writes the sources on the target's grid, --mask body
or head draws masks; cases with a doubtful registration or mask are excluded. See
documentation/how-to/bring_your_data.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from dataset_conversion.base import WILD, Role, add_flags, add_naming, dataset_of, gather, named, write
from nndiff.cli.command import Command, add_crew, crew
from nndiff.words.errors import NndiffError
from nndiff.words.telling import show

NAMES = ("CBCT", "CT", "NAC", "PET", "SPECT", "FLAIR", "T1c", "T1", "T2", "PD", "MR")  # searched for in this order
NAMED = re.compile(r"(?P<name>[^=/*{}]+)=(?P<pattern>.+)")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_convert", __doc__ or "")
    add_flags(command, None, None)
    for side, what in (
        (
            "source",
            "files of a source channel, none for generation; in quotes: * is any text, ** any folders, {case} the part "
            "of the path that names the case, {patient} the one that names the patient",
        ),
        ("target", "files of a target channel, likewise"),
    ):
        command.flag(side, nargs="+", action="extend", default=[], metavar="NAME=PATTERN", help=what)
    command.flag(
        "mask",
        default=None,
        metavar="PATTERN",
        help="files of masks for loss and metrics, or body or head to make them",
    )
    command.flag("register", choices=("rigid", "affine"), default=None, help="register the sources to the target")
    add_naming(command)
    add_crew(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from dataset_conversion.masking import add_masks
    from dataset_conversion.registration import register_sources
    from nndiff.imaging.masks import REGIONS

    if not arguments.target:
        raise NndiffError("At least one target channel is needed.", remedy="pass --target NAME=PATTERN")
    folder = dataset_of(arguments)
    roles = [role_of("images", text) for text in arguments.source] + [role_of("targets", t) for t in arguments.target]
    by_pattern = arguments.mask is not None and arguments.mask not in REGIONS
    masks = [Role("mask", "", arguments.mask)] if by_pattern else []
    gathered = named(gather([*roles, *masks]), folder, arguments.case_names)
    if arguments.register and not arguments.source:
        raise NndiffError(
            "--register needs a source channel.", remedy="pass --source NAME=PATTERN, or leave out --register"
        )
    if arguments.register:
        register_sources(gathered, roles, folder, arguments.register, crew(arguments), arguments.overwrite)
    if arguments.mask in REGIONS:
        masks = [add_masks(gathered, roles, folder, arguments.mask, crew(arguments), arguments.overwrite)]
    write(folder, [*roles, *masks], gathered, {}, arguments.overwrite)
    if not gathered.patients:
        show("Each case counts as a separate patient. If a patient has several scans, mark {patient} in the patterns.")


def role_of(side: str, text: str) -> Role:
    match = NAMED.fullmatch(text)
    if match:
        return Role(side, match["name"].strip(), match["pattern"])
    words = re.split(r"[^a-z0-9]+", WILD.sub(" ", text).lower().rpartition("/")[2])
    name = next((kind for kind in NAMES if kind.lower() in words), None)
    if name is None:
        raise NndiffError(
            "The kind of image cannot be recognised from this pattern.",
            expected="a channel name before the pattern, such as CT=…, PET=… or T1=…",
            found=text,
            remedy="write NAME=PATTERN; the name tells nndiff what the values mean",
        )
    print(f"Channel {name}, recognised by the file name: {text}")
    return Role(side, name, text)


if __name__ == "__main__":
    sys.exit(main())
