"""The start of a training from the weights of another run.

The network family decides how the weights are transferred: an equal network takes all of them, and a transformer can
also take those of a transformer at half the resolution.
"""

from __future__ import annotations

from pathlib import Path

from nndiff import checkpoint
from nndiff.training.loop import Trainer
from nndiff.words.errors import NndiffError


def begin(trainer: Trainer, path: Path) -> str:
    """Give the trainer the weights of another run.

    Return a sentence with their number and the parts of the network that are trained from scratch.
    """
    other = checkpoint.load(
        path, "pass the folder of a fold, a checkpoint, or a configuration with which this fold was trained"
    )
    spec, factor = trainer.configuration.network, trainer.configuration.puzzle_factor
    if other.planned.puzzle_factor != factor:
        raise NndiffError(
            "The other run has another puzzle factor, so its weights belong to other voxels.",
            expected=f"puzzle_factor {factor}",
            found=other.planned.puzzle_factor,
            where=path,
            remedy="begin with a run of the same puzzle factor, or plan with that factor",
        )
    own = trainer.weights
    weights = spec.inherit(own, other.planned.network, other.ema)
    trainer.begin_with(weights)
    new = [name for name, value in weights.items() if value is own[name]]
    parts = sorted({".".join(name.split(".")[:2]) for name in new})
    rest = f"; newly initialised: {', '.join(parts)}" if parts else ""
    if spec.sources != other.planned.network.sources:
        rest += "; they learned from sources of another mean and std (network.sources), and adapt in the first steps"
    return f"Started with {len(weights) - len(new)} of {len(weights)} weights of {path}{rest}"
