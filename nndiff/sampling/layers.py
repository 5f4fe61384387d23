"""What stands between the sampler and a network: tiles, folds, shifts, each obeying the network's own contract.

    (x_t, t, condition) → output          Tiled(Averaged(Shifted(Puzzled(UNet))))

The sampler learns of none of them, nor does the network. What each evaluation of a network keeps from step to step is a
cache of its own (reuse.py): a tile's, of a fold, at one shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nndiff.imaging.tiles import Tiling
from nndiff.networks.unet import Cache
from nndiff.resources.memory import autocast
from nndiff.sampling.reuse import Kept
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple


class Shifted:
    """A network's mean answer over shifts of the puzzle's grid, in fp32.

        (1/k) Σ_o S_o⁻¹ f(S_o x_t, t, S_o y)          S_o: the first o voxels cut away, the last one repeated o times

    A network that says other things of a piece's first voxel than of its last says each of them of every voxel; what it
    says everywhere alike is left as it is. What S_o cuts away has the unmoved answer. A network knows both borders from
    training: patches are cut anywhere, and padded at their far end; a repeated near border cost 0.5 dB on real PET.
    """

    def __init__(self, network: nn.Module, moves: Sequence[Triple]):
        assert not any(moves[0]), moves
        self.network, self.moves = network, moves

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None, *kept: Cache) -> Tensor:
        """`kept`: a cache a shift, or none at all."""
        first: Tensor = self.network(x_t, t, condition, *kept[:1]).float()
        if len(self.moves) == 1:
            return first
        total = first.clone()
        for i, by in enumerate(self.moves[1:], start=1):
            seen = None if condition is None else moved(condition, by)
            answer = self.network(moved(x_t, by), t, seen, *kept[i : i + 1])
            total += _back(answer, first, by)
        return total / len(self.moves)


def offsets(shifts: int, puzzle_factor: Triple) -> tuple[Triple, ...]:
    """Evenly along a piece's diagonal, from (0, 0, 0): so along each axis every place is taken equally often."""
    most = max(puzzle_factor)
    if not 1 <= shifts <= most:
        raise NndiffError(
            "The puzzle's grid cannot be put in so many places.",
            expected=f"1 to {most}: the puzzle's factor is {' x '.join(map(str, puzzle_factor))}",
            found=f"shifts {shifts}",
            remedy=f"shifts {min(max(shifts, 1), most)}",
        )
    z, y, x = ([i * r // shifts for i in range(shifts)] for r in puzzle_factor)
    return tuple(zip(z, y, x, strict=True))


def moved(x: Tensor, by: Triple) -> Tensor:  # [B, C, Z, Y, X] → the same
    for axis, voxels in enumerate(by, start=2):
        if voxels:
            places = torch.arange(x.shape[axis], device=x.device) + voxels
            x = x.index_select(axis, places.clamp(max=x.shape[axis] - 1))
    return x


def _back(answer: Tensor, unmoved: Tensor, by: Triple) -> Tensor:
    """The answer in its own place; where it has none, the unmoved one."""
    size = [max(0, n - voxels) for n, voxels in zip(answer.shape[2:], by, strict=True)]
    (z, y, x), (i, j, k), out = size, by, unmoved.clone()
    out[:, :, i : i + z, j : j + y, k : k + x] = answer[:, :, :z, :y, :x]
    return out


class Averaged:
    """The mean answer of several folds' networks, under autocast, in fp32."""

    def __init__(self, networks: Sequence[Shifted], precision: str):
        self.networks, self.precision = networks, precision

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None, kept: Sequence[Cache]) -> Tensor:
        """`kept`: a cache a fold and shift, or none at all."""
        share = len(kept) // len(self.networks)
        with autocast(x_t.device.type, self.precision):
            answers = [
                network(x_t, t, condition, *kept[i * share : (i + 1) * share])
                for i, network in enumerate(self.networks)
            ]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)


class Tiled:
    """Every tile visits the device; the weighted mean of the answers is gathered where the volume lives."""

    def __init__(self, network: Averaged, tiling: Tiling, device: torch.device):
        self.network, self.tiling, self.device = network, tiling, device

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None, kept: Kept | None) -> Tensor:
        moment = t.to(self.device, torch.float32)

        def answers() -> Iterator[Tensor]:
            for i in range(len(self.tiling)):
                seen = None if condition is None else self.tiling.extract(condition, i).to(self.device)
                caches = [] if kept is None else kept.enter(i, self.device)
                answer = self.network(self.tiling.extract(x_t, i).to(self.device), moment, seen, caches)
                if kept is not None:
                    kept.leave(i, caches, x_t.device)
                yield answer.to(x_t.device)

        return self.tiling.merge(answers())
