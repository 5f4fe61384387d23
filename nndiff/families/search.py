"""Choose a rung of a ladder of sizes.

The choice is the first rung whose predicted memory fits the device and whose training step costs no more FLOPs than a
device of its class should spend on one. Predicting a rung takes a second, so rungs that cannot fit, judged by larger
ones that were predicted before, are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

from nndiff.families.family import NetworkSpec, Rung
from nndiff.words.budget import Budget
from nndiff.words.errors import NndiffError
from nndiff.words.verdict import Alternative, Verdict
from nndiff.words.volume import Triple

GB = 10**9
TFLOP = 10**12
CORE_SLACK = 0.9  # cost over voxels falls at most this much as a patch shrinks: what lets a rung be skipped unseen

# FLOPs a training step may cost, by device: about a second of work. A GPU's memory stands for its class.
CUDA_STEP_TFLOP = ((40, 100.0), (16, 30.0), (0, 15.0))  # from GB of memory
CPU_STEP_TFLOP_A_CORE = 0.025
MPS_STEP_TFLOP = 2.0


class Cost(Protocol):
    @property
    def bytes(self) -> int: ...

    @property
    def flops(self) -> int: ...


@dataclass(frozen=True)
class Sized:
    """The rung taken, with its network and its cost."""

    rung: Rung
    network: NetworkSpec
    cost: Cost


@dataclass(frozen=True)
class Limits:
    total: int  # the device's memory
    bytes: int  # usable for the step, context and workspace already taken off
    flops: int
    total_needed: Callable[[int], int]  # step bytes → device total, for refusals
    device: str = "cuda"

    def flops_for(self, rung: Rung) -> float:
        """A batch above 2 buys little: only while the step stays far below what it may cost.

        On a CPU a batch of 1 goes to convolutions up to four times slower; tokens do not mind.
        """
        slow = rung.batch_size == 1 and self.device == "cpu" and rung.slow_alone
        return self.flops / 4 if rung.batch_size > 2 or slow else self.flops

    def affordable(self, sized: Sized) -> bool:
        return sized.cost.bytes <= self.bytes and sized.cost.flops <= self.flops_for(sized.rung)

    def note(self, sized: Sized) -> str:
        if sized.cost.bytes > self.bytes:
            return f"{cost_words(sized.cost)}: more memory than there is"
        if sized.cost.flops > self.flops_for(sized.rung):
            return f"{cost_words(sized.cost)}: more work than a step should cost here"
        return f"{cost_words(sized.cost)}: would fit"


Predict = Callable[[NetworkSpec, Triple, Triple, int], Cost]  # network, puzzle, patch, batch
Build = Callable[[Rung], NetworkSpec]
Kind = tuple[Any, ...]  # the fields that two rungs share


def step_flops(budget: Budget) -> int:
    """What a training step may cost on this class of device."""
    if budget.device == "cuda":
        return int(next(cap for gigabytes, cap in CUDA_STEP_TFLOP if budget.memory_bytes >= gigabytes * GB) * TFLOP)
    return int((MPS_STEP_TFLOP if budget.device == "mps" else CPU_STEP_TFLOP_A_CORE * budget.cores) * TFLOP)


class DoesNotFit(NndiffError):
    needed: int = 0  # bytes in all


def choose(rungs: Sequence[Rung], build: Build, predict: Predict, limits: Limits) -> Sized:
    """The first rung within both limits; else the least work among the smallest; else a refusal with the number."""
    search = _Search(build, predict, limits)
    for _, same_size in groupby(rungs, key=lambda rung: (rung.puzzle_factor, rung.patch_size)):
        variants = list(same_size)
        if search.too_large(variants[-1]):
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
        "No plan fits this memory.",
        expected=f"at least {_rounded_up(limits.total_needed(least.cost.bytes))} GB in all ({least.rung})",
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
    """Predicts rungs, passing over those that what it has seen shows to be hopeless."""

    def __init__(self, build: Build, predict: Predict, limits: Limits):
        self.build, self.predict, self.limits = build, predict, limits
        self.seen: dict[Kind, Sized] = {}  # the last one predicted, of each kind: its patch is as large or larger
        self.work: dict[Kind, Sized] = {}  # the same of each kind of step, whatever it computes twice

    def sized(self, rung: Rung) -> Sized:
        found = sized(rung, self.build, self.predict)
        self.seen[_kind(rung)] = found
        if rung.recompute != "blocks":
            self.work[_kind_of_work(rung)] = found
        return found

    def too_large(self, rung: Rung) -> bool:
        """Whether even this leanest rung of a size exceeds the memory: then so do all of that size."""
        return self._at_least_bytes(rung) > self.limits.bytes or self.sized(rung).cost.bytes > self.limits.bytes

    def hopeless(self, rung: Rung) -> bool:
        return self._at_least_bytes(rung) > self.limits.bytes or self._at_least_flops(rung) > self.limits.flops_for(
            rung
        )

    def _at_least_bytes(self, rung: Rung) -> float:
        before = self.seen.get(_kind(rung))
        return 0.0 if before is None else _share(rung, before.rung) * before.cost.bytes

    def _at_least_flops(self, rung: Rung) -> float:
        """Work is linear in the batch, at most quadratic in tokens, and computing twice only adds to it."""
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
    """Of a larger patch's cost, what a smaller one has at least: its share of the voxels, less a little slack."""
    if rung.patch_size == larger.patch_size:
        return 1.0
    return CORE_SLACK * math.prod(rung.patch_size) / math.prod(larger.patch_size)


# ---------------------------------------------------------------- why


@dataclass(frozen=True)
class Reasons:
    """Explains the fields of the rung taken by what its neighbours on the ladder would cost."""

    rung: Rung
    build: Build
    predict: Predict
    limits: Limits

    def verdict(self, value: Any, reason: str, *others: tuple[Any, dict[str, Any]]) -> Verdict[Any]:
        """Return the field's verdict; each of `others` is what is shown of a neighbour, and how its rung differs."""
        search = _Search(self.build, self.predict, self.limits)
        changed = [(shown, search.sized(replace(self.rung, **changes))) for shown, changes in others]
        return Verdict(value, reason, tuple(Alternative(shown, self.limits.note(other)) for shown, other in changed))


def fits(sized: Sized, limits: Limits) -> str:
    usable = f"{limits.bytes / GB:.2f} GB usable and at most {limits.flops / TFLOP:.3g} TFLOP"
    slow = "" if limits.affordable(sized) else "; the smallest there is, yet slow on this device"
    return f"predicted {cost_words(sized.cost)}, of {usable}{slow}"


def cost_words(cost: Cost) -> str:
    return f"{cost.bytes / GB:.2f} GB and {cost.flops / TFLOP:.3g} TFLOP a step"
