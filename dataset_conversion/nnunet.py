"""nnunet: convert a dataset of nnU-Net v2 to a raw dataset: some channels become the source, others the target.

    FOLDER/dataset.json    FOLDER/imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz, …

The labels are not used; the files stay where they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dataset_conversion.base import Role, add_channels, add_flags, dataset_of, gather, wanted, write
from nndiff.cli.command import Command
from nndiff.words.dataset import FILE_ENDINGS
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.files import read_json


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nnunet", __doc__ or "")
    add_channels(command, "folder that contains dataset.json and imagesTr", "source channels, by name")
    add_flags(command, None, None)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    path = arguments.input / "dataset.json"
    data = read_json(path, remedy="pass the folder of one nnU-Net v2 dataset with -i")
    channels, ending = data.get("channel_names"), data.get("file_ending")
    if not isinstance(channels, dict) or ending not in FILE_ENDINGS:
        raise NndiffError(
            "This is not a dataset.json of nnU-Net v2.",
            expected=f'"channel_names": {{"0": …}} and "file_ending": one of {" ".join(FILE_ENDINGS)}',
            found=", ".join(data),
            where=path,
            remedy="convert datasets of nnU-Net v1 with nnUNetv2_convert_old_nnUNet_dataset",
        )
    numbers = {name: int(number) for number, name in channels.items()}
    roles = []
    for side, name in wanted(arguments):
        if name not in numbers:
            raise NndiffError(f"The dataset has no channel '{name}'.", where=path, remedy=nearest(name, numbers))
        roles.append(Role(side, name, f"{arguments.input}/imagesTr/{{case}}_{numbers[name]:04d}{ending}"))
    words = {key: data[key] for key in ("description", "reference", "licence") if isinstance(data.get(key), str)}
    write(dataset_of(arguments), roles, gather(roles), words, arguments.overwrite)


if __name__ == "__main__":
    sys.exit(main())
