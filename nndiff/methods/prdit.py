"""The prdit method: a local denoiser, then a global transformer; and prdit_lowres.

It generates by hot steps, as published. In translation, where hot steps from a late start would leave a sixth of what
the source has beyond the target's mean in the result, its walk follows from the open part like that of ddpm.

prdit_lowres is the same method at half the resolution.

x_t = cos(πt/2)·x0 + 0.5·sin(πt/2)·eps
"""

from __future__ import annotations

from dataclasses import replace

from nndiff.families import NetworkSpec
from nndiff.families.prdit import halved
from nndiff.methods.common import (
    SECOND_ORDER,
    by_ratio,
    few_steps,
    is_short,
    late_start,
    no_reuse,
    open_step,
    texture_order,
)
from nndiff.methods.method import Data, Method, Walk
from nndiff.plans.plan import Stage
from nndiff.walk.part import STEPS
from nndiff.walk.rules import Hot, Rule
from nndiff.walk.times import Squared, Times
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Alternative, Verdict

RATE, SHORT_RATE = 1e-4, 2e-3
GLOBAL_RATE = 0.8  # rate of the transformer / rate of the local denoiser; published: 8e-5 and 1e-4
HOT_STEPS = 100  # number of steps of a walk from noise
SQUARED = Scheme("squared", {})


def _learning_rate(network: NetworkSpec, steps: int) -> Verdict[float]:
    if is_short(steps):
        return Verdict(
            SHORT_RATE,
            "short training: for the local denoiser 2e-3 was best of 5e-4, 2e-3 and 5e-3; the transformer, whose "
            "branches are bounded, learned alike at 1e-3 and 3e-3",
            (Alternative(RATE, "as published, for a hundred thousand steps"),),
        )
    return Verdict(RATE, "as published for the local denoiser")


def _steps(first: int) -> Verdict[int]:
    if first < STEPS:
        return few_steps(first)
    return Verdict(HOT_STEPS, "a hundred hot steps; --steps 1000 takes the published thousand")


def _rule(data: Data) -> Verdict[Rule]:
    if data.task == "translation":
        verdict = texture_order(data)
        hot = Alternative({"name": "hot"}, "as published for generation: keeps half of the open part in so few steps")
        return replace(verdict, alternatives=(*verdict.alternatives, hot))
    return Verdict(
        Hot(2),
        "two steps at once, then the noise of one step is added back: the best published setting",
        (Alternative({"ahead": 1}, "cold: no noise is added back; published FID 8.9 instead of 2.2"), SECOND_ORDER),
    )


def _times(walk: Walk, first: int, steps: int) -> Times:
    return by_ratio(walk, first, steps) if walk.data.task == "translation" else Squared(first, steps)


PRDIT = Method(
    name="prdit",
    about="A small network first learns local detail, then a transformer that sees the whole volume corrects it.",
    tasks=("translation", "generation"),
    planned_for=("generation",),
    family="prdit",
    process=lambda data: Verdict(Scheme("trig", {"noise": 0.5}), "as published: cos(πt/2)·x0 + 0.5·sin(πt/2)·eps"),
    prediction=lambda data: Verdict(
        "both", "the image and the noise, as published: each is more accurate at one end of the path"
    ),
    stages=lambda data, puzzle_factor: Verdict(
        (Stage("core.local", SQUARED, 0.4), Stage("core.whole", SQUARED, 0.6, rate=GLOBAL_RATE)),
        "two stages: first the local denoiser alone, then the transformer, with the denoiser frozen and 0.8 of the "
        "rate, as published; the shares are near the published 104 000 and 130 000 steps",
    ),
    learning_rate=_learning_rate,
    start=late_start,
    first_step=open_step,
    steps=_steps,
    rule=_rule,
    cache=no_reuse("a transformer has no features to keep between steps"),
    times=_times,
    batch=64,
)

PRDIT_LOWRES = replace(
    PRDIT,
    name="prdit_lowres",
    about="prdit on coarser voxels: quick to train, and a start for prdit (--from).",
    planned_for=(),
    resized=halved,
    why_coarser="twice that of prdit along axes where a token can be halved: prdit can begin with this transformer",
)
