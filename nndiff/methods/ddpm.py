"""The ddpm method: denoising diffusion with the linear schedule of 1000 steps, a late start and feature reuse (LIM)."""

from __future__ import annotations

from dataclasses import replace

from nndiff.methods.common import (
    SECOND_ORDER,
    both_ends,
    by_ratio,
    every_step,
    few_steps,
    fused,
    late_start,
    learning_rate,
    open_step,
    texture_order,
)
from nndiff.methods.method import Data, Method, Walk, suited
from nndiff.plans.plan import Stage
from nndiff.walk.caches import Cache, Deep
from nndiff.walk.part import STEPS
from nndiff.walk.rules import First, Rule
from nndiff.walk.starts import Start
from nndiff.walk.times import Times
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Alternative, Verdict
from nndiff.words.volume import Triple


def _prediction(data: Data) -> Verdict[str]:
    if data.task == "generation":
        return Verdict("eps", "the noise, as in the published models; x0 follows from it wherever a > 0")
    verdict = fused(data)
    eps = Alternative("eps", "as published; 11 dB worse than the source itself after 300 training steps")
    return replace(verdict, alternatives=(*verdict.alternatives, eps))


def _stages(data: Data, puzzle_factor: Triple) -> Verdict[tuple[Stage, ...]]:
    if data.task == "generation":
        return Verdict((Stage("all", Scheme("squared", {}), 1.0),), "one stage: the squared error of the output")
    return both_ends(data, "a regression")


def _steps(first: int) -> Verdict[int]:
    return every_step()(first) if first == STEPS else few_steps(first)


def _times(walk: Walk, first: int, steps: int) -> Times:
    return suited(walk, first, steps) if walk.data.task == "generation" else by_ratio(walk, first, steps)


def _rule(data: Data) -> Verdict[Rule]:
    if data.task == "generation":
        return Verdict(First(1.0), "the ancestral step, for which the model is trained", (SECOND_ORDER,))
    return texture_order(data)


def _cache(start: Start, steps: int) -> Verdict[Cache]:
    if steps < 3:
        return Verdict(Deep(), "the walk has too few steps to reuse features")
    if not start.needs_source:
        return Verdict(Deep(), "reuse was published for translation only; generation does not use it")
    return Verdict(
        Deep(3),
        "features are computed at every third step: half the time, with no loss in the publication and in a trial; the "
        "other steps compute only the stem, the last decoder block and the head, which is the cheapest choice",
    )


DDPM = Method(
    name="ddpm",
    about="It learns to remove noise of any strength: a walk begins with pure noise or, where there is a source, late, "
    "with the source and a little noise.",
    tasks=("translation", "generation"),
    planned_for=("translation", "generation"),
    family="unet",
    process=lambda data: Verdict(
        Scheme("ddpm", {"steps": float(STEPS), "beta_first": 1e-4, "beta_last": 2e-2}),
        "the linear schedule of 1000 steps, to which the published starting steps refer",
    ),
    prediction=_prediction,
    stages=_stages,
    learning_rate=learning_rate,
    start=late_start,
    first_step=open_step,
    steps=_steps,
    rule=_rule,
    cache=_cache,
    times=_times,
)
