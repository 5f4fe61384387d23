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
        path, "give a fold's folder, a checkpoint, or a configuration that this fold was trained in"
    )
    spec, factor = trainer.configuration.network, trainer.configuration.puzzle_factor
    if other.planned.puzzle_factor != factor:
        raise NndiffError(
            "The other run has another puzzle: its channels are other voxels.",
            expected=f"puzzle_factor {factor}",
            found=other.planned.puzzle_factor,
            where=path,
        )
    own = trainer.weights
    weights = spec.inherit(own, other.planned.network, other.ema)
    trainer.begin_with(weights)
    new = [name for name, value in weights.items() if value is own[name]]
    parts = sorted({".".join(name.split(".")[:2]) for name in new})
    rest = f"; from scratch: {', '.join(parts)}" if parts else ""
    return f"Begun with {len(weights) - len(new)} of {len(weights)} weights of {path}{rest}"
