"""nndiff_install_model: verify a model that was handed on as one file, and install it below the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nndiff.cli.command import Command, paths_of
from nndiff.words.paths import demand_zip


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_install_model", __doc__ or "")
    command.parser.add_argument("file", type=Path, metavar="MODEL.zip", help="what nndiff_export_model has written")
    command.flag("name", default=None, metavar="NAME", help="name of the installed model (default: the file's)")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    demand_zip(arguments.file)
    models = paths_of(arguments).models

    from nndiff.handover import install

    done = install(arguments.file, arguments.name, models)
    print(f"{'This model is installed already' if done.already else 'Installed'}: {done.folder}")
    print(f"What it is for: {done.folder / 'MODEL_CARD.md'}")
    print(f"Next: nndiff_predict -i IN -o OUT --model_name {done.folder.name}")


if __name__ == "__main__":
    sys.exit(main())
