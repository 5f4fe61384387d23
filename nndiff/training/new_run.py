"""A new run: its cases and numbers of steps, which are fixed before the first step and stored in every checkpoint.

run = new_run(job)                          cases from the split, steps from the plan
run = within_time(job, run, began, say)     steps from a rehearsal if there is a time budget
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from nndiff.checkpoint import Run
from nndiff.training.budget import SAFETY, epoch_steps, rehearsed, within_budget
from nndiff.training.folds import ALL, Split, groups_of, split_of
from nndiff.training.inherit import begin
from nndiff.training.job import Job
from nndiff.training.loop import Trainer
from nndiff.words.telling import in_words

VALIDATION_CASES = 4


def new_run(job: Job) -> Run:
    """Return the run that the plan specifies, without a time budget."""
    request, configuration = job.request, job.configuration
    split = _split(job)
    return Run(
        fold=request.fold,
        seed=request.seed,
        training=split.train,
        validation=_drawn(split.val, VALIDATION_CASES, request.seed),
        held_out=request.fold != ALL,
        training_steps=configuration.training_steps,
        epoch_steps=epoch_steps(configuration.training_steps),
        warmup_steps=configuration.warmup_steps,
        ema_half_life=configuration.ema_half_life,
        samples_a_step=job.share().samples_a_step,
        time_budget=request.time_budget,
        begun_with=request.begun_with,
    )


def within_time(job: Job, run: Run, began: float, say: Callable[[str], None]) -> Run:
    """Return the run with as many steps as fit into the time budget, which starts at `began`."""
    request = job.request
    if request.time_budget is None:
        return run

    def start(trainer: Trainer) -> None:
        if request.begin_with is not None:
            begin(trainer, request.begin_with)

    say(f"Measuring how long steps and validation take, to fit {in_words(request.time_budget)}: up to some minutes.")
    step, case = rehearsed(
        plan=job.plan,
        name=job.name,
        run=run,
        device=request.device,
        ranks=job.ranks,
        batches=job.batches(run),
        validation=job.validation(run),
        budget=request.time_budget,
        begin=start,
        loaders=job.loaders() if request.device.type == "cuda" else 0,  # on a CPU they share the cores with the steps
    )
    left = request.time_budget - (time.perf_counter() - began)
    fitted = within_budget(run, SAFETY * left, step, case, job.ranks.world)
    say(
        f"A step takes {step:.2f} s and a validation case {case:.1f} s, so {fitted.training_steps} steps fit into "
        f"{in_words(left)} (planned without a time budget: {run.training_steps})."
    )
    return fitted


def _split(job: Job) -> Split:
    groups = groups_of(job.cases)
    split = None
    for rank in range(job.ranks.world):  # one rank after the other, because the first makes splits.json
        if rank == job.ranks.rank:
            split = split_of(job.request.fold, job.request.prepared, groups)
        job.ranks.wait()
    assert split is not None
    return split


def _drawn(cases: Sequence[str], most: int, seed: int) -> tuple[str, ...]:
    """Return at most `most` cases, drawn at random so that not all of them come from one scanner."""
    order = np.random.default_rng(seed).permutation(len(cases))[:most]
    return tuple(cases[i] for i in sorted(order))
