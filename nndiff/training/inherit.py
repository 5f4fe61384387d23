"""The start of a training from the weights of another run.

The network family decides how the weights are transferred: an equal network takes all of them, and a transformer can
also take those of a transformer at half the resolution.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nndiff import archive, checkpoint
from nndiff.plans.plan import Configuration
from nndiff.training.loop import Trainer
from nndiff.words.errors import NndiffError
from nndiff.words.paths import is_archive


def begin(trainer: Trainer, path: Path) -> str:
    """Give the trainer the weights of another run.

    Return a sentence with their number and the parts of the network that are trained from scratch.
    """
    planned, theirs, path = _other(path, trainer.run.fold)
    spec, factor = trainer.configuration.network, trainer.configuration.puzzle_factor
    if planned.puzzle_factor != factor:
        raise NndiffError(
            "The other run has another puzzle factor, so its weights belong to other voxels.",
            expected=f"puzzle_factor {factor}",
            found=planned.puzzle_factor,
            where=path,
            remedy="begin with a run of the same puzzle factor, or plan with that factor",
        )
    own = trainer.weights
    weights = spec.inherit(own, planned.network, theirs)
    trainer.begin_with(weights)
    new = [name for name, value in weights.items() if value is own[name]]
    parts = sorted({".".join(name.split(".")[:2]) for name in new})
    rest = f"; newly initialised: {', '.join(parts)}" if parts else ""
    if spec.sources != planned.network.sources:
        rest += "; they learned from sources of another mean and std (network.sources), and adapt in the first steps"
    return f"Started with {len(weights) - len(new)} of {len(weights)} weights of {path}{rest}"


def _other(path: Path, fold: str) -> tuple[Configuration, dict[str, Tensor], Path]:
    """Return the configuration, the averaged weights and the place of the fold to begin with.

    Of an archive this is the fold of the same name, or the first one.
    """
    if is_archive(path):
        with archive.opened(path) as parts:
            there = archive.folds_in(parts)
            found, _ = archive.read_fold(parts, fold if fold in there else there[0])
        return found.planned, dict(found.weights), found.path
    remedy = "pass the folder of a fold, a checkpoint, a model in one file, or a configuration trained in this fold"
    other = checkpoint.load(path, remedy)
    return other.planned, other.ema, path
