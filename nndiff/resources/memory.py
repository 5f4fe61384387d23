"""Prediction of the peak memory and the FLOPs of a step, by tracing the step on tensors without storage.

    peak = max over the step's operations of  Σ bytes of the storages alive after it  +  the operation's own scratch

The network is built on the meta device, and its weights become fake tensors. The step itself is the real one: a
training step calls the stage's objective, so all that an objective does is counted. A dispatch mode follows every
storage from its allocation to its release. The trace runs as CPU code for every device; devices differ only in the
scratch memory of the operations.

The optimiser's state exists from the second step on, so it is counted from the start: AdamW's moments and the EMA,
beside the weights. The gradients appear in the trace. A fused AdamW, clipping and the update of the EMA work in place
and add nothing.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from nndiff.assemble import asked, autocast, build_network, build_objective, formulation_of, set_trained
from nndiff.diffusion.objectives import Objective, Pairs
from nndiff.families import NetworkSpec
from nndiff.networks.lean import ONEDNN_FLOOR
from nndiff.networks.unet import Cache
from nndiff.plans.plan import Lesson, Stage, Workload
from nndiff.words.strict_json import encode
from nndiff.words.volume import Triple

T = TypeVar("T")

aten = torch.ops.aten
COPIES_BESIDE_WEIGHTS = 3  # AdamW's two moments and the EMA

# Usable memory on CUDA = (total - context) / overhead. The context includes cuDNN's workspace; the overhead is
# fragmentation. Both are initial values that have not been measured yet.
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


@remembered
def training_cost(work: Workload, lesson: Lesson) -> Cost:
    """Return the cost of a training step (x_t, networks, loss, backward, clipping, AdamW, EMA); maximum over stages."""
    formulation = formulation_of(lesson)

    def traced(stage: Stage) -> Cost:
        def step(network: nn.Module, objective: Objective) -> None:
            set_trained(network, stage.trains)
            teach(network, objective, Batch.empty(work), work.precision)

        return _trace(work, step, COPIES_BESIDE_WEIGHTS, partial(build_objective, stage, formulation))

    costs = [traced(stage) for stage in lesson.stages]
    return Cost(max(cost.bytes for cost in costs), max(cost.flops for cost in costs))


@remembered
def prediction_cost(work: Workload) -> Cost:
    """Return the cost of one evaluation of one tile and of the sampler's arithmetic on it.

    The memory of the whole volume is not included.
    """

    def step(network: nn.Module, objective: Objective | None) -> None:
        evaluate(network, Batch.empty(replace(work, batch_size=1)), work.precision)

    return _trace(work, step, 0)


@remembered
def reuse_cost(work: Workload, depth: int) -> tuple[Cost, int]:
    """Return the cost of one evaluation of a tile with a kept feature (LIM), and the bytes of the feature."""
    caches: list[Cache] = []
    single = replace(work, batch_size=1)

    def step(network: nn.Module, objective: Objective | None) -> None:
        caches.append(Cache(depth))
        evaluate(network, Batch.empty(single), work.precision, caches[0])

    _trace(work, step, 0)
    kept = caches[0].kept
    assert kept is not None

    def shallow(network: nn.Module, objective: Objective | None) -> None:
        like = torch.empty_strided(kept.shape, kept.stride(), dtype=kept.dtype)
        evaluate(network, Batch.empty(single), work.precision, Cache(depth, like, stale=False))

    return _trace(work, shallow, 0), _bytes(kept)


def shallow_share(work: Workload, depth: int) -> float:
    """Return the FLOPs of a step with features kept at a depth, as a share of those of a full step."""
    return reuse_cost(work, depth)[0].flops / prediction_cost(work).flops


def volume_bytes(spec: NetworkSpec, shape: Triple) -> int:
    """Return the bytes of the whole-volume arrays that a sampler holds beside the tile.

    These are all inputs, x_s, noise, x̂0, ε̂, and two intermediate results.
    """
    return 4 * prod(shape) * (spec.in_channels + 6 * spec.targets + spec.out_channels - spec.targets)


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
        return Pairs(self.x0, self.condition, self.condition[:, [0] * targets])


def teach(network: nn.Module, objective: Objective, batch: Batch, precision: str) -> None:
    """Run the forward and backward pass of one training step; the gradients stay in the weights."""
    t = torch.rand(batch.x0.shape[0], device=batch.x0.device, dtype=torch.float64)
    eps = torch.randn_like(batch.x0)
    ask = asked(network, batch.x0.device.type, precision)
    objective.loss(ask, batch.pairs, t, eps, None).backward()  # type: ignore[no-untyped-call]
    del eps  # kept until here, as in a training loop, where predictions of the noise need it


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
    tracer = _Tracer(work.device, trains=copies > 0)
    with FakeTensorMode(allow_non_fake_inputs=True), tracer:
        for module in (network, taught):
            if module is not None:
                _materialise(module)
        tracer.live += copies * tracer.live
        step(network, taught)
    return Cost(tracer.peak, tracer.flops)


def _materialise(network: nn.Module) -> None:
    """Replace meta weights and buffers by fake CPU ones of the same strides; a frozen weight stays frozen.

    `.to()` fails under FakeTensorMode.
    """
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(_fake(weight), weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, _fake(buffer))


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that follows storages by weak references; a view shares the storage of its base."""

    def __init__(self, device: str, trains: bool):
        super().__init__()  # type: ignore[no-untyped-call]
        self.unfolds = device != "cuda" and trains
        self.scratch = _cuda_scratch if device == "cuda" else _cpu_scratch if trains else _no_scratch
        self.live = self.peak = self.flops = 0
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return func(*args)
        out = self._answer(func, args, kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        self.peak = max(self.peak, self.live + self.scratch(func._overloadpacket, args, out))
        if (count := FLOPS.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the output of an operation.

        Operations that are slow to trace, or that depend on this machine's processor, are imitated here. All others run
        on fake tensors.
        """
        if func is aten.convolution.default:
            return _convolved(_layout(args[0], self.unfolds), *args)
        if func is aten.convolution_backward.default:
            return _convolved_back(_layout(args[1], self.unfolds), *args)
        return func(*args, **kwargs)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def died(_: object) -> None:
            del self.alive[key]
            self.live -= size

        self.alive[key] = weakref.ref(storage, died)
        self.live += size


def _attention_flops(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))  # type: ignore[no-untyped-call]


def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))  # type: ignore[no-untyped-call]


FLOPS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,  # missing in the registry
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def _layout(x: Tensor, unfolds: bool) -> torch.memory_format:
    """Return the memory format of a convolution's output: channels last, except for small maps that a CPU unfolds."""
    return torch.contiguous_format if unfolds and _is_small(x) else torch.channels_last_3d


def _convolved(layout: torch.memory_format, x: Tensor, weight: Tensor, _: Any, *how: Any) -> Tensor:
    stride, padding = how[:2]
    rows = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    size = [(n + 2 * p - k) // s + 1 for n, k, s, p in rows]
    return torch.empty(x.shape[0], weight.shape[0], *size, dtype=x.dtype, memory_format=layout)


def _convolved_back(
    layout: torch.memory_format, grad: Tensor, x: Tensor, weight: Tensor, _: Any, *how: Any
) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias = how[-1]
    return (
        torch.empty_like(x, memory_format=layout) if of_x else None,
        torch.empty_like(weight) if of_weight else None,
        weight.new_empty(weight.shape[0]) if of_bias else None,
    )


# ---------------------------------------------------------------- the operations' scratch

ONEDNN_BLOCK = 16  # channels


def _cuda_scratch(op: Any, args: Any, out: Any) -> int:
    """Return the scratch bytes of an operation on CUDA.

    PyTorch's CUDA GroupNorm takes and returns channels first, cuDNN channels last, so each copies its input. This was
    read from the sources and has not been measured on a GPU yet.
    """
    if op in (aten.native_group_norm, aten.convolution):
        return _bytes(args[0])
    if op is aten.convolution_backward:
        return _bytes(args[0]) + _bytes(args[1])
    return 0


def _no_scratch(op: Any, args: Any, out: Any) -> int:
    """Return 0: without gradients oneDNN runs every convolution on a CPU without scratch (see networks/blocks.Conv)."""
    return 0


def _cpu_scratch(op: Any, args: Any, out: Any) -> int:
    """Return the scratch bytes of an operation of a training step on a CPU; only convolutions need any.

    This was measured as the peak resident memory around every operation of a real step (two threads). For the gradient
    of bf16 weights, oneDNN transposes input and gradient, with the channels rounded up to its blocks, for as many
    volumes of the batch at once as it has threads (here: for all). A gradient that is a slice of the gradient of a
    concatenation is copied. A small fp32 map at batch 1 is unfolded into columns.
    """
    if op is aten.convolution:
        return _columns(args[0], args[1], out)
    if op is not aten.convolution_backward:
        return 0
    grad, x, weight = args[:3]
    if columns := _columns(x, weight, grad):
        return columns
    copied = 0 if grad.is_contiguous(memory_format=torch.channels_last_3d) else _bytes(grad)
    transposed = x.dtype == torch.bfloat16 and prod(weight.shape[2:]) > 1 and x.shape[1] >= ONEDNN_BLOCK
    return copied + (_blocked(x) + _blocked(grad) if transposed else 0)


def _columns(x: Tensor, weight: Tensor, out: Tensor) -> int:
    kernel = prod(weight.shape[2:])
    if not _is_small(x) or kernel == 1:
        return 0
    return x.shape[1] * kernel * prod(out.shape[2:]) * 4


def _is_small(x: Tensor) -> bool:
    small = x.shape[0] == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= ONEDNN_FLOOR
    return small and x.dtype == torch.float32


def _blocked(x: Tensor) -> int:
    return _bytes(x) * -(-x.shape[1] // ONEDNN_BLOCK) * ONEDNN_BLOCK // x.shape[1]


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


# ---------------------------------------------------------------- the device


def usable_bytes(memory_bytes: int, device: str) -> int:
    """Return the bytes that a step may use of a device's total memory; on CUDA not measured yet (see CUDA_OVERHEAD)."""
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
