"""nndiff_plan: fingerprint.json and this machine (or -gpu_memory_target) → plan.json, each decision with its reason."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nndiff.cli.command import Command, add_configurations, add_dataset, paths_of
from nndiff.plans.plan import Plan
from nndiff.words.budget import Budget
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.paths import Paths


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_plan", __doc__ or "")
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
        help="plan for a GPU of this total memory; unset means the GPU found, else RAM",
    )
    command.flag(
        "overwrite_target_spacing",
        type=_millimetres,
        nargs=3,
        default=None,
        metavar="MM",
        help="target spacing z y x, instead of the planner's",
    )
    command.flag(
        "set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="decide by hand, e.g. configurations.bridge.batch_size=4",
    )
    command.flag("clean", action="store_true", help="forget the plan there is, hand-made changes included")
    command.flag("dry-run", action="store_true", help="print the decisions and write nothing")
    command.flag("verbose", action="store_true", help="print also what each decision was preferred to")


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.plans.plan import load

    paths = paths_of(arguments)
    for wanted in arguments.dataset:
        name = paths.dataset_name(wanted)
        remedy = f"extract it first: nndiff_extract_fingerprint -d {wanted}"
        fingerprint = load(Fingerprint, paths.preprocessed / name / "fingerprint.json", remedy)
        make_plan(request(paths, name, fingerprint.task, arguments), fingerprint, arguments)


@dataclass(frozen=True)
class Request:
    """What a command line asks of the planner."""

    path: Path
    configurations: tuple[str, ...]
    by_hand: dict[str, Any]
    budget: Budget


def request(paths: Paths, name: str, task: str, arguments: argparse.Namespace) -> Request:
    """Refuses what cannot be planned, before anything long has begun."""
    from nndiff.methods import demand_allowed, planned_for
    from nndiff.planning import lifecycle, overrides
    from nndiff.resources import machine
    from nndiff.words.files import demand_writable

    path = paths.preprocessed / name / lifecycle.PLAN_FILE
    wanted = tuple(arguments.configurations or planned_for(task))
    demand_allowed(task, wanted)
    by_hand = overrides.parse([*arguments.set, *_spacing(arguments.overwrite_target_spacing, wanted)], wanted)
    budget = machine.budget(arguments.gpu_memory_target)
    if not arguments.dry_run:
        demand_writable(path.parent)
    return Request(path, wanted, by_hand, budget)


def make_plan(request: Request, fingerprint: Fingerprint, arguments: argparse.Namespace) -> Plan:
    """The stage, with what a person sees of it."""
    from nndiff.cli.tables import plan_table
    from nndiff.planning import lifecycle, planner

    def make(names: Sequence[str], fixed: dict[str, Any]) -> Plan:
        return planner.plan(fingerprint, request.budget, names, fixed)

    settled = lifecycle.settle(request.path, request.configurations, request.by_hand, arguments.clean, make)
    plan = lifecycle.read(settled)
    print(f"\n{plan_table(plan, request.configurations, arguments.verbose)}\n")
    for note in settled.notes:
        print(f"Note: {note}")
    if arguments.dry_run:
        print("Dry run: nothing was written.")
    else:
        lifecycle.write(request.path, settled)
        print(f"Wrote {request.path}")
    return plan


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected millimetres above 0; found {text}")
    return value


def _spacing(spacing: Sequence[float] | None, configurations: Sequence[str]) -> list[str]:
    return [f"configurations.{name}.spacing={list(spacing)}" for name in configurations] if spacing else []


if __name__ == "__main__":
    sys.exit(main())
