"""The checkpoints of one fold: the one from which training resumes, and those that it writes.

checkpoint_latest.pt          after every epoch; within one every ten minutes, and when the training is told to stop
checkpoint_best.pt            after an epoch whose score, that of one step, is higher than all before
checkpoint_best_texture.pt    the epoch whose estimates on a walk were best, only where that is another one
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from nndiff import checkpoint
from nndiff.checkpoint import BEST, BEST_TEXTURE, LATEST, Checkpoint, Epoch, Step
from nndiff.resources.owner import LOCK
from nndiff.training.agreement import differences, in_short
from nndiff.training.job import Job
from nndiff.training.loop import Trainer
from nndiff.training.request import Request
from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic


def find(request: Request) -> Checkpoint | None:
    """Return the checkpoint from which to go on, or None for a new training.

    Unless asked to go on, refuse a training that was begun with other settings.
    """
    path = request.folder / LATEST
    if not path.exists():
        return None
    found = checkpoint.load(path)
    if found.configuration != request.configuration:
        raise NndiffError(
            "The checkpoint belongs to another configuration.",
            expected=request.configuration,
            found=found.configuration,
            where=path,
            remedy="train the configuration of the checkpoint, or move its folder to another place",
        )
    if not request.go_on and (differing := differences(found, request)):
        raise NndiffError(
            "A training of this fold exists already, and was begun with other settings.",
            found=in_short(differing),
            where=path,
            remedy="go on with the settings that it has (--c), or begin anew with these (--restart)",
        )
    return found


def set_aside(folder: Path) -> Path | None:
    """Move everything in a fold's folder to earlier/fold_K_N beside it; return that folder, None if nothing is there.

    The last checkpoint goes last: until then the training is where it was.
    """
    kept = [path for path in folder.iterdir() if not path.name.startswith(LOCK)]
    if not kept:
        return None
    place = folder.parent / "earlier"
    numbers = (number for number in count(1) if not (place / f"{folder.name}_{number}").exists())
    aside = place / f"{folder.name}_{next(numbers)}"
    aside.mkdir(parents=True)
    for path in sorted(kept, key=lambda path: path.name == LATEST):
        path.rename(aside / path.name)
    return aside


def put_back(folder: Path, aside: Path) -> None:
    """Move a training that was set aside to where it was, its last checkpoint last, over what has begun there."""
    for path in sorted(aside.iterdir(), key=lambda path: path.name == LATEST):
        path.replace(folder / path.name)
    aside.rmdir()
    with contextlib.suppress(OSError):  # others of earlier times are in it
        aside.parent.rmdir()


def restore(trainer: Trainer, found: Checkpoint, request: Request) -> None:
    """Set the trainer to the step, weights and optimiser state of the checkpoint."""
    for module, weights in ((trainer.network, found.weights), (trainer.objectives, found.objectives)):
        checkpoint.demand_fitting(module, weights, request.folder / LATEST)
    trainer.restore(found)


def save(job: Job, trainer: Trainer, history: tuple[Epoch, ...], name: str, taken: Sequence[Step] = ()) -> None:
    """Write the whole state of the training; only the first process writes. `taken`: the steps after the last epoch."""
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
            taken=tuple(taken),
        ),
    )


def save_best(job: Job, trainer: Trainer, history: tuple[Epoch, ...]) -> bool:
    """Write the checkpoints that the last epoch is best for; return whether it is best in one step."""
    *before, now = history
    best = all(now.score > earlier.score for earlier in before)
    walks = now.walk is not None and all(now.walk > (earlier.walk or -math.inf) for earlier in before)
    texture = job.request.folder / BEST_TEXTURE
    if best:
        if not walks and now.walk is not None and job.ranks.first:
            _keep_for_texture(job.request.folder, before)
        save(job, trainer, history, BEST)
        if walks and job.ranks.first:
            texture.unlink(missing_ok=True)  # checkpoint_best.pt is now the best for both
    elif walks:
        save(job, trainer, history, BEST_TEXTURE)
    return best


def _keep_for_texture(folder: Path, before: Sequence[Epoch]) -> None:
    """Copy checkpoint_best.pt, which is about to be replaced, if it holds the epoch that was best for a walk."""
    walked = max(before, key=lambda epoch: -math.inf if epoch.walk is None else epoch.walk, default=None)
    if walked is None or not (folder / BEST).exists() or checkpoint.load(folder / BEST).step != walked.step:
        return
    with atomic(folder / BEST_TEXTURE) as part:
        shutil.copyfile(folder / BEST, part)
