"""Alarms: sentences about a training that goes on without learning, judged at the end of an epoch from its history.

    not learning      the score is no better than without a network
    no better stage   a stage improves on the stage before by less than the scatter of the validation
    worse than mean   without any signal (t = 1) the error exceeds that of the mean volume
    tokens alike      the tokens of a transformer hardly differ, so it says the same of every place
    dead channels     many channels of its MLPs are zero for every token

A healthy training causes none of them. An alarm that was reported is withdrawn if it no longer holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nndiff.checkpoint import Epoch, Run
from nndiff.plans.plan import Configuration

LEAST_GAIN = 0.01  # dB of the score; a smaller gain over the baseline may be rounding
SETTLED = 0.1  # share of a training, and half of a stage, after which they are judged
HALF = 0.5
LATEST = 3  # epochs whose mean score stands for a stage
LEAST_STAGE = 0.01  # gain of a stage below which it is not worth its time, as a share of the loss (generation)
WORSE = 1.05  # loss at t = 1 as a multiple of that of the mean volume; training cases are fitted closer than new ones
ALIKE = 0.02  # rms over tokens of normalised channels; 0.0015 in a transformer that had died, 0.3 to 0.9 in others
DEAD = 0.5  # share of channels

NO_SIGNAL = "1"  # name of the time t = 1 in `Epoch.losses`


def alarms(
    history: Sequence[Epoch], run: Run, baseline: float, configuration: Configuration, firsts: Sequence[int]
) -> dict[str, str]:
    """Return a sentence per alarm.  history ends with the epoch that is judged; firsts: first step of each stage."""
    epoch, found = history[-1], dict[str, str]()
    if epoch.step < max(run.warmup_steps, SETTLED * run.training_steps):
        return found
    stage = max(i for i, first in enumerate(firsts) if epoch.step > first)
    rate = configuration.learning_rate * configuration.stages[stage].rate
    checks = {
        "not learning": not_learning(epoch, baseline, rate),
        "no better stage": no_better_stage(history, run, firsts, configuration.stages[stage].trains),
        "worse than mean": worse_than_mean(epoch),
        "tokens alike": tokens_alike(epoch, rate),
        "dead channels": dead_channels(epoch, rate),
    }
    return {name: words for name, words in checks.items() if words is not None}


def not_learning(epoch: Epoch, baseline: float, rate: float) -> str | None:
    least = LEAST_GAIN if epoch.psnr is not None else 0.0
    if epoch.score > baseline + least:
        return None
    what = "the source, its local mean or a constant" if epoch.psnr is not None else "the mean volume"
    return (
        f"NOT LEARNING: after {epoch.step} steps the network is no better than {what} (score {epoch.score:.3f}, "
        f"without a network {baseline:.3f}). If this persists, stop the training. Then try a lower learning rate "
        f"(--set learning_rate={rate / 2:.1g}) or a longer training, and check in validation/*.png that each "
        f"source is paired with its own target."
    )


def no_better_stage(history: Sequence[Epoch], run: Run, firsts: Sequence[int], trains: str) -> str | None:
    """Judge a later stage from its half on; its gain is compared with the scatter of the scores, and with 1 % of it."""
    step, stage = history[-1].step, max(i for i, first in enumerate(firsts) if history[-1].step > first)
    end = firsts[stage + 1] if stage + 1 < len(firsts) else run.training_steps
    if stage == 0 or step < firsts[stage] + HALF * (end - firsts[stage]):
        return None
    before = [past.score for past in history if firsts[stage - 1] < past.step <= firsts[stage]][-LATEST:]
    now = [past.score for past in history if past.step > firsts[stage]][-LATEST:]
    if not before:
        return None
    gain = float(np.mean(now) - np.mean(before))
    scatter = float(np.hypot(np.std(before), np.std(now)))
    least = LEAST_GAIN if history[-1].psnr is not None else LEAST_STAGE * abs(float(np.mean(before)))
    if gain > max(scatter, least):
        return None
    return (
        f"NO BETTER THAN THE STAGE BEFORE: {trains} has improved the score by {gain:.3g} since its stage began at step "
        f"{firsts[stage]}; the scores scatter by {scatter:.2g}, and {least:.2g} is the least gain that counts. The "
        f"time of this stage is lost unless it learns. Try a lower rate of the stage, or a longer training."
    )


def worse_than_mean(epoch: Epoch) -> str | None:
    own, plain = epoch.losses.get(NO_SIGNAL), epoch.mean_losses.get(NO_SIGNAL)
    if own is None or plain is None or own <= WORSE * plain:
        return None
    return (
        f"WORSE THAN THE MEAN VOLUME at t = 1, where x_t has no signal: the loss is {own:.3g}, that of the mean volume "
        f"{plain:.3g}. A walk that begins with a wrong mean stays wrong: volumes will be too dark or too bright."
    )


def tokens_alike(epoch: Epoch, rate: float) -> str | None:
    if epoch.token_spread is None or epoch.token_spread >= ALIKE:
        return None
    return (
        f"TOKENS ALIKE: after the last normalisation of the transformer its tokens differ by {epoch.token_spread:.2g} "
        f"rms (at least {ALIKE:g} in a network that learns), so every place gets the same output. The learning rate is "
        f"too high: train again with --set learning_rate={rate / 3:.1g}."
    )


def dead_channels(epoch: Epoch, rate: float) -> str | None:
    if epoch.dead is None or epoch.dead <= DEAD:
        return None
    return (
        f"DEAD CHANNELS: {epoch.dead:.0%} of the hidden channels of the transformer are zero for every token. The "
        f"learning rate is too high: train again with --set learning_rate={rate / 3:.1g}."
    )
