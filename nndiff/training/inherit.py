"""A network begins with the weights of another: one of its own kind whole, or a transformer of half the resolution.

From coarse to fine the tokens stay as many and where they are, so the transformer fits as it is. Only what touches
voxels has more of them. With a block of f voxels where one was,

    what reads a token    W(c, f·i + k) = W(c, i) / f      a fine token says what its mean over each f would, as far as
                                                           its margin reaches
    what writes a block   W(c, f·i + k) = W(c, i)          an answer is repeated f times

along every axis. The local part sees each voxel, and is trained anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from nndiff import checkpoint
from nndiff.plans.plan import NetworkSpec
from nndiff.training.loop import Trainer
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

READ = ("core.whole.embedding.0.weight", "core.whole.beside.weight")
WRITTEN = ("core.whole.head.weight", "core.whole.head.bias")


@dataclass(frozen=True, eq=False)
class Inherited:
    weights: dict[str, Tensor]  # of the whole network
    taken: int
    anew: tuple[str, ...]


def begin(trainer: Trainer, path: Path) -> str:
    """Give the trainer the weights of the checkpoint at `path`; return a line that says how many."""
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
    inherited = inherit(spec, trainer.weights, other.planned.network, other.ema)
    trainer.begin_with(inherited.weights)
    parts = sorted({".".join(name.split(".")[:2]) for name in inherited.anew})
    rest = f"; anew: {', '.join(parts)}" if parts else ""
    return f"Begun with {inherited.taken} of {len(inherited.weights)} weights of {path}{rest}"


def inherit(
    own: NetworkSpec, weights: Mapping[str, Tensor], other: NetworkSpec, theirs: Mapping[str, Tensor]
) -> Inherited:
    """`weights` with as many of `theirs` in their places as fit."""
    if own == replace(other, recompute=own.recompute):
        return Inherited(dict(theirs), len(theirs), ())
    factor = _factor(own, other)
    found = dict(weights)
    for name in found:
        if name.startswith("core.whole.") and name in theirs:
            spread = _spread(name, theirs[name], own, other, factor)
            if spread.shape == found[name].shape:
                found[name] = spread
    anew = tuple(name for name, value in found.items() if value is weights[name])
    return Inherited(found, len(found) - len(anew), anew)


def _factor(own: NetworkSpec, other: NetworkSpec) -> Triple:
    alike = ["name", "in_channels", "out_channels", "width", "blocks", "answers"]
    if own.name != "prdit":
        alike += ["multipliers", "kernels", "strides", "head_width", "mix", "skip"]
    words = [name for name in alike if getattr(own, name) != getattr(other, name)]
    if words:
        raise NndiffError(
            "This network cannot begin with the weights of that one.",
            expected="the same network, or a prdit of the same width and depth at a coarser resolution",
            found=", ".join(f"{word} {getattr(other, word)}, here {getattr(own, word)}" for word in words),
            remedy="plan both together (-c prdit_lowres prdit)",
        )
    pairs = list(zip(own.strides[0], other.strides[0], strict=True))
    if any(fine % coarse for fine, coarse in pairs):
        raise NndiffError(
            "The coarser network's blocks do not divide this one's.", expected=own.strides[0], found=other.strides[0]
        )
    z, y, x = (fine // coarse for fine, coarse in pairs)
    return z, y, x


def _spread(name: str, value: Tensor, own: NetworkSpec, other: NetworkSpec, factor: Triple) -> Tensor:
    if name in READ:
        rows = value.reshape(len(value), other.in_channels, *other.kernels[0])
        return _centred(_repeated(rows, factor), own.kernels[0]).flatten(1) / prod(factor)
    if name in WRITTEN:
        columns = value.reshape(len(value), -1).T  # [width or 1, block]
        columns = columns.reshape(len(columns), other.out_channels, *other.strides[0])
        return _repeated(columns, factor).flatten(1).T.reshape(-1, *value.shape[1:])
    return value


def _centred(rows: Tensor, patch: Triple) -> Tensor:
    """What lies beyond the fine token's margin is left out; what is new in it counts for nothing yet."""
    before = [(p - n) // 2 for p, n in zip(patch, rows.shape[2:], strict=True)]
    z, y, x = ((b, p - n - b) for b, p, n in zip(before, patch, rows.shape[2:], strict=True))
    return F.pad(rows, (*x, *y, *z))


def _repeated(rows: Tensor, factor: Triple) -> Tensor:  # [n, C, z, y, x] → [n, C, z·f_z, y·f_y, x·f_x]
    for axis, f in zip((2, 3, 4), factor, strict=True):
        rows = rows.repeat_interleave(f, axis)
    return rows
