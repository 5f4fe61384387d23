"""The choice of a network size: a search over the ladder of sizes ("rungs") of a family.

The search takes the first rung whose predicted memory fits the device and whose training step needs no more FLOPs than
the device should spend on a step. Predicting a rung takes half a second. Rungs that cannot fit, judged by larger rungs
that were predicted before, are therefore skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

from nndiff.families.family import NetworkSpec, Rung
from nndiff.words.errors import NndiffError
from nndiff.words.verdict import Alternative, Verdict
from nndiff.words.volume import Triple

GB = 10**9
TFLOP = 10**12
CORE_SLACK = 0.9  # cost per voxel of a smaller patch / of a larger one, at least; allows rungs to be skipped


class Cost(Protocol):
    """The predicted memory and work of a training step."""

    @property
    def bytes(self) -> int: ...

    @property
    def flops(self) -> int: ...


@dataclass(frozen=True)
class Sized:
    """A rung with its network and its predicted cost."""

    rung: Rung
    network: NetworkSpec
    cost: Cost


@dataclass(frozen=True)
class Limits:
    """The limits of a device on a training step."""

    total: int  # memory of the device, in bytes
    bytes: int  # usable by the step, after context and workspace have been subtracted
    flops: int
    large_flops: int  # the same of a batch above 2
    total_needed: Callable[[int], int]  # bytes of a step → total memory of a device, for errors
    device: str = "cuda"

    def flops_for(self, rung: Rung) -> float:
        """Return the most FLOPs of a batch at this rung.

        A batch above 2 gains little, so it has a limit of its own. A batch of 1 costs more than its FLOPs: a training
        step on a graphics card takes two of them, and on a CPU its convolutions are up to four times slower
        (transformers are not affected).
        """
        if rung.batch_size > 2:
            return self.large_flops
        slow = {"cuda": 2, "cpu": 4 if rung.slow_alone else 1}.get(self.device, 1)
        return self.flops / slow if rung.batch_size == 1 else self.flops

    def affordable(self, sized: Sized) -> bool:
        return sized.cost.bytes <= self.bytes and sized.cost.flops <= self.flops_for(sized.rung)

    def note(self, sized: Sized) -> str:
        if sized.cost.bytes > self.bytes:
            return f"{cost_words(sized.cost)}: exceeds the usable memory"
        if sized.cost.flops > self.flops_for(sized.rung):
            return f"{cost_words(sized.cost)}: exceeds the limit on work per step"
        return f"{cost_words(sized.cost)}: would fit"


Predict = Callable[[NetworkSpec, Triple, Triple, int], Cost]  # (network, puzzle, patch, batch) → cost
Build = Callable[[Rung], NetworkSpec]
Kind = tuple[Any, ...]  # the fields that make two rungs comparable


class DoesNotFit(NndiffError):
    """The error that no rung fits the memory."""

    needed: int = 0  # total memory in bytes with which the smallest rung fits


def choose(rungs: Sequence[Rung], build: Build, predict: Predict, limits: Limits) -> Sized:
    """Return the first rung within both limits.

    If there is none, return the rung with the least work among the smallest patches that fit the memory. If none of
    these fits either, raise an error that states the memory needed.
    """
    search = _Search(build, predict, limits)
    for _, same_size in groupby(rungs, key=lambda rung: (rung.puzzle_factor, rung.patch_size)):
        variants = list(same_size)
        if all(map(search.hopeless, variants)) or search.too_large(variants[-1]):
            continue
        for rung in variants:
            if not search.hopeless(rung) and limits.affordable(sized := search.sized(rung)):
                return sized
    last = rungs[-1]
    smallest = [
        search.sized(r) for r in rungs if (r.patch_size, r.puzzle_factor) == (last.patch_size, last.puzzle_factor)
    ]
    fitting = [sized for sized in smallest if sized.cost.bytes <= limits.bytes]
    if fitting:
        return min(fitting, key=lambda sized: sized.cost.flops)
    least = min(smallest, key=lambda sized: sized.cost.bytes)
    refusal = DoesNotFit(
        "No network size fits into this memory.",
        expected=f"at least {_rounded_up(limits.total_needed(least.cost.bytes))} GB in total ({least.rung})",
        found=f"{limits.total / GB:.4g} GB",
        remedy="raise -gpu_memory_target, plan a coarser spacing, or use a larger device",
    )
    refusal.needed = limits.total_needed(least.cost.bytes)
    raise refusal


def sized(rung: Rung, build: Build, predict: Predict) -> Sized:
    spec = build(rung)
    return Sized(rung, spec, predict(spec, rung.puzzle_factor, rung.patch_size, rung.batch_size))


def _rounded_up(total: int) -> float:
    return math.ceil(total / GB * 100) / 100


class _Search:
    """A search that predicts rungs and skips those that, judged by earlier predictions, cannot be within the limits."""

    def __init__(self, build: Build, predict: Predict, limits: Limits):
        self.build, self.predict, self.limits = build, predict, limits
        self.seen: dict[Kind, Sized] = {}  # per kind, the last prediction; its patch is as large or larger
        self.work: dict[Kind, Sized] = {}  # the same per kind of work, whatever is computed twice

    def sized(self, rung: Rung) -> Sized:
        found = sized(rung, self.build, self.predict)
        self.seen[_kind(rung)] = found
        if rung.recompute != "blocks":
            self.work[_kind_of_work(rung)] = found
        return found

    def too_large(self, rung: Rung) -> bool:
        """Return whether this rung, the leanest one of its size, exceeds the memory; then all rungs of the size do.

        It is not predicted where the same network fits with a larger patch.
        """
        before = self.seen.get(_kind(rung))
        if before is not None and before.cost.bytes <= self.limits.bytes:
            return False
        return self._at_least_bytes(rung) > self.limits.bytes or self.sized(rung).cost.bytes > self.limits.bytes

    def hopeless(self, rung: Rung) -> bool:
        """Return whether a lower bound on the memory or the work of this rung exceeds its limit."""
        return self._at_least_bytes(rung) > self.limits.bytes or self._at_least_flops(rung) > self.limits.flops_for(
            rung
        )

    def _at_least_bytes(self, rung: Rung) -> float:
        before = self.seen.get(_kind(rung))
        return 0.0 if before is None else _share(rung, before.rung) * before.cost.bytes

    def _at_least_flops(self, rung: Rung) -> float:
        """Return a lower bound on the work of a rung; 0 where nothing comparable was predicted.

        Work is linear in the batch size and at most quadratic in the number of tokens; recomputation only adds to it.
        """
        before = self.work.get(_kind_of_work(rung))
        if before is None:
            return 0.0
        share = _share(rung, before.rung) ** rung.power
        return share * before.cost.flops / before.rung.batch_size * rung.batch_size


def _kind(rung: Rung) -> Kind:
    return *rung.shape_of_work, rung.batch_size, rung.recompute


def _kind_of_work(rung: Rung) -> Kind:
    return rung.shape_of_work


def _share(rung: Rung, larger: Rung) -> float:
    """Return the least share of a larger patch's cost that this rung has: its share of the voxels, with some slack."""
    if rung.patch_size == larger.patch_size:
        return 1.0
    return CORE_SLACK * math.prod(rung.patch_size) / math.prod(larger.patch_size)


# ---------------------------------------------------------------- why


@dataclass(frozen=True)
class Reasons:
    """The explanation of the chosen rung: verdicts that compare it with the cost of its neighbours on the ladder."""

    rung: Rung
    build: Build
    predict: Predict
    limits: Limits

    def verdict(self, value: Any, reason: str, *others: tuple[Any, dict[str, Any]]) -> Verdict[Any]:
        """Return the verdict of a field.

        Each of `others` is the value shown for a neighbour and the fields in which the neighbour's rung differs.
        """
        search = _Search(self.build, self.predict, self.limits)
        changed = [(shown, search.sized(replace(self.rung, **changes))) for shown, changes in others]
        return Verdict(value, reason, tuple(Alternative(shown, self.limits.note(other)) for shown, other in changed))


def fits(sized: Sized, limits: Limits) -> str:
    most = f"{limits.bytes / GB:.2f} GB of memory and {limits.flops / TFLOP:.3g} TFLOP for a step to end in time"
    closer = "time" if sized.cost.flops * limits.bytes > sized.cost.bytes * limits.flops else "memory"
    slow = "" if limits.affordable(sized) else "; this is the smallest size, and its steps are slow on this device"
    return f"predicted {cost_words(sized.cost)}; the limits are {most}; {closer} is the closer one{slow}"


def about_batches(device: str) -> str:
    if device == "cuda":
        return "a batch above 2 is used only where it costs the training none of its steps"
    return "a batch above 2 is used only if a step needs at most a quarter of the work limit"


def cost_words(cost: Cost) -> str:
    return f"{cost.bytes / GB:.2f} GB and {cost.flops / TFLOP:.3g} TFLOP per step"
