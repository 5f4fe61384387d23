"""Conversion of a time budget to a number of steps, by a rehearsal: a few timed steps and one validation.

The results of the rehearsal are discarded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from nndiff.checkpoint import Run, Step
from nndiff.plans.plan import Plan
from nndiff.training.batches import Batches, loader
from nndiff.training.loop import Trainer
from nndiff.training.ranks import Ranks
from nndiff.training.validation import Validation
from nndiff.words.errors import NndiffError
from nndiff.words.telling import in_words

EPOCHS = 20  # the fewest epochs without a time budget; a long training has epochs of LONGEST_EPOCH steps
LONGEST_EPOCH = 250  # steps
VALIDATION_SHARE = 0.15  # the largest share of a budget for validation, as far as fewer cases and epochs achieve it
FEWEST_EPOCHS = 4
REHEARSED, IGNORED = 4, 2  # number of timed steps, and of warm-up steps before them
LONGEST_REHEARSAL = 0.05  # share of the budget after which no further steps are timed
FEWEST_STEPS = 10
SAFETY = 0.96  # share of the budget that is planned for


def epoch_steps(training_steps: int) -> int:
    """Return the number of steps of an epoch."""
    return max(1, min(LONGEST_EPOCH, training_steps // EPOCHS))


def rehearsed(
    plan: Plan,
    name: str,
    run: Run,
    device: torch.device,
    ranks: Ranks,
    batches: Batches,
    validation: Validation,
    budget: float,
    begin: Callable[[Trainer], None],
    loaders: int = 0,  # processes that will load data while a GPU computes
) -> tuple[float, float]:
    """Return the seconds of a step (weighted mean over the stages) and of a validation case, of the slowest rank."""
    planned = plan.configurations[name]
    total, step_seconds = sum(stage.share for stage in planned.stages), 0.0
    for stage in planned.stages:
        alone = {name: replace(planned, stages=(stage,))}
        trainer = Trainer(
            plan=replace(plan, configurations={**plan.configurations, **alone}),
            name=name,
            run=run,
            device=device,
            ranks=ranks,
        )
        begin(trainer)  # the initial weights influence the duration of a step
        share = stage.share / total
        step_seconds += share * _step_seconds(trainer, batches, run, ranks, loaders, share * budget)
    clock = time.perf_counter()
    with trainer.ema.inside(trainer.network):
        validation.of(trainer, 0)
    slowest = ranks.gathered((step_seconds, time.perf_counter() - clock))
    return max(pair[0] for pair in slowest), max(pair[1] for pair in slowest)


def _step_seconds(trainer: Trainer, batches: Batches, run: Run, ranks: Ranks, loaders: int, budget: float) -> float:
    spent, seconds = 0.0, list[float]()
    for step in trainer.steps(loader(batches, 0, run.training_steps, 0, pinned=False)):
        spent += step.seconds
        seconds.append(beside_loaders(step, loaders))
        long_enough = len(seconds) > IGNORED and spent > LONGEST_REHEARSAL * budget
        if max(ranks.gathered(long_enough or len(seconds) >= IGNORED + REHEARSED)):
            break
    return float(np.median(seconds[IGNORED:] or seconds))  # a plan may have fewer steps than are ignored


def beside_loaders(step: Step, loaders: int) -> float:
    """Return the seconds of a rehearsed step, which waited for its data, where `loaders` processes load them."""
    return max(step.seconds - step.waited, step.waited / loaders) if loaders else step.seconds


def within_budget(run: Run, seconds: float, step: float, case: float, world: int = 1) -> Run:
    """Return the run with as many steps as fit into `seconds` beside their validations.

    To shorten validation, the number of validation cases is reduced first, then the number of epochs. The cases are
    dealt over `world` processes.
    """

    def validation(cases: int) -> float:
        return math.ceil(cases / world) * case

    cases, epochs = len(run.validation), EPOCHS
    while cases > 1 and epochs * validation(cases) > VALIDATION_SHARE * seconds:
        cases -= 1
    while epochs > FEWEST_EPOCHS and epochs * validation(cases) > VALIDATION_SHARE * seconds:
        epochs -= 1
    steps = int((seconds - (epochs + 1) * validation(cases)) / step)
    if steps > LONGEST_EPOCH * epochs:
        steps = int((seconds - 2 * validation(cases)) / (step + validation(cases) / LONGEST_EPOCH))
    if steps < FEWEST_STEPS:
        raise NndiffError(
            "The time budget is too short for a training.",
            expected=f"at least {in_words(FEWEST_STEPS * step + (FEWEST_EPOCHS + 1) * case)} after preparation",
            found=in_words(max(0.0, seconds)),
            remedy="pass a longer --time_budget, or plan smaller patches",
        )
    return replace(
        run,
        validation=run.validation[:cases],
        training_steps=steps,
        epoch_steps=max(1, min(LONGEST_EPOCH, math.ceil(steps / epochs))),
        warmup_steps=min(run.warmup_steps, max(10, steps // 10)),
        ema_half_life=max(2, min(run.ema_half_life, steps // 20)),
    )
