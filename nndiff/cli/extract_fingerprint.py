"""nndiff_extract_fingerprint: check every file of a raw dataset and write its properties to fingerprint.json.

Reads the raw dataset. What is checked, and what `--no-verify_dataset_integrity` skips:
documentation/reference/dataset_format.md#what-is-checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nndiff.cli.command import Command, add_crew, add_dataset, answer, crew, paths_of
from nndiff.words.crew import Workers
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.paths import Paths
from nndiff.words.telling import show, tell


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_extract_fingerprint", __doc__ or "", answers="the fingerprint")
    add_dataset(command)
    add_crew(command)
    add_verification(command)
    return command.run(_work, argv)


def add_verification(command: Command) -> None:
    command.switch(
        "verify_dataset_integrity", True, "check for NaN, empty scans, overflow, duplicates and different grids"
    )


def _work(arguments: argparse.Namespace) -> None:
    paths = paths_of(arguments)
    for wanted in arguments.dataset:
        verify = arguments.verify_dataset_integrity
        found = extract(paths, paths.dataset_name(wanted), crew(arguments), verify, anew=True)
        answer(arguments, found)


def extract(
    paths: Paths, name: str, workers: Workers, verify: bool, anew: bool = False, write: bool = True
) -> Fingerprint:
    """Return the fingerprint of a dataset after printing its warnings and its table, and save it if `write`.

    It is extracted only if the files have changed, or `anew`.
    """
    from nndiff.cli.tables import fingerprint_table
    from nndiff.data.kept import FILE, keep, measured
    from nndiff.words import dataset

    raw, folder = dataset.read(paths.raw / name), paths.preprocessed / name
    found = measured(raw, folder, workers, verify, anew)
    for warning in found.warnings:
        tell(f"Warning: {warning}")
    show(f"\n{name}\n{fingerprint_table(found.fingerprint)}")
    if found.kept:
        show(f"\nNo file has changed since {folder / FILE} was extracted (--clean extracts it again).")
    elif write:
        keep(folder, found)
        print(f"\nWrote {folder / FILE}")
    return found.fingerprint


if __name__ == "__main__":
    sys.exit(main())
