"""The prdit method: a local denoiser, then a global transformer, sampled with hot steps; and prdit_lowres.

prdit_lowres is the same method at half the resolution.

x_t = cos(πt/2)·x0 + 0.5·sin(πt/2)·eps
"""

from __future__ import annotations

from dataclasses import replace

from nndiff.families import NetworkSpec
from nndiff.families.prdit import halved
from nndiff.methods.common import SECOND_ORDER, every_step, is_short, late_start, matched_step, no_reuse
from nndiff.methods.method import Method
from nndiff.plans.plan import Stage
from nndiff.walk.rules import Hot
from nndiff.walk.times import Squared
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


PRDIT = Method(
    name="prdit",
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
    first_step=matched_step,
    steps=every_step(Verdict(HOT_STEPS, "a hundred hot steps; --steps 1000 takes the published thousand")),
    rule=lambda data: Verdict(
        Hot(2),
        "two steps at once, then the noise of one step is added back: the best published setting",
        (
            Alternative({"ahead": 1}, "cold: no noise is added back; published FID 8.9 instead of 2.2"),
            SECOND_ORDER,
        ),
    ),
    cache=no_reuse("a transformer has no features to keep between steps"),
    times=lambda walk, first, steps: Squared(first, steps),
    batch=64,
)

PRDIT_LOWRES = replace(
    PRDIT,
    name="prdit_lowres",
    planned_for=(),
    resized=halved,
    why_coarser="twice that of prdit along axes where a token can be halved: prdit can begin with this transformer",
)
