"""A method: which process, prediction, objectives, network family and sampler belong together, each with its reason.

A method is data and pure functions of the facts known so far. The planner asks them in a fixed order and records the
answers; no rule elsewhere asks for a method's name. A variant is `dataclasses.replace(method, …)`, never a subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nndiff.diffusion.process import Process
from nndiff.families import NetworkSpec
from nndiff.families.family import Rung
from nndiff.plans.plan import Stage
from nndiff.walk.caches import Cache
from nndiff.walk.rules import Rule
from nndiff.walk.starts import Start
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Verdict
from nndiff.words.volume import Triple


@dataclass(frozen=True)
class Data:
    """What the fingerprint says about source and target."""

    task: str  # translation | generation
    anchor: tuple[int, ...]  # for each target channel, the source channel it starts from; empty in generation
    distances: tuple[float, ...]  # per case, rms between source and target in normalised units; empty in generation
    noise_share: float | None  # of what separates source and target; None where there is no source
    noise_or_structure: str  # the same as a sentence


@dataclass(frozen=True)
class Walk:
    """What is decided when the walk is planned."""

    data: Data
    process: Process
    prediction: str
    start: Start


def as_sized(rung: Rung) -> Rung:
    return rung


@dataclass(frozen=True)
class Method:
    name: str
    tasks: tuple[str, ...]  # that it serves
    planned_for: tuple[str, ...]  # tasks that plan it where no configuration is named
    family: str  # of the network
    process: Verdict[Scheme]
    prediction: Callable[[Data], Verdict[str]]
    stages: Callable[[Triple], Verdict[tuple[Stage, ...]]]  # given the puzzle's factor
    learning_rate: Callable[[NetworkSpec, int], Verdict[float]]  # given the training steps
    start: Callable[[Data], Verdict[Start]]
    first_step: Callable[[Walk], Verdict[int]]  # where the walk starts, of 1000
    steps: Callable[[int], Verdict[int]]  # given the first step
    rule: Verdict[Rule]
    cache: Callable[[Start, int], Verdict[Cache]]  # given the start and the steps
    resized: Callable[[Rung], Rung] = as_sized  # the size that is trained, given the one that fits
    why_coarser: str = "coarser than the data, so that a whole volume fits: generation is never tiled"
