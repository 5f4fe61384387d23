"""Rules about the method: process, prediction, loss, precision, schedule, where prediction starts, what it reuses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nndiff.diffusion.process import Process, noise_ratio
from nndiff.diffusion.start import NOISE_MULTIPLE, STEPS, noise_matched_step
from nndiff.planning.verdict import Verdict
from nndiff.plans.plan import TIED, Alternative, Budget, Channel, Fingerprint, Stage
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.scheme import Scheme

# Useful work an hour of training does, by device: a fraction of the peak that 3D convolutions reach.
FLOPS_A_SECOND = {"cuda": 30e12, "mps": 2e12, "cpu": 35e9}  # cpu: a core
TRAINING_HOURS = {"cuda": 24.0, "mps": 12.0, "cpu": 0.5}
TRAINING_STEPS = {"cuda": (20_000, 250_000), "mps": (5_000, 100_000), "cpu": (500, 20_000)}
LEARNING_RATE, WIDEST_AT_FULL_RATE = 2e-4, 64
SHORT_TRAINING = 20_000  # steps: up to here, as on a CPU, what counts is to get somewhere at all
SHORT_LEARNING_RATE, SHORT_WIDTH = 1e-3, 32
TOKENS_RATE, SHORT_TOKENS_RATE = 1e-4, 2e-3
PUBLISHED_MULTIPLE = 10.0  # 5 to 15: FDG, DOTATATE, PSMA (Less Is More, in [0, 1] units)
PRDIT, LOWRES = "prdit", "prdit_lowres"  # the second: the same transformer at half the resolution, to begin with
HOT_STEPS = 100  # of a walk from noise
MOSTLY_NOISE = 0.6  # of the power of what separates source and target


def configurations(task: str) -> tuple[str, ...]:
    """What -c defaults to."""
    return ("bridge", "ddpm") if task == "translation" else ("ddpm", PRDIT)


def demand_allowed(task: str, names: Sequence[str]) -> None:
    allowed = tuple(dict.fromkeys((*configurations(task), PRDIT, LOWRES)))
    for name in names:
        if name not in allowed:
            raise NndiffError(f"Task {task} has no configuration '{name}'.", remedy=nearest(name, allowed))


def is_prdit(name: str) -> bool:
    return name in (PRDIT, LOWRES)


def precision(budget: Budget) -> Verdict[str]:
    if budget.bf16:
        return Verdict("bf16", f"{budget.device_name} computes in bf16: half the memory, and faster; weights stay fp32")
    return Verdict("fp32", f"{budget.device_name} has no fast bf16")


def process(name: str) -> Verdict[Scheme]:
    if name == "bridge":
        return Verdict(
            Scheme("bridge", {"gamma": 0.1}),
            "starts at the source itself; a little noise (gamma 0.1) keeps many steps as good as one",
            (Alternative({"gamma": 0.0}, "without noise every t < 1 only teaches copying: good for one step alone"),),
        )
    if is_prdit(name):
        return Verdict(Scheme("trig", {"noise": 0.5}), "as published: cos(πt/2)·x0 + 0.5·sin(πt/2)·eps")
    return Verdict(
        Scheme("ddpm", {"steps": float(STEPS), "beta_first": 1e-4, "beta_last": 2e-2}),
        "the linear schedule of 1000 steps that the published starting steps refer to",
    )


def prediction(name: str, task: str) -> Verdict[str]:
    if name == "bridge":
        return Verdict("x0", "x0 is defined all along a bridge, and one step from the source is a regression")
    if is_prdit(name):
        return Verdict(
            "both", "the image and its noise side by side, as published: each is the better guess at its end"
        )
    if task == "generation":
        return Verdict("eps", "what the accelerated models predict; x0 follows from it wherever a > 0")
    return Verdict(
        "x0_skip",
        "the image itself, and of x_t as much as it is the better guess: noise need not pass through the network",
        (Alternative("eps", "published; 11 dB below the source itself after 300 steps of training"),),
    )


def skip(prediction: str, anchor: Sequence[int], noise_share: float | None) -> tuple[int, ...]:
    """Where the image is predicted and its source differs by noise, each answer starts from its anchor's local mean.

    Channels count as the network sees them: x_t's, a target each, before the sources'. Where source and target differ
    by structure that start is in the way: on uncorrected PET it cost 0.6 dB.
    """
    helps = prediction in ("x0", "x0_skip") and noise_share is not None and noise_share > MOSTLY_NOISE
    return tuple(len(anchor) + source for source in anchor) if helps else ()


def stages(name: str, puzzle_factor: Sequence[int]) -> Verdict[tuple[Stage, ...]]:
    if name == "bridge":
        grid = (
            "and keeps the puzzle's grid out of the image" if math.prod(puzzle_factor) > 1 else "and keeps edges sharp"
        )
        return Verdict(
            (Stage("all", Scheme("gradient", {"weight": 0.3}), 1.0),),
            f"one stage: L1 and 0.3 of the gradients' L1, which was worth 0.8 dB in a trial {grid}",
        )
    squared = Scheme("squared", {})
    if is_prdit(name):
        return Verdict(
            (Stage("core.local", squared, 0.4), Stage("core.whole", squared, 0.6)),
            "two stages: the local denoiser alone, then, with it frozen, what a transformer adds that sees everything; "
            "shares near the published 104 000 and 130 000 steps",
        )
    return Verdict((Stage("all", squared, 1.0),), "one stage: the squared error of the output")


def augmentation(
    fingerprint: Fingerprint, sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]
) -> Verdict[tuple[Scheme, ...]]:
    """What may be changed without changing what is true of a pair of source and target."""
    chosen, reasons = [], []
    if (share := noise_share(fingerprint, anchor)) is not None and share > MOSTLY_NOISE:
        chosen.append(Scheme("mirror", {"z": 1.0, "y": 1.0, "x": 1.0}))
        reasons.append("source and target differ by noise, which has no left and no right: mirrored along every axis")
    else:
        reasons.append("not mirrored: left and right, up and down mean something here")
    if targets and all(channel.kind.scale_varies and channel.normalization.name == TIED for channel in targets):
        chosen.append(Scheme("scale", {"low": 0.8, "high": 1.25}))
        reasons.append("source and target share one scale, which is varied for both at once")
    if sources and all(channel.kind.contrast_varies for channel in sources):
        titles = " and ".join(dict.fromkeys(channel.kind.title for channel in sources))
        chosen.append(Scheme("contrast", {"probability": 0.3, "strength": 0.15}))
        reasons.append(f"{titles} contrast differs from scanner to scanner: varied in the source alone")
    return Verdict(tuple(chosen), "; ".join(reasons))


def learning_rate(name: str, width: int, steps: int) -> Verdict[float]:
    if is_prdit(name):
        return _tokens_rate(steps)
    if steps <= SHORT_TRAINING:
        return Verdict(
            SHORT_LEARNING_RATE * min(1.0, SHORT_WIDTH / width),
            "AdamW with warm-up and cosine; few steps: on real PET three minutes at 6e-4 to 1.5e-3 reached what ten "
            "minutes at 2e-4 reach",
            (Alternative(LEARNING_RATE, "1 dB behind after three minutes, where there is time for no more"),),
        )
    rate = LEARNING_RATE * min(1.0, WIDEST_AT_FULL_RATE / width)
    return Verdict(
        rate,
        "AdamW with warm-up and cosine; twice this rate never left the start in trials",
        (Alternative(4e-4, "width 48 stayed at the source's error"),),
    )


def _tokens_rate(steps: int) -> Verdict[float]:
    if steps <= SHORT_TRAINING:
        return Verdict(
            SHORT_TOKENS_RATE,
            "few steps: of 5e-4, 2e-3 and 5e-3 the second was best after 150 on low-count PET, by 0.7 and 3 dB",
            (Alternative(TOKENS_RATE, "as published, for a hundred thousand"),),
        )
    return Verdict(TOKENS_RATE, "as published for the local denoiser (8e-5 for the transformer)")


def source_distance(rmse: Sequence[float]) -> Verdict[float]:
    if not rmse:
        return Verdict(1.0, "there is no source")
    return Verdict(
        float(f"{max(1e-4, float(np.median(rmse))):.4g}"),
        "rms between source and target, median over cases: the scale of x0_skip",
    )


def training_steps(budget: Budget, step_flops: int) -> Verdict[int]:
    rate = FLOPS_A_SECOND[budget.device] * (budget.cores if budget.device == "cpu" else 1)
    hours = TRAINING_HOURS[budget.device]
    low, high = TRAINING_STEPS[budget.device]
    wanted = hours * 3600 * rate / max(1, step_flops)
    steps = int(np.clip(_two_digits(wanted), low, high))
    expected = steps * step_flops / rate / 3600
    return Verdict(
        steps, f"about {expected:.2g} hours on this class of device ({low} to {high} steps); --time_budget overrules it"
    )


def warmup_steps(steps: int) -> Verdict[int]:
    return Verdict(max(20, min(1000, steps // 20)), "a twentieth of the training, at most 1000")


def ema_half_life(steps: int) -> Verdict[int]:
    return Verdict(
        max(10, min(5000, steps // 20)), "a twentieth of the training: a longer memory would still hold the start"
    )


def start(name: str, task: str) -> Verdict[str]:
    if name == "bridge":
        return Verdict("source", "a bridge's path begins at the source")
    if task == "generation":
        return Verdict("noise", "there is no source to start from")
    return Verdict("shortcut", "the source, noised to the starting step, replaces all steps before it")


def start_step(
    name: str, start: str, prediction: str, process: Process, rmse: Sequence[float], noise: str
) -> Verdict[int]:
    """The step whose noise is the rmse between source and target, or a multiple of it; median over cases."""
    if start != "shortcut":
        return Verdict(STEPS, "the whole path" + (", walked in few steps" if name == "bridge" else ""))
    multiple, other = NOISE_MULTIPLE, PUBLISHED_MULTIPLE
    if prediction == "eps":  # what was published was published for it; less was only measured for the image
        multiple, other = other, multiple
    steps = [noise_matched_step(value, multiple, process) for value in rmse]
    chosen = int(np.median(steps))
    low, high = (int(v) for v in np.percentile(steps, [10, 90]))
    size = "as large as" if multiple == 1 else f"{multiple:g} times"
    reason = (
        f"its noise, {noise_ratio(process, chosen / STEPS):.3f}, is {size} the source's distance "
        f"from the target ({float(np.median(rmse)):.4f} rms in normalised units); cases range from {low} to {high}"
    )
    note = "as published for eps: slower, in trials no better" if other > multiple else "enough where x0 is predicted"
    elsewhere = Alternative(
        noise_matched_step(float(np.median(rmse)), other, process), f"{other:g} x the distance, {note}"
    )
    return Verdict(chosen, f"{reason}; {noise}; tuning after training decides", (elsewhere,))


def steps(name: str, start_step: int) -> Verdict[int]:
    if name == "bridge":
        return Verdict(1, "one step from the source is the best PSNR; more steps buy texture, tuning decides")
    if start_step == STEPS and is_prdit(name):
        return Verdict(HOT_STEPS, "a hundred hot steps; the published thousand are --steps 1000")
    if start_step == STEPS:
        return Verdict(start_step, "every step")
    return Verdict(
        start_step,
        "every step from the start down; fewer come closer to a regression: more PSNR, less texture",
        (Alternative(1, "in a trial 1.1 dB more PSNR, and half of the fine power"),),
    )


def reuse_interval(name: str, start: str, steps: int) -> Verdict[int]:
    if is_prdit(name):
        return Verdict(1, "a transformer keeps no features between steps")
    if steps < 3 or name == "bridge":
        return Verdict(1, "too few steps for a feature to be used twice")
    if start == "noise":
        return Verdict(1, "reuse was published for translation; not assumed for generation")
    return Verdict(3, "features refreshed every third step: half the time, at no loss as published and in a trial")


def reuse_depth(name: str, share: float | None) -> Verdict[int]:
    """`share`: of a whole step's FLOPs, what one on kept features needs; None where none is taken."""
    if is_prdit(name):
        return Verdict(1, "of no meaning here")
    work = "" if share is None else f", {share:.2f} of a whole step's FLOPs"
    return Verdict(
        1,
        f"between refreshes only the stem, the last decoder block and the head are computed: the cheapest branch{work}",
    )


def tile_overlap(whole: bool, tiled: bool) -> Verdict[float]:
    if not tiled:
        return Verdict(0.0, "generation is never tiled: every volume is made whole")
    reason = "the patch is the whole median volume; larger cases are tiled" if whole else "volumes are tiled"
    return Verdict(0.5, f"{reason}: half a patch of overlap, blended with Gaussian weights")


def accumulate(batch_size: int) -> Verdict[int]:
    if batch_size > 1:
        return Verdict(1, f"a batch of {batch_size} is enough for a step")
    return Verdict(2, "a batch of 1 is noisy: two are summed before a step")


def eta(name: str) -> Verdict[float]:
    if name == "bridge":
        return Verdict(0.0, "deterministic after the first step: one source gives one volume a seed")
    if is_prdit(name):
        return Verdict(0.0, "a hot walk puts noise back by itself")
    return Verdict(1.0, "the ancestral step, which the model was trained for")


def hot(name: str) -> Verdict[int]:
    if is_prdit(name):
        return Verdict(
            2,
            "two steps at once, then noise for one: the best as published",
            (Alternative(1, "cold: nothing is put back; as published FID 8.9 beside 2.2"),),
        )
    return Verdict(0, "the process's own step")


def shifts(puzzle_factor: Sequence[int]) -> Verdict[int]:
    """At how many places of the puzzle's grid the network is asked in prediction; figures: explanation/puzzle.md."""
    if max(puzzle_factor) == 1:
        return Verdict(1, "there is no puzzle, and so no grid")
    note = "twice the work; in trials 0.04 to 0.15 dB on simulated PET, 0.1 to 0.4 dB on real uncorrected PET"
    return Verdict(
        1,
        "one place of the puzzle's grid: each more is as much work again; --shifts where a grid is seen",
        (Alternative(2, note),),
    )


def order() -> Verdict[int]:
    return Verdict(1, "a second order needs no evaluation more, but helps only where a path takes many steps")


def noise_share(fingerprint: Fingerprint, anchor: Sequence[int]) -> float | None:
    """Of what separates source and target, median over cases; None where there is no source."""
    shares = [case.links[t][s].noise_share for case in fingerprint.cases for t, s in enumerate(anchor)]
    return float(np.median(shares)) if shares else None


def noise_or_structure(fingerprint: Fingerprint, anchor: Sequence[int]) -> str:
    """A sentence on what separates source and target."""
    share = noise_share(fingerprint, anchor)
    if share is None:
        return ""
    what = "mostly noise" if share > MOSTLY_NOISE else "mostly structure" if share < 0.3 else "noise and structure"
    return f"what separates source and target is {what} ({share:.0%} of its power is noise)"


def _two_digits(value: float) -> int:
    scale = 10 ** max(0, int(math.log10(max(1.0, value))) - 1)
    return int(value // scale * scale)
