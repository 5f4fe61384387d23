"""Epochs: a generator that groups training steps, validates at the end of each group and yields means and scores.

Saving, printing and drawing are left to the caller; the seconds of an epoch do not include them. Between any two steps
the training can pause (pauses.py), and later go on within the epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from nndiff.checkpoint import Epoch, Run, Step
from nndiff.training.batches import Batch
from nndiff.training.loop import Trainer
from nndiff.training.validation import Example, Scores, Validation


@dataclass(frozen=True, eq=False)
class Ended:
    """The results of one finished epoch."""

    epoch: Epoch
    baseline: float  # the best score without a network
    example: Example | None  # the first validation case; only on the first process


class Pauses:
    """What may happen between the steps of an epoch: nothing."""

    def between(self, taken: Sequence[Step]) -> None:
        """Called after every step that does not end an epoch; `taken` are the steps of the epoch so far."""

    @contextmanager
    def while_validating(self, taken: Sequence[Step]) -> Iterator[Callable[[], None]]:
        """Enclose the validation that ends the epoch; yields what every process calls after each round of cases."""
        yield lambda: None


def epochs(
    trainer: Trainer,
    validation: Validation,
    batches: Iterable[list[Batch]],
    begun: Sequence[Step] = (),
    pauses: Pauses | None = None,
) -> Iterator[Ended]:
    """Yield every epoch as it ends, while training on `batches` to the last step of the run.

    `begun` are the steps of the first epoch that were taken before.
    """
    run, pauses, steps = trainer.run, pauses or Pauses(), trainer.steps(batches)
    taken = list(begun)
    clock = time.perf_counter() - sum(step.seconds for step in taken)
    while True:
        if not (taken and _ends_epoch(run, taken[-1].number)):
            if (step := next(steps, None)) is None:
                return
            taken.append(step)
            if not _ends_epoch(run, step.number):
                pauses.between(taken)
                continue
        with pauses.while_validating(taken) as after_round:
            scores, example = validated(trainer, validation, after_round)
        epoch = _epoch(trainer, taken, scores, time.perf_counter() - clock)
        yield Ended(epoch, float(np.mean([row.baseline for row in scores])), example)
        clock, taken = time.perf_counter(), []


def _ends_epoch(run: Run, step: int) -> bool:
    return step % run.epoch_steps == 0 or step == run.training_steps


def validated(
    trainer: Trainer, validation: Validation, after_round: Callable[[], None] = lambda: None
) -> tuple[list[Scores], Example | None]:
    """Return the scores of every validation case, and an example.

    The cases are distributed over the processes. The first process returns the example of the first case.
    """
    ranks, mine, example = trainer.ranks, list[Scores](), None
    with trainer.ema.inside(trainer.network):
        for first in range(0, len(validation.cases), ranks.world):
            if first + ranks.rank < len(validation.cases):
                scores, shown = validation.of(trainer, first + ranks.rank)
                mine.append(scores)
                example = example or shown
            after_round()
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
