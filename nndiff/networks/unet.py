"""A 3D UNet without attention, whose shallow part can run on cached features of its deep part.

    h_0 = stem(x)        h_k = E_k(h'_{k-1})        h' = h, or h downsampled where a level begins
    d_K = D_K(h_K, h'_{K-1})        d_k = D_k(d'_{k+1}, h'_{k-1})        output = head(d_1)

d' is d, or d upsampled where a level ends (and cut, where the level above has an odd length: a stride of 2 leaves ⌈n/2⌉
of n voxels, so no size needs padding). D_k sees the *input* of E_k, so D_1 sees the output of the stem. Given a cached
d'_{m+1}, the stem and E_1 … E_{m-1} suffice to finish a forward pass with fresh skips (LIM, Eq. 9-11). What is cached
is d'_{m+1} after the first half of D_m, just before it is added to the skip, so that this half of the block is not
computed again either. Encoder and decoder are flat lists of K blocks, so depth m counts blocks. d'_{K+1} is h_K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nndiff.networks.blocks import NormConv, ResidualBlock, TimeEmbedding, Up, conv
from nndiff.networks.lean import LAST
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.volume import Triple

RECOMPUTE = ("none", "norms", "blocks")


@dataclass
class Cache:
    """The cached features: d'_{m+1} after the first half of D_m, from the last full pass.

    If the cache is stale, the next pass is a full one and fills it.
    """

    depth: int  # m: every pass computes D_m (its second half) … D_1
    kept: Tensor | None = None  # [B, 2C, Z, Y, X]: the first convolution of d'_{m+1} in D_m, and its shortcut
    stale: bool = True


class UNet(nn.Module):
    """The UNet of the module's equations; the core of a network, without puzzle and padding."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,  # channels of level 0 = width · multipliers[0]
        multipliers: tuple[int, ...],  # one per level
        kernels: tuple[Triple, ...],  # one per level
        strides: tuple[Triple, ...],  # one per level, from the level above; strides[0] is (1, 1, 1)
        blocks: int = 2,  # per level, on each side
        recompute: str = "none",  # what is computed twice to save memory: nothing, norms and activations, whole blocks
        zero: bool = True,  # whether the output is zero before training
    ):
        super().__init__()
        _check(multipliers, kernels, strides, recompute)
        channels, c_time = [width * m for m in multipliers], 4 * width
        self.time = TimeEmbedding(width, c_time)
        self.stem = conv(in_channels, channels[0], kernels[0])
        self.downs, self.encoder = nn.ModuleList(), nn.ModuleList()  # before E_k, E_k
        self.decoder, self.ups = nn.ModuleList(), nn.ModuleList()  # D_k, after D_k
        for level, (c, kernel, stride) in enumerate(zip(channels, kernels, strides, strict=True)):
            for block in range(blocks):
                begins = level > 0 and block == 0
                self.downs.append(conv(channels[level - 1], c, kernel, stride) if begins else nn.Identity())
                self.encoder.append(ResidualBlock((c,), c, c_time, kernel, recompute))
                self.decoder.append(ResidualBlock((c, c), c, c_time, kernel, recompute))
                self.ups.append(Up(c, channels[level - 1], stride) if begins else nn.Identity())
        self.head = NormConv(channels[0], out_channels, kernels[0], recompute != "none", zero)

    def forward(self, x: Tensor, t: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the output: [B, C, Z, Y, X], [B] → [B, out, Z, Y, X].

        With a cache that is not stale, only the shallow part runs.
        """
        time = self.time(t)
        if cache is None:
            return self.head(self._deep(x, time, 0)[0])  # type: ignore[no-any-return]
        block, up = self.decoder[cache.depth - 1], self.ups[cache.depth - 1]
        assert isinstance(block, ResidualBlock)
        if cache.kept is None or cache.stale:
            h, skips = self._deep(x, time, cache.depth)
            cache.kept, cache.stale = torch.cat(block.begin(0, h), dim=1), False
        else:
            skips = self.encode(x, time, cache.depth)
        kept, passed = cache.kept.chunk(2, dim=1)
        h = _fitted(up(block.finish(time, (kept, passed), block.begin(1, skips.pop()))), skips)
        return self.head(self.decode(h, skips, time, 0))  # type: ignore[no-any-return]

    def _deep(self, x: Tensor, time: Tensor, last: int) -> tuple[Tensor, list[Tensor]]:
        """Return d'_{last+1} and the remaining skips, those of D_last … D_1."""
        skips = self.encode(x, time, len(self.encoder))
        h = self.encoder[-1](time, skips[-1])
        return self.decode(h, skips, time, last), skips

    def encode(self, x: Tensor, time: Tensor, blocks: int) -> list[Tensor]:
        """Return the inputs of E_1 … E_blocks."""
        h, skips = self.stem(x), list[Tensor]()
        for k in range(blocks):
            h = self.downs[k](self.encoder[k - 1](time, h) if k else h)
            skips.append(h)
        return skips

    def decode(self, h: Tensor, skips: list[Tensor], time: Tensor, last: int) -> Tensor:
        """Run D_k … D_{last+1} for k = len(skips), and return d'_{last+1}. Each skip is released after its use."""
        for k in reversed(range(last, len(skips))):
            h = _fitted(self.ups[k](self.decoder[k](time, h, skips.pop())), skips)
        return h


def _fitted(h: Tensor, skips: list[Tensor]) -> Tensor:
    """Return h without what upsampling an axis of odd length added to it; the next skip has the true shape."""
    z, y, x = skips[-1].shape[2:] if skips else h.shape[2:]
    return h[:, :, :z, :y, :x].contiguous(memory_format=LAST)


def _check(
    multipliers: tuple[int, ...], kernels: tuple[Triple, ...], strides: tuple[Triple, ...], recompute: str
) -> None:
    lengths = len(multipliers), len(kernels), len(strides)
    if len(set(lengths)) != 1 or not multipliers:
        raise NndiffError(
            "A UNet needs one multiplier, one kernel and one stride per level.",
            expected="three lists of the same length",
            found=f"{lengths[0]} multipliers, {lengths[1]} kernels, {lengths[2]} strides",
        )
    if strides[0] != (1, 1, 1):
        raise NndiffError(
            "Level 0 of a UNet must keep the grid of the input.", expected="strides[0] = (1, 1, 1)", found=strides[0]
        )
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise NndiffError(
            "The kernel sizes of a UNet must be odd along every axis.", expected="odd numbers", found=kernels
        )
    if recompute not in RECOMPUTE:
        raise NndiffError(f"There is no recompute mode '{recompute}'.", remedy=nearest(recompute, RECOMPUTE))
