"""A training that begins with the weights of another run.

How the weights are carried over is the network family's affair: a network of the same kind takes them whole, a
transformer also from half the resolution.
"""

from __future__ import annotations

from pathlib import Path

from nndiff import checkpoint
from nndiff.training.loop import Trainer
from nndiff.words.errors import NndiffError


def begin(trainer: Trainer, path: Path) -> str:
    """Give the trainer another run's weights; return in words how many, and which parts are trained from scratch."""
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
