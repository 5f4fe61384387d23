"""The puzzle operator, which rearranges voxels into channels, and the wrapper that puts it around a network (PPDM).

    (P x)[(c, i, j, k), z, y, w] = x[c, z·r_z + i, y·r_y + j, w·r_x + k]      C → C·r_z·r_y·r_x channels, each axis / r

P is a permutation: its inverse is exact, it preserves the norm, and white noise stays white.
It therefore commutes with every Gaussian process,

    f(x_t, t, y) = P⁻¹ core(P[x_t; y], t)

and schedule, loss and sampler stay in image space. At equal width, activations and FLOPs are r_z·r_y·r_x times fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiff.networks.blocks import Conv, TimeEmbedding, conv, zeroed
from nndiff.networks.lean import in_slabs
from nndiff.networks.prior import Prior
from nndiff.words.spread import Spread
from nndiff.words.volume import Triple

HEAD_CHANNELS = 4  # channels per voxel that the core passes to the full-resolution head
TIME_WIDTH = 32  # of the time embedding of a timed head
HEAD_REACH = 2  # voxels beyond the volume that head and skip can see: two kernels of 3


def puzzle(x: Tensor, factor: Triple) -> Tensor:  # [B, C, Z, Y, X] → [B, C·r_z·r_y·r_x, Z/r_z, Y/r_y, X/r_x]
    assert all(n % r == 0 for n, r in zip(x.shape[2:], factor, strict=True)), (tuple(x.shape), factor)
    (b, c, z, y, w), (rz, ry, rx) = x.shape, factor
    pieces = x.reshape(b, c, z // rz, rz, y // ry, ry, w // rx, rx)
    rows = pieces.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, z // rz, y // ry, w // rx, c * rz * ry * rx)
    return rows.movedim(-1, 1).contiguous(memory_format=torch.channels_last_3d)


def unpuzzle(x: Tensor, factor: Triple) -> Tensor:  # [B, C·r_z·r_y·r_x, Z, Y, X] → [B, C, Z·r_z, Y·r_y, X·r_x]
    assert x.shape[1] % prod(factor) == 0, (tuple(x.shape), factor)
    (b, _, z, y, w), (rz, ry, rx) = x.shape, factor
    pieces = x.reshape(b, -1, rz, ry, rx, z, y, w)
    rows = pieces.permute(0, 5, 2, 6, 3, 7, 4, 1).reshape(b, z * rz, y * ry, w * rx, -1)
    return rows.movedim(-1, 1).contiguous(memory_format=torch.channels_last_3d)


def haar(x: Tensor, factor: Triple) -> Tensor:  # [B, C·r_z·r_y·r_x, Z, Y, X] → the same
    """Return the puzzle channels of each voxel mixed by H_z ⊗ H_y ⊗ H_x.

    H = [[1, 1], [1, -1]]/√2 along an axis of factor 2. The mix is orthogonal and its own inverse. (WDM also scales the
    lowest band by 1/3.)
    """
    pieces, h = prod(factor), torch.tensor([[1.0, 1.0], [1.0, -1.0]], device=x.device, dtype=x.dtype)
    mix = torch.ones(1, 1, device=x.device, dtype=x.dtype)
    for r in factor:
        mix = torch.kron(mix, h) if r == 2 else mix
    with torch.autocast(x.device.type, enabled=False):  # `mix` holds signs, exact in every dtype; the scale comes after
        rows = x.movedim(1, -1)  # [B, Z, Y, X, C·pieces]
        mixed: Tensor = rows.reshape(*rows.shape[:-1], -1, pieces) @ mix * pieces**-0.5
    return mixed.flatten(-2).movedim(-1, 1)


class Head(nn.Module):
    """Two convolutions at full resolution over the core's output and input, which correct artefacts of the puzzle.

    Their output is added to the first `corrects` channels of the core's; 0: it is all of the output. A timed head
    scales and shifts the maps between them by the time, because noise of each level needs its own filter. These maps
    are the largest of the network, so they are computed slab by slab, and again in the backward pass.
    """

    def __init__(self, c_in: int, c_out: int, width: int, timed: bool = False, corrects: int = 0):
        super().__init__()
        self.corrects = corrects
        self.first = conv(c_in, width, (3, 3, 3))
        self.last = zeroed(conv(width, c_out, (3, 3, 3)))
        self.time = TimeEmbedding(TIME_WIDTH, 2 * TIME_WIDTH) if timed else None
        self.film = zeroed(nn.Linear(2 * TIME_WIDTH, 2 * width)) if timed else None

    def forward(self, core: Tensor, seen: Tensor, t: Tensor) -> Tensor:
        """Return the output: [B, 4, Z, Y, X], [B, C, Z, Y, X], [B] → [B, out, Z, Y, X]."""
        told = [] if self.time is None or self.film is None else [self.film(self.time(t))]
        weights = [*self.first.parameters(), *self.last.parameters()]
        return in_slabs(self._run, HEAD_REACH, [core, seen], told, weights)

    def _run(self, core: Tensor, seen: Tensor, film: Tensor | None = None) -> Tensor:
        found: Tensor = self.last(F.silu(self.first(torch.cat([core, seen], dim=1), film)))
        return found + core[:, : self.corrects] if self.corrects else found


def averaging(c_in: int, channels: Sequence[int], kernel: Triple, spreads: Sequence[Spread] = ()) -> Conv:
    """Return a convolution that before training gives, per output channel, the local mean of one input channel.

    `channels` lists the input channel of each output channel. The last inputs are seen in units of their `spreads`.
    """
    layer = zeroed(conv(c_in, len(channels), kernel))
    own = dict(enumerate(spreads, start=c_in - len(spreads)))
    assert layer.bias is not None
    with torch.no_grad():
        for i, channel in enumerate(channels):
            spread = own.get(channel, Spread(0.0, 1.0))
            layer.weight[i, channel], layer.bias[i] = spread.std / prod(kernel), spread.mean
    return layer


class Standardised(nn.Module):
    """x → (x - mean)/std, for each channel. Its numbers are those of the plan; a checkpoint does not repeat them."""

    mean: Tensor  # [1, C, 1, 1, 1]
    std: Tensor  # [1, C, 1, 1, 1]

    def __init__(self, spreads: Sequence[Spread]):
        super().__init__()
        for name in ("mean", "std"):
            column = torch.tensor([getattr(spread, name) for spread in spreads])
            self.register_buffer(name, column[None, :, None, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, Z, Y, X] → the same
        return (x - self.mean) / self.std


class Puzzled(nn.Module):
    """A core with the interface of every network: (x_t, t, condition) → output, at any size, in image space.

    Each axis is padded at its far end, by repeating the border, to a multiple of `multiple`; the output is cropped
    back. `skip`, where there is one, is a convolution of the input at full resolution, which is added to the output.
    `aside` computes further outputs. Its gradients stop there, so that the other outputs do not depend on its training.
    `prior`, where there is one, makes a first estimate, which the core sees and whose error it predicts (prior.py).
    `spreads`, where there are any, are those of the sources: all parts but the prior see (source - mean)/std, because a
    network learns faster from inputs around 0 of size 1.
    """

    def __init__(
        self,
        core: nn.Module,
        factor: Triple,
        multiple: Triple,
        head: nn.Module | None,
        haar: bool = False,
        skip: nn.Module | None = None,
        aside: nn.Module | None = None,
        prior: Prior | None = None,
        spreads: Sequence[Spread] = (),
    ):
        super().__init__()
        assert all(m % r == 0 for m, r in zip(multiple, factor, strict=True)), (multiple, factor)
        assert not haar or set(factor) <= {1, 2}, factor
        self.core, self.head, self.skip, self.aside, self.prior = core, head, skip, aside, prior
        self.factor, self.multiple, self.haar = factor, multiple, haar
        self.standardised = Standardised(spreads) if spreads else None

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, *kept: Any) -> Tensor:
        """Return the output: [B, C, Z, Y, X], [B] → [B, out, Z, Y, X].

        `kept` is passed on to the core: the features that it keeps from step to step.
        """
        known = None if self.prior is None else self.prior(x_t, t, condition)
        seen = x_t if condition is None else torch.cat([x_t, self._shown(condition)], dim=1)
        seen = seen if known is None else torch.cat([seen, known.x0], dim=1)
        seen = pad(seen.contiguous(memory_format=torch.channels_last_3d), self.multiple)
        output: Tensor = self._leave(self.core(self._enter(seen), t, *kept))
        size, reach = x_t.shape[2:], [n + HEAD_REACH for n in x_t.shape[2:]]
        output, seen = _cut(output, reach), _cut(seen, reach)  # the rest of the padding would only cost memory
        further = None if self.aside is None else self.aside(output.detach(), seen, t)
        if self.head is not None:
            output = self.head(output, seen, t)
        if self.skip is not None:
            output = output + self.skip(seen)
        output = _cut(output if further is None else torch.cat([output, further], dim=1), size)
        return output if known is None else known.completed(output)

    def _shown(self, condition: Tensor) -> Tensor:
        return condition if self.standardised is None else self.standardised(condition)

    def _enter(self, x: Tensor) -> Tensor:
        pieces = puzzle(x, self.factor)
        return haar(pieces, self.factor) if self.haar else pieces

    def _leave(self, pieces: Tensor) -> Tensor:
        return unpuzzle(haar(pieces, self.factor) if self.haar else pieces, self.factor)


def _cut(x: Tensor, size: Sequence[int]) -> Tensor:
    z, y, w = size
    return x[:, :, :z, :y, :w]


def pad(x: Tensor, multiple: Triple) -> Tensor:  # [B, C, Z, Y, X] → [B, C, Z', Y', X']
    after = [-n % m for n, m in zip(x.shape[2:], multiple, strict=True)]
    if not any(after):
        return x
    return F.pad(x, (0, after[2], 0, after[1], 0, after[0]), mode="replicate")
