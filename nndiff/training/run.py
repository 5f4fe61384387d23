"""The training of one fold, from its first step or its last checkpoint to its end.

    plan + prepared cases → results/DATASET/CONFIGURATION/fold_K/
        checkpoint_latest.pt, checkpoint_best.pt, progress.csv, progress.png, log.txt, validation/CASE.png

A time budget is converted to a number of steps before the first step (budget.py). This number is stored in the first
checkpoint; from then on everything depends on the step counter alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from nndiff.checkpoint import LATEST, Checkpoint, Epoch, Run, Step
from nndiff.resources.owner import owned
from nndiff.training import checkpoints, prior
from nndiff.training.batches import loader
from nndiff.training.epochs import epochs, validated
from nndiff.training.inherit import begin
from nndiff.training.job import Job
from nndiff.training.journal import Journal
from nndiff.training.loop import Trainer
from nndiff.training.new_run import new_run, within_time
from nndiff.training.pauses import Saving
from nndiff.training.ranks import Ranks, joined
from nndiff.training.report import Report
from nndiff.training.request import Request
from nndiff.words.files import sweep
from nndiff.words.stopping import Held, Stopped, held


def train(request: Request) -> Path:
    """Train one fold and return its folder."""
    began = time.perf_counter()
    with joined(request.device) as ranks, owned(request.folder) if ranks.first else nullcontext():
        _train(request, ranks, began)
    return request.folder


def _train(request: Request, ranks: Ranks, began: float) -> None:
    aside = None
    if ranks.first:
        sweep(request.folder)
        aside = checkpoints.set_aside(request.folder) if request.restart else None
    ranks.wait()
    journal = Journal(request.folder, quiet=not ranks.first)
    try:
        job, trainer, history, taken = _prepared(request, ranks, journal, began)
    except BaseException:
        if aside is not None:
            checkpoints.put_back(request.folder, aside)
        raise
    if aside is not None:
        journal.say(f"The earlier training of this fold was moved to {aside}.")
    report, run = Report(journal, job, trainer), trainer.run
    if trainer.step >= run.training_steps and not taken:
        report.already_trained(history)
        return
    with held() as stop:
        try:
            _train_to_end(job, trainer, history, taken, report, stop)
        except Stopped as stopped:
            report.stopped(stopped.name)
            raise


def _prepared(
    request: Request, ranks: Ranks, journal: Journal, began: float
) -> tuple[Job, Trainer, tuple[Epoch, ...], tuple[Step, ...]]:
    """Return what the first step needs: a new training, or one that goes on with its history and unfinished epoch."""
    found = checkpoints.find(request)
    job = Job.of(request, ranks, found)
    if (warning := job.planned_for_another_device()) is not None:
        journal.say(warning)
    trainer = job.trainer(_settled(job, found, began, journal.say))
    if found is not None:
        checkpoints.restore(trainer, found, request)
        journal.say(f"Going on with the training of {request.folder} after step {trainer.step}.")
        return job, trainer, found.history, found.taken
    prior.learn(trainer, job.cases)
    if request.begin_with is not None:
        journal.say(begin(trainer, request.begin_with))
    return job, trainer, (), ()


def _settled(job: Job, found: Checkpoint | None, began: float, say: Callable[[str], None]) -> Run:
    """Return the run of the checkpoint, or a new one; refuse one that does not fit the prepared cases or processes."""
    run = new_run(job) if found is None else found.run
    job.demand_prepared(run)
    job.demand_same_step(run)
    return within_time(job, run, began, say) if found is None else run


def _train_to_end(
    job: Job, trainer: Trainer, history: tuple[Epoch, ...], taken: tuple[Step, ...], report: Report, stop: Held
) -> None:
    """Train from the trainer's step to the last step of the run, with a checkpoint and a report after every epoch."""
    run, pinned = trainer.run, job.request.device.type == "cuda"
    validation = job.validation(run)

    def save(taken: Sequence[Step]) -> None:
        checkpoints.save(job, trainer, history, LATEST, taken)

    pauses = Saving(stop, job.ranks, save)
    report.start()
    if trainer.step == 0:
        with pauses.while_validating(()) as after_round:
            # so that errors on whole volumes show now, not after the first epoch
            validated(trainer, validation, after_round)
        save(())
    loaded = loader(job.batches(run), trainer.step, run.training_steps, job.loaders(), pinned)
    with closing(loaded) as batches:  # else its processes, which are deaf to signals, keep this one from ending
        for ended in epochs(trainer, validation, batches, taken, pauses):
            history = (*history, ended.epoch)
            best = checkpoints.save_best(job, trainer, history)
            report.draw(history, ended, best)
            checkpoints.save(job, trainer, history, LATEST)  # if killed before it, this epoch is repeated
            report.tell(history, ended, best)
            for hear in job.request.listeners if job.ranks.first else ():
                hear(ended.epoch)
