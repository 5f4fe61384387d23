"""nndiff_extract_fingerprint: check every file of a raw dataset and write its properties to fingerprint.json.

Reads the raw dataset. What is checked, and what `--no-verify_dataset_integrity` skips:
documentation/reference/dataset_format.md#what-is-checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nndiff.cli.command import Command, add_crew, add_dataset, crew, paths_of
from nndiff.words.crew import Workers
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.paths import Paths


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_extract_fingerprint", __doc__ or "")
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
        extract(paths, paths.dataset_name(wanted), crew(arguments), arguments.verify_dataset_integrity)


def extract(paths: Paths, name: str, workers: Workers, verify: bool, write: bool = True) -> Fingerprint:
    """Extract a fingerprint, print its warnings and its table, save it if `write`, and return it."""
    from nndiff.cli.tables import fingerprint_table
    from nndiff.data import fingerprint
    from nndiff.plans.plan import save
    from nndiff.words import dataset

    found, warnings = fingerprint.extract(dataset.read(paths.raw / name), workers, verify)
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"\n{name}\n{fingerprint_table(found)}")
    if write:
        path = paths.preprocessed / name / "fingerprint.json"
        save(path, found)
        print(f"\nWrote {path}")
    return found


if __name__ == "__main__":
    sys.exit(main())
