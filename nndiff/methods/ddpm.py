"""The ddpm method: denoising diffusion with the linear schedule of 1000 steps, a late start and feature reuse (LIM)."""

from __future__ import annotations

from nndiff.methods.common import SECOND_ORDER, every_step, late_start, learning_rate, matched_step
from nndiff.methods.method import Data, Method
from nndiff.plans.plan import Stage
from nndiff.walk.caches import Cache, Deep
from nndiff.walk.part import STEPS
from nndiff.walk.rules import First
from nndiff.walk.starts import Start
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Alternative, Verdict


def _prediction(data: Data) -> Verdict[str]:
    if data.task == "generation":
        return Verdict("eps", "the noise, as in the published models; x0 follows from it wherever a > 0")
    return Verdict(
        "x0_skip",
        "the image, as a weighted sum of x_t and the network's output: noise need not pass through the network",
        (Alternative("eps", "as published; 11 dB worse than the source itself after 300 training steps"),),
    )


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
    tasks=("translation", "generation"),
    planned_for=("translation", "generation"),
    family="unet",
    process=Verdict(
        Scheme("ddpm", {"steps": float(STEPS), "beta_first": 1e-4, "beta_last": 2e-2}),
        "the linear schedule of 1000 steps, to which the published starting steps refer",
    ),
    prediction=_prediction,
    stages=lambda puzzle_factor: Verdict(
        (Stage("all", Scheme("squared", {}), 1.0),), "one stage: the squared error of the output"
    ),
    learning_rate=learning_rate,
    start=late_start,
    first_step=matched_step,
    steps=every_step(),
    rule=Verdict(First(1.0), "the ancestral step, for which the model is trained", (SECOND_ORDER,)),
    cache=_cache,
)
