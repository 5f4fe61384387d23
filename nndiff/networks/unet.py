"""A 3D UNet without attention, cut so that its shallow part can run on a cached deep part.

    h_0 = stem(x)        h_k = E_k(h'_{k-1})        h' = h, or its reduction where a level begins
    d_K = D_K(h_K, h'_{K-1})        d_k = D_k(d'_{k+1}, h'_{k-1})        output = head(d_1)

D_k sees the *input* of E_k, so D_1 sees the stem's output, and whoever keeps d'_{m+1} needs only the stem and
E_1 … E_{m-1} to finish a pass with fresh skips (LIM, Eq. 9-11). What is kept is d'_{m+1} on its way through D_m, up to
where it meets the skip: half of that block need not be done again.
Encoder and decoder are flat lists of K blocks: depth m means one thing. d'_{K+1} is h_K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nndiff.networks.blocks import NormConv, ResidualBlock, TimeEmbedding, Up, conv
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.volume import Triple

RECOMPUTE = ("none", "norms", "blocks")


@dataclass
class Cache:
    """What D_m makes of d'_{m+1}, from the last full pass. While it is stale the next pass is full, and fills it."""

    depth: int  # m: the decoder blocks that are computed anew on a kept feature
    kept: Tensor | None = None  # [B, 2C, Z, Y, X]: on its way through the block, and its shortcut
    stale: bool = True


class UNet(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,  # channels of level 0 = width · multipliers[0]
        multipliers: tuple[int, ...],  # one a level
        kernels: tuple[Triple, ...],  # one a level
        strides: tuple[Triple, ...],  # one a level, from the level above; strides[0] is (1, 1, 1)
        blocks: int = 2,  # a level, on each side
        recompute: str = "none",  # done twice to save memory: nothing, norms and activations, whole blocks
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
        self.head = NormConv(channels[0], out_channels, kernels[0], recompute != "none", zero=True)

    def forward(self, x: Tensor, t: Tensor, cache: Cache | None = None) -> Tensor:
        """[B, C, Z, Y, X], [B] → [B, out, Z, Y, X]; with a cache that is not stale, the shallow part alone."""
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
        h = up(block.finish(time, (kept, passed), block.begin(1, skips.pop())))
        return self.head(self.decode(h, skips, time, 0))  # type: ignore[no-any-return]

    def _deep(self, x: Tensor, time: Tensor, last: int) -> tuple[Tensor, list[Tensor]]:
        """d'_{last+1}, and the skips that are left for D_last … D_1."""
        skips = self.encode(x, time, len(self.encoder))
        h = self.encoder[-1](time, skips[-1])
        return self.decode(h, skips, time, last), skips

    def encode(self, x: Tensor, time: Tensor, blocks: int) -> list[Tensor]:
        """The inputs of E_1 … E_blocks."""
        h, skips = self.stem(x), list[Tensor]()
        for k in range(blocks):
            h = self.downs[k](self.encoder[k - 1](time, h) if k else h)
            skips.append(h)
        return skips

    def decode(self, h: Tensor, skips: list[Tensor], time: Tensor, last: int) -> Tensor:
        """D_k … D_{last+1} for k = len(skips); every skip is let go once it was used."""
        for k in reversed(range(last, len(skips))):
            h = self.ups[k](self.decoder[k](time, h, skips.pop()))
        return h


def _check(
    multipliers: tuple[int, ...], kernels: tuple[Triple, ...], strides: tuple[Triple, ...], recompute: str
) -> None:
    lengths = len(multipliers), len(kernels), len(strides)
    if len(set(lengths)) != 1 or not multipliers:
        raise NndiffError(
            "A UNet needs one multiplier, one kernel and one stride a level.",
            expected="three lists of one length",
            found=f"{lengths[0]} multipliers, {lengths[1]} kernels, {lengths[2]} strides",
        )
    if strides[0] != (1, 1, 1):
        raise NndiffError(
            "Level 0 of a UNet is the input's own grid.", expected="strides[0] = (1, 1, 1)", found=strides[0]
        )
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise NndiffError("A kernel must be odd along every axis, so that it has a centre.", found=kernels)
    if recompute not in RECOMPUTE:
        raise NndiffError(f"There is no recompute mode '{recompute}'.", remedy=nearest(recompute, RECOMPUTE))
