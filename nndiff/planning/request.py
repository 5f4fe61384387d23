"""The request to the planner, and the resulting plan.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nndiff.methods import demand_allowed, planned_for
from nndiff.planning import lifecycle, overrides, planner
from nndiff.plans.plan import Plan
from nndiff.resources import machine
from nndiff.resources.owner import owned
from nndiff.words.budget import Budget
from nndiff.words.files import demand_writable
from nndiff.words.fingerprint import Fingerprint


@dataclass(frozen=True)
class Request:
    """A request to plan some configurations of a dataset."""

    path: Path  # of plan.json
    configurations: tuple[str, ...]
    by_hand: dict[str, Any]  # the overrides
    budget: Budget


@dataclass(frozen=True)
class Planned:
    """The resulting plan."""

    plan: Plan
    notes: tuple[str, ...]  # for the user


def request(
    folder: Path,
    task: str,
    configurations: Sequence[str] | None,
    settings: Sequence[str],
    gpu_memory_target: float | None,
    writes: bool,
) -> Request:
    """Return the request; refuse what cannot be planned, before any long work begins."""
    wanted = tuple(configurations or planned_for(task))
    demand_allowed(task, wanted)
    by_hand = overrides.parse(settings, wanted)
    budget = machine.budget(gpu_memory_target)
    if writes:
        demand_writable(folder)
    return Request(folder / lifecycle.PLAN_FILE, wanted, by_hand, budget)


def planned(
    request: Request,
    fingerprint: Fingerprint,
    clean: bool,
    writes: bool,
    say: Callable[[str], None] = lambda line: None,
) -> Planned:
    """Return the plan, which keeps the parts of an existing plan.json that must stay; write it if `writes`.

    `say` hears what takes seconds.
    """

    def make(names: Sequence[str], fixed: dict[str, Any]) -> Plan:
        return planner.plan(fingerprint, request.budget, names, fixed, say=say)

    with owned(request.path.parent) if writes else nullcontext():
        settled = lifecycle.settle(request.path, request.configurations, request.by_hand, clean, make)
        plan = lifecycle.read(settled)
        if writes:
            lifecycle.write(request.path, settled)
    return Planned(plan, settled.notes)
