"""Split a volume that is too large for the network into overlapping tiles, and merge them as a weighted mean.

    merged(v) = Σ_k w_k(v)·tile_k(v)          Σ_k w_k(v) = 1 at every voxel

The positions form a product grid and the Gaussian is separable, so the normalised weight is also a product: of three
1-D profiles, each normalised along its axis. Only the profiles are stored, never a map as large as the volume.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nndiff.words.errors import NndiffError
from nndiff.words.volume import Box, Triple

SIGMA_SHARE = 1 / 8  # of the patch, as in nnU-Net
FLOOR = 1e-3  # of the peak, along each axis, so that a corner voxel keeps some weight


@dataclass(frozen=True)
class Tiling:
    shape: Triple  # of the volume
    patch: Triple
    overlap: float  # least share of a patch that its neighbour covers too

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise NndiffError(
                "The overlap of tiles must be a share of their size.", expected="0 ≤ overlap < 1", found=self.overlap
            )

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self._starts)

    @cached_property
    def positions(self) -> tuple[Box, ...]:
        z, y, x = self.size
        return tuple(Box((a, b, c), (a + z, b + y, c + x)) for a, b, c in itertools.product(*self._starts))

    @property
    def size(self) -> Triple:
        """Return the patch size, limited to the size of the volume."""
        a, b, c = (min(n, p) for n, p in zip(self.shape, self.patch, strict=True))
        return a, b, c

    def weight(self, i: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the weight of tile i, float32 [z, y, x]."""
        index = np.unravel_index(i, [len(starts) for starts in self._starts])
        z, y, x = (profiles[k].to(device) for profiles, k in zip(self._profiles, index, strict=True))
        return z[:, None, None] * y[:, None] * x

    def weights(self) -> Iterator[Tensor]:
        return (self.weight(i) for i in range(len(self)))

    def extract(self, volume: Tensor, i: int) -> Tensor:
        """Return a view of tile i of a volume [B, C, Z, Y, X]."""
        return volume[(..., *self.positions[i].slices)]

    def merge(self, tiles: Iterable[Tensor]) -> Tensor:
        """Return the weighted mean [B, C, Z, Y, X] float32 of one tile [B, C, z, y, x] per position, in order."""
        if len(self) == 1:
            (tile,) = tiles
            return tile.float()  # without arithmetic: even 0 + x would lose the sign of zero
        merged: Tensor | None = None
        for i, (box, tile) in enumerate(zip(self.positions, tiles, strict=True)):
            if merged is None:
                merged = torch.zeros((*tile.shape[:-3], *self.shape), dtype=torch.float32, device=tile.device)
            merged[(..., *box.slices)].addcmul_(tile.float(), self.weight(i, tile.device))
        assert merged is not None
        return merged

    @cached_property
    def _starts(self) -> tuple[list[int], list[int], list[int]]:
        a, b, c = (_starts(n, p, self.overlap) for n, p in zip(self.shape, self.size, strict=True))
        return a, b, c

    @cached_property
    def _profiles(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weight profiles of the three axes, each [positions, patch]."""
        a, b, c = (_profiles(n, p, starts) for n, p, starts in zip(self.shape, self.size, self._starts, strict=True))
        return a, b, c


def snug(length: int, count: int, overlap: float, multiple: int = 1) -> int:
    """Return the smallest tile, a multiple of `multiple`, of which `count` cover an axis with this share of overlap."""
    return multiple * math.ceil(length / (1 + (count - 1) * (1 - overlap)) / multiple - 1e-6)


def _starts(length: int, patch: int, overlap: float) -> list[int]:
    """Return the fewest evenly spread starts that reach the end with steps of at most patch · (1 - overlap)."""
    span = length - patch
    count = math.ceil(span / max(1.0, patch * (1 - overlap)) - 1e-6) + 1
    return [round(span * k / max(1, count - 1)) for k in range(count)]


def _profiles(length: int, patch: int, starts: list[int]) -> Tensor:
    """Return a floored Gaussian divided by the sum of all profiles that cover the same voxel: [positions, patch]."""
    offset = torch.arange(patch, dtype=torch.float64) - (patch - 1) / 2
    bell = torch.exp(-0.5 * (offset / (SIGMA_SHARE * patch)) ** 2).clamp_min(FLOOR)
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + patch] += bell
    return torch.stack([bell / total[start : start + patch] for start in starts]).float()
