"""Rules for decisions that several methods share: learning rate, start, starting step, number of steps, reuse.

A method that can return both the mean and the texture of the target (`fused`) shares prediction, training, times and
step rule: they follow from the open part s, the rms of what the source leaves open, and from the grain, the rms of the
target's finest texture, both as if they were white noise. The open part of real scans is correlated: its coarsest
component is 5 to 15 times s (with a perfect network, a walk that begins at 8 s keeps a quarter of that variance), its
finest far below s (one that ends at 0.1 s keeps a third). A walk therefore begins far above s and ends below the grain.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nndiff.families import NetworkSpec
from nndiff.methods.method import Data, Walk
from nndiff.plans.plan import Stage
from nndiff.walk.caches import Cache, Deep
from nndiff.walk.part import STEPS
from nndiff.walk.rules import Rule, Second
from nndiff.walk.starts import Noise, Shortcut, Start
from nndiff.walk.survival import bias
from nndiff.walk.times import Ratio, Times
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Alternative, Verdict

LEARNING_RATE, WIDEST_AT_FULL_RATE = 2e-4, 64
SHORT_TRAINING = 20_000  # steps; a training up to this length, as on a CPU, must above all learn fast
SHORT_LEARNING_RATE, SHORT_WIDTH = 1e-3, 32
NOISE_MULTIPLE = 1.0  # noise at the start / distance to the source; measured for a model that predicts the image
PUBLISHED_MULTIPLE = 10.0  # 5 to 15, for a model that predicts noise: FDG, DOTATATE, PSMA (Less Is More, [0, 1] units)

SECOND_ORDER = Alternative({"name": "second"}, "needs no extra evaluation, but helps only in a walk of many steps")
LATE_STEPS = 12  # the most steps of a walk from a late start
GRADIENTS = 0.3  # weight of the gradients' L1 in the loss at t = 1
HIGHEST, LOWEST = 16.0, 0.1  # sigma/a at the first and the last step of a walk with texture, as multiples of s
BELOW_GRAIN = 0.2  # sigma/a at the last step, as a multiple of the grain, where that is less
LEAST_LOW = 0.01  # of s; a target without grain, such as a label, does not ask for an endless walk
BEYOND = 0.7  # the smallest sigma/a in training, as a multiple of that at the last step


def fused(data: Data) -> Verdict[str]:
    """Return the prediction that lets noise pass where the source leaves something open, and nowhere else."""
    return Verdict(
        "fused",
        "the image with its expected error per voxel, by which it is weighed against x_t: one step gives the mean, a "
        "walk adds texture where the source leaves it open",
        (
            Alternative(
                "x0", "the image alone: a walk of ten steps kept less fine power than one step on real low-count PET"
            ),
        ),
    )


def lowest(data: Data) -> float:
    """Return sigma/a at the last step of a walk with texture, as a multiple of the open part."""
    if data.grain == 0 or data.open_part == 0:
        return LOWEST
    return min(LOWEST, max(LEAST_LOW, _rounded(BELOW_GRAIN * data.grain / data.open_part)))


def both_ends(data: Data, reason: str) -> Verdict[tuple[Stage, ...]]:
    """Return the training of a fused prediction; `reason` says what the gradients in its loss are for."""
    low = _rounded(BEYOND * lowest(data))
    stage = Stage("all", Scheme("gradient", {"weight": GRADIENTS}), 1.0, Scheme("posterior", {"low": low}))
    return Verdict(
        (stage,),
        f"one stage: at t = 1, L1 plus {GRADIENTS:g} times the L1 of the gradients, {reason}; at smaller t, uniform in "
        "the logarithm of sigma/a, from far above the open part to below the target's grain, the squared error, "
        "because a walk needs means",
    )


def by_ratio(walk: Walk, first: int, steps: int) -> Times:
    """Return the grid whose steps are equal in log(sigma/a), from above the open part to below the grain."""
    s = walk.data.open_part
    return Ratio(first, steps, high=_rounded(HIGHEST * s), low=_rounded(lowest(walk.data) * s))


def texture_order(data: Data) -> Verdict[Rule]:
    """Return the second-order rule, with which few steps keep the variance that the source leaves open."""
    return Verdict(
        Second(),
        "deterministic after the first step, of second order: with a perfect network, ten steps in the logarithm of "
        "sigma/a keep all of the open variance",
        (Alternative({"name": "first"}, "first order: ten such steps keep about three quarters of it"),),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def learning_rate(network: NetworkSpec, steps: int) -> Verdict[float]:
    """Return the learning rate of a convolutional network, for `steps` training steps."""
    if steps <= SHORT_TRAINING:
        return Verdict(
            SHORT_LEARNING_RATE * min(1.0, SHORT_WIDTH / network.width),
            "AdamW with warm-up and cosine decay; short training: on real PET, three minutes at 6e-4 to 1.5e-3 were as "
            "good as ten minutes at 2e-4",
            (Alternative(LEARNING_RATE, "1 dB worse after three minutes of training"),),
        )
    return Verdict(
        LEARNING_RATE * min(1.0, WIDEST_AT_FULL_RATE / network.width),
        "AdamW with warm-up and cosine decay; in trials, twice this rate did not learn",
        (Alternative(4e-4, "at width 48, the error stayed at that of the source"),),
    )


def late_start(data: Data) -> Verdict[Start]:
    """Return the start from the noised source, or from noise in generation."""
    if data.task == "generation":
        return Verdict(Noise(), "there is no source to start from")
    return Verdict(Shortcut(), "begins with the source, noised to the starting step, and skips all steps before it")


def matched_step(walk: Walk) -> Verdict[int]:
    """Return the starting step at which the noise is a multiple of the distance between source and target.

    The published rule is stated in words. Here it is a number: sigma/a at the starting step is a small multiple of the
    distance. The step is the median over the cases.
    """
    if walk.start.whole:
        return Verdict(STEPS, "the whole path")
    multiple, other = NOISE_MULTIPLE, PUBLISHED_MULTIPLE
    if walk.prediction == "eps":  # the published multiple is for eps; a smaller one was measured only for the image
        multiple, other = other, multiple
    distances, process = walk.data.distances, walk.process
    steps = [process.matched_step(multiple * distance, STEPS) for distance in distances]
    chosen, distance = int(np.median(steps)), float(np.median(distances))
    low, high = (int(v) for v in np.percentile(steps, [10, 90]))
    size = "is as large as" if multiple == 1 else f"is {multiple:g} times"
    reason = (
        f"the step whose noise ({process.ratio(chosen / STEPS):.3f}) {size} the distance between source and "
        f"target ({distance:.4f} rms in normalised units); the step of single cases is {low} to {high}"
    )
    note = "as published for eps; slower and, in trials, no better"
    note = note if other > multiple else "sufficient if x0 is predicted"
    elsewhere = Alternative(process.matched_step(other * distance, STEPS), f"{other:g} times the distance, {note}")
    return Verdict(chosen, f"{reason}; {walk.data.noise_or_structure}; tuning after training decides", (elsewhere,))


def open_step(walk: Walk) -> Verdict[int]:
    """Return the starting step of an estimate that is a mean: its noise is 16 times the open part, or the distance.

    What differs between source and target beyond the target's mean enters the result of a walk that begins with less.
    """
    if walk.prediction not in ("fused", "both") or walk.start.whole or walk.data.open_part == 0:
        return matched_step(walk)
    distance, s, process = float(np.median(walk.data.distances)), walk.data.open_part, walk.process
    chosen, near = (process.matched_step(noise, STEPS) for noise in (max(HIGHEST * s, distance), distance))

    def left(first: int) -> str:
        times = by_ratio(walk, first, LATE_STEPS)(process, Second())
        return f"{bias(process, Second(), times, s, walk.start):.0%}"

    reason = (
        f"the step whose noise ({process.ratio(chosen / STEPS):.3f}) is {HIGHEST:g} times what the source leaves open "
        f"({s:.4g}), or the distance of source and target ({distance:.4f}) if that is larger: with a perfect network, "
        f"{left(chosen)} of what the source has beyond the target's mean stays in the result"
    )
    others = () if near == chosen else (Alternative(near, f"noise as large as the distance; {left(near)} would stay"),)
    return Verdict(chosen, f"{reason}; {walk.data.noise_or_structure}; tuning after training decides", others)


def few_steps(first: int) -> Verdict[int]:
    """Return the number of steps, equal in log(sigma/a), of a walk from a late start."""
    steps = min(first, LATE_STEPS)
    every = Alternative(first, f"every step, as published: with --times even --steps {first}")
    return Verdict(
        steps,
        f"{steps} steps, equal in the logarithm of sigma/a, from above the open part to below the target's grain",
        (every,) if steps < first else (),
    )


def every_step(whole: Verdict[int] | None = None) -> Callable[[int], Verdict[int]]:
    """Return the rule that a walk with a late start takes every step; `whole` is the verdict for the whole path."""

    def steps(first: int) -> Verdict[int]:
        if first == STEPS:
            return whole or Verdict(first, "every step")
        return Verdict(
            first,
            "every step from the starting step down; fewer steps are closer to a regression: more PSNR, less texture",
            (Alternative(1, "in a trial, 1.1 dB more PSNR but half of the high-frequency power"),),
        )

    return steps


def no_reuse(reason: str) -> Callable[[Start, int], Verdict[Cache]]:
    """Return the rule that no features are reused."""
    return lambda start, steps: Verdict(Deep(), reason)


def is_short(steps: int) -> bool:
    return steps <= SHORT_TRAINING
