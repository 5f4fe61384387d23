"""Epochs: a generator that groups training steps, validates at the end of each group and yields means and scores.

Saving, printing and drawing are left to the caller; the seconds of an epoch do not include them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nndiff.checkpoint import Epoch
from nndiff.training.batches import Batch
from nndiff.training.loop import Step, Trainer
from nndiff.training.validation import Example, Scores, Validation


@dataclass(frozen=True, eq=False)
class Ended:
    """The results of one finished epoch."""

    epoch: Epoch
    baseline: float  # the best score without a network
    example: Example | None  # the first validation case; only on the first process


def epochs(trainer: Trainer, validation: Validation, batches: Iterable[list[Batch]]) -> Iterator[Ended]:
    """Yield every epoch as it ends, while training on `batches` to the last step of the run."""
    run = trainer.run
    clock, taken = time.perf_counter(), list[Step]()
    for step in trainer.steps(batches):
        taken.append(step)
        if step.number % run.epoch_steps and step.number != run.training_steps:
            continue
        scores, example = validated(trainer, validation)
        epoch = _epoch(trainer, taken, scores, time.perf_counter() - clock)
        yield Ended(epoch, float(np.mean([row.baseline for row in scores])), example)
        clock, taken = time.perf_counter(), []


def validated(trainer: Trainer, validation: Validation) -> tuple[list[Scores], Example | None]:
    """Return the scores of every validation case, and an example.

    The cases are distributed over the processes. The first process returns the example of the first case.
    """
    ranks, mine, example = trainer.ranks, list[Scores](), None
    with trainer.ema.inside(trainer.network):
        for number in range(ranks.rank, len(validation.cases), ranks.world):
            scores, shown = validation.of(trainer, number)
            mine.append(scores)
            example = example or shown
    return [scores for share in ranks.gathered(mine) for scores in share], example


def _epoch(trainer: Trainer, taken: Sequence[Step], scores: Sequence[Scores], seconds: float) -> Epoch:
    losses = trainer.ranks.gathered([step.loss for step in taken])
    last = taken[-1]
    return Epoch(
        epoch=math.ceil(last.number / trainer.run.epoch_steps),
        step=last.number,
        loss=float(np.mean(losses)),
        score=float(np.mean([row.score for row in scores])),
        psnr=_mean(scores, "psnr"),
        ssim=_mean(scores, "ssim"),
        mae=_mean(scores, "mae"),
        baseline_psnr=_mean(scores, "baseline_psnr"),
        learning_rate=last.learning_rate,
        gradient_norm=float(np.mean([step.gradient_norm for step in taken])),
        seconds=seconds,
        waiting=sum(step.waited for step in taken) / max(1e-9, sum(step.seconds for step in taken)),
        losses=_means([row.losses for row in scores]),
        mean_losses=_means([row.mean_losses for row in scores]),
        token_spread=_mean(scores, "token_spread"),
        walk=_mean(scores, "walk"),
        dead=_mean(scores, "dead"),
    )


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _mean(scores: Sequence[Scores], name: str) -> float | None:
    """Return the mean over the cases, or None for a metric that is undefined in this task."""
    values = [getattr(row, name) for row in scores]
    return None if any(value is None for value in values) else float(np.mean(values))
