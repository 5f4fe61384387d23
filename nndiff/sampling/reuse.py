"""What a walk keeps of its network from step to step, and when it asks for it anew (LIM's second shortcut).

    full step    all of the network; of every tile, fold and shift f, what D_m makes of d'_{m+1}, is kept
    other steps  the shallow part alone, on the kept f and the fresh x_t

    interval     every N-th step is full, from the first
    listed       the full steps were chosen beforehand, where f was measured to change (`listed_steps`)
    threshold    full as soon as f is expected to have changed by more, which is k·|Δx|/|x|, with
                 k = (|Δf|/|f|) / (|Δx|/|x|) between the last two full steps; |·| is a sum over the whole volume

All tiles advance together, so a decision is one for the volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nndiff.networks.unet import Cache
from nndiff.plans.plan import NetworkSpec, ReusePlan
from nndiff.words.errors import NndiffError


class Kept:
    """The caches of one walk, a tile and a pass (a fold at a shift) each, parked where the volume lives."""

    def __init__(self, plan: ReusePlan, tiles: int, passes: int, measures: bool = False):
        self.plan, self.measures = plan, measures or plan.threshold > 0
        self.caches = [[Cache(plan.depth) for _ in range(passes)] for _ in range(tiles)]
        self.full: list[int] = []  # the steps that were
        self.changes: list[float] = []  # |Δf| / |f| between full steps; one less than those
        self._step = 0
        self._x: Tensor | None = None  # at the last full step
        self._moved = self._size = 0.0
        self._sensitivity = 0.0  # k

    def begin(self, x: Tensor) -> None:
        """Of the next step: is it a full one?"""
        if self._due(x):
            for cache in (cache for tile in self.caches for cache in tile):
                cache.stale = True
                if not self.measures:
                    cache.kept = None
            self.full.append(self._step)
            self._moved = self._size = 0.0

    def enter(self, tile: int, device: torch.device) -> list[Cache]:
        """A tile's caches, on the device where its network runs."""
        for cache in self.caches[tile]:
            if cache.kept is not None:
                cache.kept = cache.kept.to(device)
        return [Cache(cache.depth, cache.kept, cache.stale) for cache in self.caches[tile]]

    def leave(self, tile: int, filled: Sequence[Cache], store: torch.device) -> None:
        for old, new in zip(self.caches[tile], filled, strict=True):
            assert new.kept is not None
            if self.measures and old.stale and old.kept is not None:
                self._moved += float((new.kept - old.kept).abs().sum(dtype=torch.float64))
                self._size += float(new.kept.abs().sum(dtype=torch.float64))
            old.kept, old.stale = new.kept.to(store), False

    def end(self, x: Tensor) -> None:
        if self.measures and self.full[-1] == self._step:
            if self._x is not None:
                self.changes.append(self._moved / max(self._size, 1e-30))
                self._sensitivity = self.changes[-1] / max(_relative(x, self._x), 1e-30)
            self._x = x
        self._step += 1

    def _due(self, x: Tensor) -> bool:
        if self.plan.threshold > 0:
            return len(self.full) < 2 or self._x is None or self._expected(x) > self.plan.threshold
        return self.plan.is_full(self._step)

    def _expected(self, x: Tensor) -> float:
        assert self._x is not None
        return self._sensitivity * _relative(x, self._x)


def deepest(network: NetworkSpec) -> int:
    """A UNet's decoder blocks: the largest depth there is. A transformer has none."""
    return len(network.multipliers) * network.blocks if network.name == "unet" else 0


def demand_reuse(reuse: ReusePlan, network: NetworkSpec) -> None:
    depth = reuse.depth
    if not deepest(network):
        if reuse.active:
            raise NndiffError(
                "This network keeps no features between steps.",
                expected="a unet",
                found=network.name,
                remedy="--reuse 1",
            )
    elif depth > deepest(network):
        raise NndiffError(
            "The network has no such reuse depth.",
            expected=f"1 (cheapest) to {deepest(network)} (its decoder blocks)",
            found=depth,
            remedy="1 is the cheapest and the usual one",
        )


def listed_steps(changes: Sequence[float], most: float) -> tuple[int, ...]:
    """The full steps of a walk whose kept feature changed by changes[i] from step i to i + 1.

    Greedy: a step is full as soon as the changes since the last full one add up to more than `most`.
    """
    steps, since = [0], 0.0
    for step, change in enumerate(changes, start=1):
        since += change
        if since > most:
            steps.append(step)
            since = 0.0
    return tuple(steps)


def _relative(x: Tensor, before: Tensor) -> float:
    return float((x - before).abs().sum(dtype=torch.float64) / x.abs().sum(dtype=torch.float64).clamp(min=1e-30))
