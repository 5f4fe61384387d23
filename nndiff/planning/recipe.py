"""Rules that all methods share: precision, augmentation, the length of the training, tiles and shifts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nndiff.diffusion.objectives import OBJECTIVES
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.families.search import TFLOP
from nndiff.methods.method import Data
from nndiff.plans.channels import TIED, Channel
from nndiff.plans.plan import DENOISING, Stage
from nndiff.resources.cards import LEAST, card_of
from nndiff.walk.layers import Shifts, Tiles
from nndiff.words.budget import Budget
from nndiff.words.fingerprint import Curve, Fingerprint
from nndiff.words.scheme import Scheme
from nndiff.words.spread import Spread
from nndiff.words.verdict import Alternative, Verdict

# FLOPs per second that a training reaches where no table of cards tells it.
FLOPS_A_SECOND = {"mps": 2e12, "cpu": 35e9}  # cpu: per core
TRAINING_HOURS = {"cuda": 24.0, "mps": 12.0, "cpu": 0.5}
# The steps that a training on a graphics card should reach within its hours. Generation has no tiles: it would pay for
# more steps with its resolution.
ENOUGH_STEPS = {"translation": 200_000, "generation": 25_000}
TRAINING_STEPS = {"cuda": (20_000, 250_000), "mps": (5_000, 100_000), "cpu": (500, 20_000)}
LEAST_DISTANCE = 1e-4  # rms in normalised units; a source equal to its target still gets a positive distance
CPU_STEP_TFLOP_A_CORE, MPS_STEP_TFLOP = 0.025, 2.0  # of a training step: about a second of work
OPEN_SHARE = 0.3  # assumed open part, as a share of the distance of source and target, where it was not estimated
LONG_TRAINING = 50_000  # steps; the fewest of a training that can afford larger batches; published: 234 000
MOSTLY_NOISE = 0.6  # share of noise in the power of the difference between source and target


def precision(budget: Budget) -> Verdict[str]:
    if budget.bf16:
        return Verdict("bf16", f"{budget.device_name}: bf16 halves the memory and is faster; the weights stay in fp32")
    return Verdict("fp32", f"{budget.device_name} does not compute bf16 fast")


def skip(prediction: str, data: Data) -> tuple[int, ...]:
    """Return, per target, the input whose local mean is the output before training; empty for no such start.

    There is one if source and target differ mostly by noise. If they differ by structure, it is a disadvantage: on
    uncorrected PET it cost 0.6 dB. Inputs are numbered as the network sees them: the channels of x_t, one per target,
    before those of the sources.
    """
    helps = PREDICTIONS[prediction].starts_at_image and data.noise_share is not None
    helps = helps and (data.noise_share or 0.0) > MOSTLY_NOISE
    return tuple(len(data.anchor) + source for source in data.anchor) if helps else ()


def augmentation(sources: Sequence[Channel], targets: Sequence[Channel], data: Data) -> Verdict[tuple[Scheme, ...]]:
    """Return the augmentations under which the relation between source and target stays valid."""
    chosen, reasons = [], []
    if data.noise_share is not None and data.noise_share > MOSTLY_NOISE:
        chosen.append(Scheme("mirror", {"z": 1.0, "y": 1.0, "x": 1.0}))
        reasons.append(
            "mirrored along every axis, because source and target differ by noise, which has no left and no right"
        )
    else:
        reasons.append("not mirrored, because left and right, or up and down, differ in meaning here")
    if targets and all(channel.kind.scale_varies and channel.normalization.name == TIED for channel in targets):
        chosen.append(Scheme("scale", {"low": 0.8, "high": 1.25}))
        reasons.append("source and target share one intensity scale, which is varied for both by the same factor")
    if sources and all(channel.kind.contrast_varies for channel in sources):
        titles = " and ".join(dict.fromkeys(channel.kind.title for channel in sources))
        chosen.append(Scheme("contrast", {"probability": 0.3, "strength": 0.15}))
        reasons.append(f"{titles} contrast differs between scanners, so it is varied in the source only")
    return Verdict(tuple(chosen), "; ".join(reasons))


def source_distance(distances: Sequence[float]) -> Verdict[float]:
    if not distances:
        return Verdict(1.0, "there is no source")
    return Verdict(
        float(f"{max(LEAST_DISTANCE, float(np.median(distances))):.4g}"),
        "rms difference of source and target, median over cases; the scale of x0_skip",
    )


def open_part(parts: Sequence[float] | None, distance: float | None) -> Verdict[float]:
    """Return the rms of what the source leaves open of the target; `distance` is that of source and target."""
    if distance is None:
        return Verdict(0.0, "there is no source")
    if parts is None:
        reason = (
            f"{OPEN_SHARE:g} of the distance of source and target, {distance:.3g}: the fingerprint contains no "
            "estimate on held-out cases, which needs at least two patients"
        )
        return Verdict(float(f"{OPEN_SHARE * distance:.4g}"), reason)
    value = float(f"{max(OPEN_SHARE * LEAST_DISTANCE, float(np.median(parts))):.4g}")
    reason = (
        "what the source leaves open of the target, per voxel: the rms that a regression on held-out cases misses, "
        f"median over cases; source and target differ by {distance:.3g}"
    )
    return Verdict(value, reason)


def open_curve(curves: tuple[Curve, ...], data: Data) -> Verdict[tuple[Curve, ...]]:
    """Return the open part as a function of the source's local mean; `curves` are per target channel."""
    if data.task == "generation":
        return Verdict((), "there is no source")
    if not curves:
        return Verdict((), "the same everywhere: the fingerprint contains no estimate by the source's intensity")
    shares = [share for curve in curves for _, share in curve]
    return Verdict(
        curves,
        "(intensity, multiple of open_part) where the source's local mean has this intensity, on held-out cases: from "
        f"{min(shares):.2g} to {max(shares):.2g}; the expected error of a voxel is stated as a multiple of it",
    )


def grain(measured: float | None, task: str) -> Verdict[float]:
    """Return the rms of the target's finest texture; 0 where it is not known."""
    if task == "generation":
        return Verdict(0.0, "there is no source")
    if measured is None:
        return Verdict(0.0, "not known: the fingerprint contains no estimate")
    return Verdict(
        float(f"{measured:.4g}"),
        "the rms of white noise with a finest band as strong as the target's, median over cases and, in each, over "
        "voxels; a walk ends below it, and x_t tells the rest of what is open first",
    )


def sources(spreads: tuple[Spread, ...] | None, task: str) -> Verdict[tuple[Spread, ...]]:
    """Return the mean and the std by which the network standardises each source."""
    if task == "generation":
        return Verdict((), "there is no source")
    if spreads is None:
        return Verdict((), "seen as they are: the fingerprint is of an older version (nndiff_extract_fingerprint)")
    return Verdict(
        spreads,
        "mean and std of each normalised source over its training volumes, air included; the network sees "
        "(source - mean)/std, which gained 0.8 dB in 300 steps on real low-count PET (one held-out patient)",
    )


def stages(planned: Verdict[tuple[Stage, ...]], prediction: str) -> Verdict[tuple[Stage, ...]]:
    """Return the planned stages, with the objective `denoising` in place of one that the prediction does not serve."""
    if PREDICTIONS[prediction].tells_error:
        return planned
    served = tuple(
        replace(stage, objective=DENOISING) if OBJECTIVES[stage.objective.name].needs_error else stage
        for stage in planned.value
    )
    if served == planned.value:
        return planned
    return Verdict(served, f"the planned losses, by denoising, because the prediction {prediction} states no error")


def training_steps(budget: Budget, step_flops: int) -> Verdict[int]:
    low, high = TRAINING_STEPS[budget.device]
    steps = int(np.clip(_two_digits(steps_within(budget, step_flops)), low, high))
    expected = steps * _step_seconds(budget, step_flops) / 3600
    return Verdict(
        steps, f"about {expected:.2g} hours {_at_rate(budget)} ({low} to {high} steps); --time_budget overrides it"
    )


def warmup_steps(steps: int) -> Verdict[int]:
    return Verdict(
        max(20, min(1000, steps // 20)), "a twentieth of the training, at least twenty and at most 1000 steps"
    )


def ema_half_life(steps: int) -> Verdict[int]:
    return Verdict(
        max(10, min(5000, steps // 20)),
        "a twentieth of the training, at least ten and at most five thousand steps; "
        "a longer average would still contain the initial weights",
    )


def accumulate(batch_size: int, published: int | None = None, single_steps: float = 0.0) -> Verdict[int]:
    """Return the number of batches per step; `single_steps` of one batch each would fit into the training time.

    A method with a published batch is given as much of it as leaves a long training.
    """
    if published is not None:
        batches = min(published // batch_size, int(single_steps / LONG_TRAINING))
        if batches > 2:
            words = f"{batches} batches of {batch_size} per step, of {published} samples as published"
            return Verdict(batches, f"{words}; at least {LONG_TRAINING} steps remain")
    rest = "" if published is None else f"; {published} samples, as published, would leave too few steps"
    if batch_size > 1:
        return Verdict(1, f"a batch of {batch_size} is enough for a training step{rest}")
    return Verdict(2, f"a batch of 1 is noisy, so the gradients of two are summed per training step{rest}")


def steps_within(budget: Budget, step_flops: int) -> float:
    """Return the number of steps that fit into the training time of this class of device."""
    return TRAINING_HOURS[budget.device] * 3600 / _step_seconds(budget, step_flops)


def _step_seconds(budget: Budget, step_flops: int) -> float:
    return max(max(1, step_flops) / _flops_a_second(budget), LEAST if budget.device == "cuda" else 0.0)


def step_flops(budget: Budget, task: str) -> int:
    """Return the most FLOPs that a training step may need on this device."""
    if budget.device == "cuda":
        return int(TRAINING_HOURS["cuda"] * 3600 * _flops_a_second(budget) / ENOUGH_STEPS[task])
    return int((MPS_STEP_TFLOP if budget.device == "mps" else CPU_STEP_TFLOP_A_CORE * budget.cores) * TFLOP)


def large_step_flops(budget: Budget) -> int:
    """Return the most FLOPs of a step on more than two samples: it must not cost a training any of its steps."""
    if budget.device == "cuda":
        return step_flops(budget, "translation")
    return step_flops(budget, "translation") // 4


def _flops_a_second(budget: Budget) -> float:
    if budget.device == "cuda":
        return card_of(budget)[0].rate("bf16" if budget.bf16 else "fp32")
    return FLOPS_A_SECOND[budget.device] * (budget.cores if budget.device == "cpu" else 1)


def _at_rate(budget: Budget) -> str:
    """Return the rate that a training time was computed with, and where the rate is from."""
    if budget.device != "cuda":
        return "on this class of device"
    card, known = card_of(budget)
    source = "by its data sheet and what an H200 took" if known else f"if the card is as fast as an {card.name}"
    return f"at {_flops_a_second(budget) / TFLOP:.2g} TFLOP per second, {source}"


def tiles(whole: bool, tiled: bool) -> Verdict[Tiles]:
    if not tiled:
        return Verdict(Tiles(0.0), "generation does not use tiles: each volume is computed as a whole")
    reason = "the patch is the whole median volume; larger cases are tiled" if whole else "volumes are tiled"
    note = "half a patch took 1.6 times as long and was no better on real PET"
    return Verdict(Tiles(0.25), f"{reason}, with a quarter of a patch of overlap and Gaussian weights; {note}")


def shifts(puzzle_factor: Sequence[int]) -> Verdict[Shifts]:
    """Return the number of shifts of the puzzle's grid; the measurements are in documentation/records."""
    if max(puzzle_factor) == 1:
        return Verdict(Shifts(), "there is no puzzle, so there is no grid to average over")
    note = "twice the work; in trials, 0.04 to 0.15 dB better on simulated PET, 0.1 to 0.4 dB on real uncorrected PET"
    return Verdict(
        Shifts(),
        "one position of the puzzle's grid: each further one costs as much again; use --shifts if a grid is visible",
        (Alternative({"places": 2}, note),),
    )


def data_of(
    fingerprint: Fingerprint,
    anchor: tuple[int, ...],
    distances: Sequence[float],
    open_part: float,
    grain: float = 0.0,
) -> Data:
    """Return the facts about source and target that methods may use."""
    shares = [case.links[t][s].noise_share for case in fingerprint.cases for t, s in enumerate(anchor)]
    share = float(np.median(shares)) if shares else None
    return Data(
        task=fingerprint.task,
        anchor=anchor,
        distances=tuple(distances),
        noise_share=share,
        noise_or_structure=_in_words(share),
        open_part=open_part,
        grain=grain,
    )


def _in_words(share: float | None) -> str:
    """Return a sentence on the difference between source and target; empty where there is no source."""
    if share is None:
        return ""
    what = "mostly noise" if share > MOSTLY_NOISE else "mostly structure" if share < 0.3 else "noise and structure"
    return f"the difference of source and target is {what} ({share:.0%} of its power is noise)"


def _two_digits(value: float) -> int:
    scale = 10 ** max(0, int(math.log10(max(1.0, value))) - 1)
    return int(value // scale * scale)
