"""The checkpoints of one fold: the one from which training resumes, and those that it writes.

checkpoint_latest.pt is written after every epoch, checkpoint_best.pt after an epoch that is better than all before.
"""

from __future__ import annotations

from nndiff import checkpoint
from nndiff.checkpoint import LATEST, Checkpoint, Epoch
from nndiff.training.job import Job
from nndiff.training.loop import Trainer
from nndiff.training.request import Request
from nndiff.words.errors import NndiffError


def find(request: Request) -> Checkpoint | None:
    """Return the checkpoint from which to resume, or None for a new training; refuse to overwrite an earlier one."""
    path = request.folder / LATEST
    if not path.exists():
        return None
    if not request.go_on:
        raise NndiffError(
            "A training of this fold exists already.",
            where=path,
            remedy="continue it with --c, or move its folder to another place to start again",
        )
    found = checkpoint.load(path)
    if found.configuration != request.configuration:
        raise NndiffError(
            "The checkpoint belongs to another configuration.",
            expected=request.configuration,
            found=found.configuration,
            where=path,
            remedy="train the configuration of the checkpoint, or move its folder to another place",
        )
    return found


def restore(trainer: Trainer, found: Checkpoint, request: Request) -> None:
    """Set the trainer to the step, weights and optimiser state of the checkpoint."""
    for module, weights in ((trainer.network, found.weights), (trainer.objectives, found.objectives)):
        checkpoint.demand_fitting(module, weights, request.folder / LATEST)
    trainer.restore(found)


def save(job: Job, trainer: Trainer, history: tuple[Epoch, ...], name: str) -> None:
    """Write the whole state of the training; only the first process writes."""
    if not job.ranks.first:
        return
    checkpoint.save(
        job.request.folder / name,
        Checkpoint(
            plan=job.plan,
            configuration=job.name,
            run=trainer.run,
            seen=job.seen,
            step=trainer.step,
            weights=trainer.weights,
            ema=trainer.ema.values,
            optimizer=trainer.optimizer.state_dict(),
            objectives=dict(trainer.objectives.state_dict()),
            history=history,
        ),
    )
