"""Prediction of the peak memory and the FLOPs of a step, by tracing the step on tensors without storage (`ghosts`).

The step itself is the real one: a training step calls the stage's objective, so all that an objective does is counted.
The trace runs as CPU code for every device.

The optimiser's state exists from the second step on, so it is counted from the start: AdamW's moments and the EMA,
beside the weights. The gradients appear in the trace. A fused AdamW, clipping and the update of the EMA work in place
and add nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nndiff.assemble import asked, autocast, build_network, build_objective, formulation_of, set_trained
from nndiff.diffusion.objectives import Objective, Pairs
from nndiff.diffusion.prediction import PLANES
from nndiff.families import NetworkSpec
from nndiff.networks.lean import channels, traced
from nndiff.networks.unet import Cache
from nndiff.plans.plan import Lesson, Stage, Workload
from nndiff.resources import kept_costs
from nndiff.resources.ghosts import Tracer
from nndiff.words.strict_json import encode
from nndiff.words.volume import Triple

T = TypeVar("T")

OF_AN_ESTIMATE = 13  # arrays that a fused prediction takes, for the planes that it computes at a time
COPIES_BESIDE_WEIGHTS = 3  # AdamW's two moments and the EMA

# Usable memory on CUDA = (total - context) / overhead. On an H200 the context took 0.55 GB, and the allocator reserved
# 1.08 to 1.17 times the peaks of plans, some of which it gives back when memory runs short.
CUDA_CONTEXT_BYTES, CUDA_OVERHEAD = 10**9, 1.1
HOST_BYTES, HOST_SHARE = 5 * 10**8, 0.7  # on CPU and MPS all programs share the machine's memory


@dataclass(frozen=True)
class Cost:
    """The cost of one step."""

    bytes: int  # peak on the device, without context and workspace
    flops: int


def remembered(function: Callable[..., T]) -> Callable[..., T]:
    """Return the function with a cache of its results, keyed by the JSON of its arguments (they hold dictionaries)."""
    known: dict[str, T] = {}

    @wraps(function)
    def ask(*arguments: Any) -> T:
        key = json.dumps(encode(list(arguments)))
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return ask


def kept(function: Callable[..., Cost]) -> Callable[..., Cost]:
    """Return the function with a cache of its results on disk, for later programs."""

    @wraps(function)
    def ask(*arguments: Any) -> Cost:
        question = json.dumps([function.__name__, *encode(list(arguments))])
        if (numbers := kept_costs.find(question)) is not None:
            return Cost(*numbers)
        cost = function(*arguments)
        kept_costs.keep(question, (cost.bytes, cost.flops))
        return cost

    return ask


@remembered
@kept
def training_cost(work: Workload, lesson: Lesson) -> Cost:
    """Return the cost of a training step (x_t, networks, loss, backward, clipping, AdamW, EMA); maximum over stages."""
    formulation = formulation_of(lesson)

    def traced(stage: Stage) -> Cost:
        def step(network: nn.Module, objective: Objective) -> None:
            set_trained(network, stage.trains)
            batch = Batch.empty(work)
            teach(network, objective, batch, work.precision, *drawn(batch))

        return _trace(work, step, COPIES_BESIDE_WEIGHTS, partial(build_objective, stage, formulation))

    costs = [traced(stage) for stage in lesson.stages]
    return Cost(max(cost.bytes for cost in costs), max(cost.flops for cost in costs))


@remembered
@kept
def prediction_cost(work: Workload) -> Cost:
    """Return the cost of one evaluation of one tile and of the sampler's arithmetic on it.

    The memory of the whole volume is not included.
    """

    def step(network: nn.Module, objective: Objective | None) -> None:
        evaluate(network, Batch.empty(replace(work, batch_size=1)), work.precision)

    return _trace(work, step, 0)


@remembered
@kept
def reuse_cost(work: Workload, depth: int) -> Cost:
    """Return the cost of one evaluation of a tile with a kept feature (LIM)."""
    kept = _kept_feature(work, depth)

    def shallow(network: nn.Module, objective: Objective | None) -> None:
        like = torch.empty_strided(kept.shape, kept.stride, dtype=kept.dtype)
        evaluate(network, Batch.empty(replace(work, batch_size=1)), work.precision, Cache(depth, like, stale=False))

    return _trace(work, shallow, 0)


def feature_bytes(work: Workload, depth: int) -> int:
    """Return the bytes of the feature that is kept of one tile."""
    return _kept_feature(work, depth).bytes


@dataclass(frozen=True)
class _Feature:
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


@remembered
def _kept_feature(work: Workload, depth: int) -> _Feature:
    found: list[_Feature] = []

    def step(network: nn.Module, objective: Objective | None) -> None:
        cache = Cache(depth)
        evaluate(network, Batch.empty(replace(work, batch_size=1)), work.precision, cache)
        kept = cache.kept
        assert kept is not None
        found.append(_Feature(kept.shape, kept.stride(), kept.dtype, kept.nbytes))

    _trace(work, step, 0)
    return found[-1]


def shallow_share(work: Workload, depth: int) -> float:
    """Return the FLOPs of a step with features kept at a depth, as a share of those of a full step."""
    return reuse_cost(work, depth).flops / prediction_cost(work).flops


def volume_bytes(spec: NetworkSpec, shape: Triple) -> int:
    """Return the bytes of the whole-volume arrays that a sampler holds beside the tile.

    These are all inputs, x_s, noise, x̂0 and ε̂ of this step and the last one, and an intermediate result; and what an
    estimate takes for a few planes. The sources that several targets start from may be copies.
    """
    z, y, x = shape
    copies = spec.targets if spec.targets > 1 else 0
    whole = spec.in_channels + 7 * spec.targets + copies + spec.out_channels - spec.targets
    return 4 * y * x * (z * whole + min(z, PLANES + 2) * OF_AN_ESTIMATE * spec.targets)


# ---------------------------------------------------------------- the step


@dataclass(frozen=True)
class Batch:
    """The tensors of a batch: the targets, and the sources where there are any."""

    x0: Tensor  # [B, targets, Z, Y, X]
    condition: Tensor | None  # [B, in - targets, Z, Y, X]

    @staticmethod
    def empty(work: Workload, device: str = "cpu") -> Batch:
        spec, shape = work.network, work.patch_size
        sources = spec.in_channels - spec.targets
        condition = torch.empty(work.batch_size, sources, *shape, device=device) if sources else None
        return Batch(torch.empty(work.batch_size, spec.targets, *shape, device=device), condition)

    @property
    def pairs(self) -> Pairs:
        """Return the batch with an anchor for each target, of the shape that training takes from the sources."""
        targets = self.x0.shape[1]
        if self.condition is None:
            return Pairs(self.x0, None, None)
        return Pairs(self.x0, self.condition, channels(self.condition, [0] * targets))


def drawn(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return times and noises for a batch, where a training loop has them."""
    device = batch.x0.device
    t = torch.rand(batch.x0.shape[0], dtype=torch.float64, device=device if device.type == "cuda" else "cpu")
    return t, torch.randn_like(batch.x0)


def teach(network: nn.Module, objective: Objective, batch: Batch, precision: str, t: Tensor, eps: Tensor) -> Tensor:
    """Run the forward and backward pass of one training step; the gradients stay in the weights. Return the loss."""
    ask = asked(network, batch.x0.device.type, precision)
    loss = objective.loss(ask, batch.pairs, t, eps, None)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def evaluate(network: nn.Module, batch: Batch, precision: str, *kept: Cache) -> Tensor:
    """Run one evaluation and one step of a sampler; return x_s."""
    with torch.no_grad():
        t, eps = torch.rand(batch.x0.shape[0], device=batch.x0.device), torch.randn_like(batch.x0)
        s = t[:, None, None, None, None]
        x_t = (1 - s) * batch.x0 + s * batch.x0 + (s * (1 - s)).sqrt() * eps
        with autocast(batch.x0.device.type, precision):
            estimate: Tensor = network(x_t, t, batch.condition, *kept)
        return 0.5 * x_t + 0.5 * estimate.float()[:, : x_t.shape[1]] + eps


# ---------------------------------------------------------------- the trace


def _trace(
    work: Workload,
    step: Callable[..., None],  # (network, objective)
    copies: int,
    objective: Callable[[], Objective] = lambda: None,  # type: ignore[assignment,return-value]
) -> Cost:
    with torch.device("meta"):
        network, taught = build_network(work.network, work.puzzle_factor), objective()
    tracer = Tracer(work.device, trains=copies > 0)
    with tracer, traced(work.device, tracer.stand_for):
        for module in (network, taught):
            if module is not None:
                _materialise(module)
        tracer.live += copies * tracer.live
        step(network, taught)
    return Cost(tracer.peak, tracer.flops)


def _materialise(network: nn.Module) -> None:
    """Replace weights and buffers by ghosts, as which a tracer returns them; a frozen weight stays frozen."""
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(weight.detach(), weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.detach())


# ---------------------------------------------------------------- the device


def usable_bytes(memory_bytes: int, device: str) -> int:
    """Return the bytes that a step may use of a device's total memory."""
    if device == "cuda":
        return max(0, int((memory_bytes - CUDA_CONTEXT_BYTES) / CUDA_OVERHEAD))
    return max(0, int(memory_bytes * HOST_SHARE) - HOST_BYTES)


def usable_now(free_bytes: int, device: str) -> int:
    """Return the bytes that a step may use of the free memory of a device whose context exists already."""
    return int(free_bytes / CUDA_OVERHEAD) if device == "cuda" else int(free_bytes * HOST_SHARE)


def total_needed(step_bytes: int, device: str) -> int:
    """Return the total memory of a device on which a step of this size fits: the inverse of `usable_bytes`."""
    if device == "cuda":
        return int(step_bytes * CUDA_OVERHEAD) + CUDA_CONTEXT_BYTES + 2
    return int((step_bytes + HOST_BYTES) / HOST_SHARE) + 2
