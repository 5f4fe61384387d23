"""nndiff_plan: plan the training from fingerprint.json, for this machine or another GPU; plan.json has the reasons.

Reads `fingerprint.json` and the properties of this machine. `--gpu_memory_target` is all the memory of the GPU, with
that of the context and the workspace. Values of `--set` are JSON. Quote a list, because some shells would expand it:
`--set 'configurations.bridge.puzzle_factor=[1,1,1]'`. See documentation/how-to/change_a_plan.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nndiff.cli.command import Command, add_configurations, add_dataset, answer, paths_of
from nndiff.plans.plan import Plan
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.paths import Paths
from nndiff.words.telling import tell

if TYPE_CHECKING:
    from nndiff.planning.request import Request


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_plan", __doc__ or "", answers="the plan")
    add_dataset(command)
    add_configurations(command)
    add_planning(command)
    return command.run(_work, argv)


def add_planning(command: Command) -> None:
    command.flag(
        "gpu_memory_target",
        type=float,
        default=None,
        metavar="GB",
        help="plan for a GPU with this memory (default: the GPU found, else the RAM)",
    )
    command.flag(
        "overwrite_target_spacing",
        type=_millimetres,
        nargs=3,
        default=None,
        metavar="MM",
        help="target spacing along z, y and x, instead of the planner's",
    )
    command.flag(
        "set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="set a decision by hand, e.g. configurations.bridge.batch_size=4",
    )
    command.flag("clean", action="store_true", help="read the scans and plan again, and discard all edits made by hand")
    command.flag("dry-run", action="store_true", help="print the decisions, and write no plan")
    command.flag("verbose", action="store_true", help="also print the alternatives to each decision")


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.plans.plan import load

    paths = paths_of(arguments)
    for wanted in arguments.dataset:
        name = paths.dataset_name(wanted)
        remedy = f"extract it first: nndiff_extract_fingerprint -d {wanted}"
        fingerprint = load(Fingerprint, paths.preprocessed / name / "fingerprint.json", remedy)
        make_plan(request(paths, name, fingerprint.task, arguments), fingerprint, arguments)


def request(paths: Paths, name: str, task: str, arguments: argparse.Namespace) -> Request:
    """Return the request of the command line to the planner; refuse what cannot be planned."""
    from nndiff.methods import planned_for
    from nndiff.planning import request as stage

    wanted = arguments.configurations or planned_for(task)
    settings = [*arguments.set, *_spacing(arguments.overwrite_target_spacing, wanted)]
    folder, writes = paths.preprocessed / name, not arguments.dry_run
    return stage.request(folder, task, wanted, settings, arguments.gpu_memory_target, writes)


def make_plan(request: Request, fingerprint: Fingerprint, arguments: argparse.Namespace) -> Plan:
    """Make and print the plan, save it unless this is a dry run, and return it."""
    from nndiff.cli.plan_table import plan_table
    from nndiff.planning.request import planned

    made = planned(request, fingerprint, arguments.clean, not arguments.dry_run, say=tell)

    def text() -> str:
        return f"\n{plan_table(made.plan, request.configurations, arguments.verbose)}\n"

    answer(arguments, made.plan, text)
    for note in made.notes:
        print(f"Note: {note}")
    print("Dry run: no plan was written." if arguments.dry_run else f"Wrote {request.path}")
    return made.plan


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected millimetres above 0; found {text}")
    return value


def _spacing(spacing: Sequence[float] | None, configurations: Sequence[str]) -> list[str]:
    return [f"configurations.{name}.spacing={list(spacing)}" for name in configurations] if spacing else []


if __name__ == "__main__":
    sys.exit(main())
