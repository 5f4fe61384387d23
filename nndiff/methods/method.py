"""A method: a process with its prediction, training stages, network family and sampler, and a reason for each choice.

A method consists of data and of pure functions of the facts known so far. The planner evaluates them in a fixed order
and records the results. No other rule depends on a method's name. A variant is `dataclasses.replace(method, …)`, never
a subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nndiff.diffusion.process import Process
from nndiff.families import NetworkSpec
from nndiff.families.family import Rung
from nndiff.plans.plan import Stage
from nndiff.walk.caches import Cache
from nndiff.walk.guides import Guide
from nndiff.walk.layers import Layer
from nndiff.walk.rules import Rule
from nndiff.walk.starts import Start
from nndiff.walk.times import Suited, Times
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Verdict
from nndiff.words.volume import Triple


@dataclass(frozen=True)
class Data:
    """The facts about source and target, from the fingerprint."""

    task: str  # translation | generation
    anchor: tuple[int, ...]  # per target channel, the source channel that it starts from; empty in generation
    distances: tuple[float, ...]  # per case, rms between source and target in normalised units; empty in generation
    noise_share: float | None  # share of noise in the difference of source and target; None where there is no source
    noise_or_structure: str  # the same as a sentence
    open_part: float  # rms of what the source leaves open, normalised; 0 in generation
    grain: float = 0.0  # rms of the target's finest texture, normalised; 0 where it is not known


@dataclass(frozen=True)
class Walk:
    """The facts that are known when the starting step of the sampler is planned."""

    data: Data
    process: Process
    prediction: str
    start: Start


def no_more(start: Start, steps: int) -> tuple[Verdict[Layer | Guide | Cache], ...]:
    """Return no part besides those that every method plans."""
    return ()


def suited(walk: Walk, first: int, steps: int) -> Times:
    """Return the grid that suits the step rule."""
    return Suited(first, steps)


def as_sized(rung: Rung) -> Rung:
    """Return the rung unchanged."""
    return rung


@dataclass(frozen=True)
class Method:
    """A method, from which the planner derives the configuration of the same name."""

    name: str
    about: str  # what the user gets, in a sentence or two
    tasks: tuple[str, ...]  # the tasks that it serves
    planned_for: tuple[str, ...]  # the tasks for which it is planned if the user names no configuration
    family: str  # the network family
    process: Callable[[Data], Verdict[Scheme]]
    prediction: Callable[[Data], Verdict[str]]
    stages: Callable[[Data, Triple], Verdict[tuple[Stage, ...]]]  # facts, puzzle factor → training stages
    learning_rate: Callable[[NetworkSpec, int], Verdict[float]]  # network, training steps → learning rate
    start: Callable[[Data], Verdict[Start]]
    first_step: Callable[[Walk], Verdict[int]]  # facts → starting step, of 1000
    steps: Callable[[int], Verdict[int]]  # starting step → number of steps
    rule: Callable[[Data], Verdict[Rule]]
    cache: Callable[[Start, int], Verdict[Cache]]  # start, number of steps → cache
    times: Callable[[Walk, int, int], Times] = suited  # facts, starting step, number of steps → grid
    more: Callable[[Start, int], tuple[Verdict[Layer | Guide | Cache], ...]] = no_more  # further parts of the sampler
    resized: Callable[[Rung], Rung] = as_sized  # largest size that fits → size that is trained
    batch: int | None = None  # the published number of samples per training step, where it is larger than a batch
    why_coarser: str = "coarser than the data, so that a whole volume fits: generation does not use tiles"
