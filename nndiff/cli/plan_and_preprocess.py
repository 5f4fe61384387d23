"""nndiff_plan_and_preprocess: extract the fingerprint of a raw dataset, plan its training and preprocess its cases.

The same as `nndiff_extract_fingerprint`, `nndiff_plan` and `nndiff_preprocess` one after the other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nndiff.cli.command import Command, add_configurations, add_crew, add_dataset, crew, paths_of
from nndiff.cli.extract_fingerprint import add_verification, extract
from nndiff.cli.plan import add_planning, make_plan, request
from nndiff.cli.preprocess import prepare_cases


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_plan_and_preprocess", __doc__ or "", answers="the plan")
    add_dataset(command)
    add_configurations(command)
    add_crew(command)
    add_verification(command)
    add_planning(command)
    command.flag("no_pp", action="store_true", help="plan only, without preprocessing")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.words import dataset

    paths = paths_of(arguments)
    for wanted in arguments.dataset:
        name = paths.dataset_name(wanted)
        write = not arguments.dry_run
        asked = request(paths, name, dataset.read(paths.raw / name).task, arguments)
        keeps = write or not asked.path.exists()  # a dry run keeps it for the run that follows
        verify = arguments.verify_dataset_integrity
        fingerprint = extract(paths, name, crew(arguments), verify, arguments.clean, keeps)
        plan = make_plan(asked, fingerprint, arguments)
        if write and not arguments.no_pp:
            prepare_cases(paths, plan, arguments.configurations or list(plan.configurations), crew(arguments))


if __name__ == "__main__":
    sys.exit(main())
