"""Caches: which network features a sampler keeps from step to step, and at which steps it computes them again.

    deep    the second shortcut of LIM. On a full step the whole network runs, and a feature f is kept for every tile,
            fold and shift: d'_{m+1} after the first half of D_m (networks/unet.py). On the other steps only the shallow
            part runs, on the kept f and the fresh x_t

                interval     every N-th step is full, beginning with the first
                listed       the full steps are chosen before the walk, where f was measured to change (`listed_steps`)
                threshold    a step is full as soon as the expected change of f exceeds the threshold. The expected
                             change is k·|Δx|/|x|, with k = (|Δf|/|f|) / (|Δx|/|x|) between the last two full steps;
                             |·| is a sum over the volume

A plan stores a Cache; its `begin` returns the object that holds the features of one walk. All tiles advance together,
so each decision applies to the whole volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Protocol

from nndiff.families.family import NetworkSpec
from nndiff.walk.layers import Asks, Where
from nndiff.walk.part import Asked, Part, Setting, revised
from nndiff.words.errors import NndiffError
from nndiff.words.fields import at_least, option
from nndiff.words.registry import Registry
from nndiff.words.volume import Triple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nndiff.networks.unet import Cache as Feature

INTERVALS = (2, 3, 5, 10)  # the intervals that tuning tries
DEEPEST_TRIED = 2  # the largest depth that tuning tries


class Keeping(Protocol):
    """The features of one walk. It is informed of every step, and wrapped around every network.

    Several of them nest: each hands on what follows `where`, which is for the network's core.
    """

    def begin(self, x: Tensor) -> None: ...

    def end(self, x: Tensor) -> None: ...

    def around(self, network: Asks) -> Asks: ...


class Cache(Part):
    """The base class of every cache: a way to skip part of the network on some steps."""

    seam = "cache"

    @classmethod
    def table(cls) -> Registry[type[Cache]]:
        return CACHES

    def begin(self, store: torch.device, measures: bool = False) -> Keeping:
        """Return the features of one walk, which are held on the device `store` while their network does not run."""
        raise NotImplementedError

    def work(self, steps: int, share: Callable[[int], float]) -> float:
        """Return the cost of a walk in evaluations of the whole network, as far as it is known before the walk.

        `share(depth)` is the cost of a step on features kept at that depth, as a share of one evaluation.
        """
        return steps

    def bytes(self, network: NetworkSpec, tile: Triple, feature: Callable[[int], int]) -> int:
        """Return the bytes kept per tile, fold and shift; `feature(depth)` is the size of a feature at that depth."""
        return 0

    def for_walk(self, steps: int) -> Cache:
        """Return this cache as it applies to a walk of `steps` steps that it was not chosen for."""
        return self

    def revised(self, asked: Asked, steps: int, same_walk: bool) -> Cache:
        """Return the cache that runs on a walk of so many steps, with what was asked for put in."""
        return revised(self if same_walk else self.for_walk(steps), asked)

    @classmethod
    def candidates(cls, own: Cache | None, steps: int, depths: int) -> Iterator[Cache]:
        """Yield the settings that tuning tries on a walk of `steps` steps."""
        return iter(())


@dataclass(frozen=True)
class Deep(Cache):
    """A cache that computes the deepest features only on the full steps.

    If `threshold` is above 0, it decides during the walk which steps are full. Otherwise they are the `listed` steps,
    or, without a list, every `interval`-th step beginning with the first.
    """

    name = "deep"

    interval: int = option(1, at_least(1), help="run the whole network only at every N-th step", flag="reuse")
    depth: int = option(
        1, at_least(1), help="number of decoder blocks computed at the other steps", flag="reuse_depth", metavar="M"
    )
    listed: Annotated[tuple[int, ...], at_least(0)] = ()  # counted from 0
    threshold: float = option(
        0.0,
        at_least(0),
        help="run the whole network when the expected feature change exceeds X",
        flag="reuse_threshold",
        metavar="X",
        type=float,
    )

    @property
    def is_identity(self) -> bool:
        return not (self.interval > 1 or self.listed or self.threshold > 0)

    def label(self) -> str:
        if self.is_identity:
            return ""
        when = f"{len(self.listed)} full" if self.listed else f"every {self.interval}"
        when = f"up to a change of {self.threshold:g}" if self.threshold > 0 else when
        return f"reuse {when}" + (f" at depth {self.depth}" if self.depth > 1 else "")

    def demand(self, setting: Setting) -> None:
        deepest = setting.network.reuse_depths
        if not deepest:
            if not self.is_identity:
                raise NndiffError(
                    "This network cannot reuse features between steps.",
                    expected="a network with decoder blocks, such as a unet",
                    found=setting.network.name,
                    remedy="pass --reuse 1, which reuses nothing",
                )
        elif self.depth > deepest:
            raise NndiffError(
                "The network does not have this reuse depth.",
                expected=f"1 (cheapest) to {deepest} (its decoder blocks)",
                found=self.depth,
                remedy="pass --reuse_depth 1, the cheapest and usual choice",
            )

    def is_full(self, step: int) -> bool:
        """Return whether a step is a full one, by the list or the interval; a threshold is not considered here."""
        return step == 0 or (step in self.listed if self.listed else step % self.interval == 0)

    def full_steps(self, steps: int) -> int:
        return sum(map(self.is_full, range(steps)))

    def work(self, steps: int, share: Callable[[int], float]) -> float:
        full = self.full_steps(steps)
        return full + (share(self.depth) * (steps - full) if full < steps else 0)

    def bytes(self, network: NetworkSpec, tile: Triple, feature: Callable[[int], int]) -> int:
        if self.is_identity:
            return 0
        return feature(self.depth) * (2 if self.threshold > 0 else 1)  # a threshold also keeps the previous feature

    def for_walk(self, steps: int) -> Deep:
        """Return this cache without its list, which is valid for one walk only.

        An interval longer than the walk becomes 1.
        """
        return replace(self, listed=(), interval=self.interval if steps >= self.interval else 1)

    def revised(self, asked: Asked, steps: int, same_walk: bool) -> Deep:
        """Return the cache that runs; an interval that is asked for replaces a list and a threshold, and they it."""
        deep = self if same_walk else self.for_walk(steps)
        depth, threshold, interval = (asked.get(f"reuse{flag}") for flag in ("_depth", "_threshold", ""))
        if depth is not None:
            deep = replace(deep, depth=depth)
        if threshold is not None:
            deep = replace(deep, threshold=threshold, interval=1, listed=())
        if interval is not None:
            deep = replace(deep, interval=interval, listed=(), threshold=0.0)
            if steps > 1 and interval > steps:
                raise NndiffError(
                    "The reuse interval is longer than the walk, so no feature would be computed again.",
                    expected=f"--reuse from 1 to {steps}, the number of steps",
                    found=interval,
                    remedy="pass a smaller --reuse, or more --steps",
                )
        return deep

    @classmethod
    def candidates(cls, own: Cache | None, steps: int, depths: int) -> Iterator[Cache]:
        for depth in range(1, min(DEEPEST_TRIED, depths) + 1):
            yield from (cls(interval, depth) for interval in INTERVALS if interval < steps)

    def begin(self, store: torch.device, measures: bool = False) -> Kept:
        return Kept(self, store, measures)


class Kept:
    """The deep features of one walk, by tile, fold and shift, held on the device `store` of the volume."""

    def __init__(self, plan: Deep, store: torch.device, measures: bool = False):
        self.plan, self.store, self.measures = plan, store, measures or plan.threshold > 0
        self.features: dict[Where, Feature] = {}
        self.full: list[int] = []  # the full steps so far
        self.changes: list[float] = []  # |Δf| / |f| between consecutive full steps
        self._step = 0
        self._x: Tensor | None = None  # x at the last full step
        self._moved = self._size = 0.0
        self._sensitivity = 0.0  # k

    def begin(self, x: Tensor) -> None:
        """Decide whether the next step is a full one, and mark all features as stale if so."""
        if self._due(x):
            for feature in self.features.values():
                feature.stale = True
                if not self.measures:
                    feature.kept = None
            self.full.append(self._step)
            self._moved = self._size = 0.0

    def around(self, network: Asks) -> Asks:
        from nndiff.networks.unet import Cache as Feature

        def kept(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where, *others: object) -> Tensor:
            old = self.features.setdefault(where, Feature(self.plan.depth))
            before = None if old.kept is None else old.kept.to(x_t.device)
            new = Feature(old.depth, before, old.stale)
            answer = network(x_t, t, condition, where, new, *others)  # handed through to the core
            self._put_away(old, before, new)
            return answer

        return kept

    def _put_away(self, old: Feature, before: Tensor | None, new: Feature) -> None:
        assert new.kept is not None
        if self.measures and old.stale and before is not None:
            self._moved += float((new.kept - before).abs().sum(dtype=_float64()))
            self._size += float(new.kept.abs().sum(dtype=_float64()))
        old.kept, old.stale = new.kept.to(self.store), False

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


def listed_steps(changes: Sequence[float], most: float) -> tuple[int, ...]:
    """Return the full steps of a walk whose kept feature changes by changes[i] from step i to step i + 1.

    A step is full as soon as the changes since the last full step sum to more than `most`.
    """
    steps, since = [0], 0.0
    for step, change in enumerate(changes, start=1):
        since += change
        if since > most:
            steps.append(step)
            since = 0.0
    return tuple(steps)


def _relative(x: Tensor, before: Tensor) -> float:
    size = x.abs().sum(dtype=_float64()).clamp(min=1e-30)
    return float((x - before).abs().sum(dtype=_float64()) / size)


def _float64() -> torch.dtype:
    import torch

    return torch.float64


CACHES: Registry[type[Cache]] = Registry("cache", {"deep": Deep})
