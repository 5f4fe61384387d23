"""Operations that keep little for the backward pass.

    norm_silu   SiLU((1 + scale)·GN(x) + shift) as one operation that keeps only x: what lies between is computed again
    recalled    a convolution of it that does not keep its input either: its backward pass asks for it, and gets it anew
    in_slabs    a local operation on one slab of one sample after another; of a slab, only its input is kept

With W = (1 + scale)·weight, B = (1 + scale)·bias + shift, the normalised input n = rstd·(x - mean), and g the gradient
of W·n + B, the gradients of a group norm are sums over a volume (Σ) or over a group of D numbers (Σ_D):

    ∂W = Σ g·n        ∂B = Σ g        ∂x = rstd·(W·g - Σ_D W·g/D - n·Σ_D W·g·n/D)

PyTorch's own backward pass of a channels-last group norm on a CPU takes 5 times as long in bf16, and 1.4 times in fp32
(32 channels of 48³ voxels, one core). On a GPU, PyTorch's group norm does not take channels last at all: there n is
computed from the sums of each channel, as x·row + row with rows in fp32 (`_by_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

EPS = 1e-5  # of every group norm
LAST = torch.channels_last_3d
# A slab's inputs overlap those of its neighbours, so thin slabs cost time: 17 % more of the operation at 24 planes.
# Small planes allow more of them: 2¹⁸ voxels with 16 channels of fp32 are 17 MB.
PLANES, SLAB_VOXELS = 24, 2**18
GPU_SLAB_VOXELS = 2**22  # there launches cost more: 1 slab in place of 6 per 144³ voxels saves a quarter of a step's
# Up to this number of channels times planes times rows, PyTorch (Convolution.cpp, use_mkldnn) convolves a single fp32
# volume on a CPU by unfolding it, which takes 27 times the volume's memory.
ONEDNN_FLOOR = 20480

Run = Callable[..., Tensor]


def computed_in_fp32_on_a_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, film: Tensor | None = None) -> Tensor:
    """Return SiLU((1 + scale)·GN(x) + shift) in the dtype of x.  x: [B, C, Z, Y, X]; film = (scale, shift): [B, 2C]."""
    x, film = x.contiguous(memory_format=LAST), None if film is None else film.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        normed: Tensor = _NormSiLU.apply(x, weight, bias, film, groups)  # type: ignore[no-untyped-call]
        return normed


class _NormSiLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None, groups: int) -> Tensor:
        before, mean, rstd = _modulated(x, weight, bias, film, groups)
        ctx.save_for_backward(x, weight, bias, film, mean, rstd)
        return F.silu(before, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, film, mean, rstd = ctx.saved_tensors
        before = _modulated(x, weight, bias, film, mean.shape[1], (mean, rstd))[0]
        g = torch.ops.aten.silu_backward.grad_input(grad, before, grad_input=before)
        of_x, of_weights, of_biases = _back(g, x, _scaled(weight, film), mean, rstd)
        if film is None:
            return of_x, of_weights.sum(0), of_biases.sum(0), None, None
        grown = 1 + film.to(weight.dtype).chunk(2, dim=1)[0]
        of_film = torch.cat([of_weights * weight + of_biases * bias, of_biases], dim=1).to(film.dtype)
        return of_x, (grown * of_weights).sum(0), (grown * of_biases).sum(0), of_film, None


Statistics = tuple[Tensor, Tensor]  # mean and 1/std of each group, [B, groups]


def takes_channels_last(x: Tensor) -> bool:
    """Return whether PyTorch's own group norm takes a channels-last volume on this device."""
    return x.device.type == "cpu"


def _modulated(
    x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None, groups: int, known: Statistics | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (1 + scale)·GN(x) + shift, and the mean and 1/std of each group, [B, groups]."""
    if not takes_channels_last(x):
        return _by_rows(x, weight, bias, film, groups, known)
    b, c = x.shape[:2]
    voxels = x[0, 0].numel()
    maps, mean, rstd = torch.native_group_norm(x, weight.to(x.dtype), bias.to(x.dtype), b, c, voxels, groups, EPS)
    if film is not None:
        scale, shift = film.reshape(*film.shape, 1, 1, 1).chunk(2, dim=1)  # [B, C, 1, 1, 1] each
        torch.addcmul(shift, maps, 1 + scale, out=maps)
    return maps, mean, rstd


def _by_rows(
    x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None, groups: int, known: Statistics | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_modulated` returns, computed as x·row + row with rows in fp32: one rounding in all.

    A GPU converts while it reads and writes, without fp32 copies of the volume.
    """
    mean, rstd = _statistics(x, groups) if known is None else known
    grouped, volume = (-1, groups, x.shape[1] // groups), (-1, x.shape[1], 1, 1, 1)
    constant = bias[None]
    if film is not None:
        scale, shift = film.to(bias.dtype).chunk(2, dim=1)
        constant = torch.addcmul(shift, 1 + scale, constant)
    of_x = _scaled(weight, film).view(grouped) * rstd[..., None]
    constant = torch.addcmul(constant.view(grouped), of_x, mean[..., None], value=-1)
    maps = torch.addcmul(constant.view(volume), x, of_x.view(volume), out=torch.empty_like(x))
    return maps, mean, rstd


def _statistics(x: Tensor, groups: int) -> Statistics:
    """Return mean and 1/std of each group in fp32, [B, groups], from the sums of each channel."""
    (b, c), voxels = x.shape[:2], x[0, 0].numel()
    dtype = torch.promote_types(x.dtype, torch.float32)
    sums = [x.sum((2, 3, 4), dtype=dtype), torch.linalg.vector_norm(x, 2, (2, 3, 4), dtype=dtype).square_()]
    mean, square = torch.stack(sums).view(2, b, groups, -1).sum(3).div_(voxels * (c // groups))
    return mean, torch.addcmul(square, mean, mean, value=-1).clamp_min_(0).add_(EPS).rsqrt_()


def _scaled(weight: Tensor, film: Tensor | None) -> Tensor:  # [B or 1, C]
    return weight[None] if film is None else weight * (1 + film.to(weight.dtype).chunk(2, dim=1)[0])


def _back(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, of W and of B, [B, C, Z, Y, X], [B, C], [B, C]."""
    (b, c), n_groups = g.shape[:2], mean.shape[1]
    grouped, size = (-1, n_groups, c // n_groups), x[0].numel() // n_groups
    weight = weight.reshape(grouped)  # [B or 1, groups, channels of a group]
    mean, rstd = (row.to(weight.dtype).reshape(b, n_groups, 1) for row in (mean, rstd))
    of_bias, by_value = _sums(g).reshape(grouped), _sums(g * x).reshape(grouped)
    of_weight = torch.addcmul(by_value, mean, of_bias, value=-1) * rstd
    shared = (weight * torch.stack([of_bias, of_weight])).sum(3, keepdim=True) * (rstd / -size)  # by a group's channels
    of_n = shared[1] * rstd
    constant = torch.addcmul(shared[0], of_n, mean, value=-1)
    rows = torch.stack([rstd * weight, *(row.expand_as(of_bias) for row in (of_n, constant))])
    by_g, by_x, constant = rows.to(g.dtype).reshape(3, b, c, 1, 1, 1).unbind()
    of_x = torch.addcmul(constant, x, by_x).addcmul_(g, by_g)
    return of_x, of_weight.reshape(b, c), of_bias.reshape(b, c)


def _sums(maps: Tensor) -> Tensor:
    """Return the sum of each channel, in at least fp32, without converting the volume: [B, C, Z, Y, X] → [B, C]."""
    if maps.device.type != "cpu":
        return maps.sum((2, 3, 4), dtype=torch.promote_types(maps.dtype, torch.float32))
    planes = maps.movedim(1, -1).flatten(2, 3).sum(2)  # [B, Z, C]; over two axes it takes 16 times as long
    return planes.sum(1, dtype=torch.promote_types(maps.dtype, torch.float32))


def channels(volume: Tensor, numbers: Sequence[int]) -> Tensor:  # [B, C, …], numbers of channels → [B, len, …]
    """Return some channels: a view where they follow one another. An index on the host would hold up a GPU."""
    first, count = numbers[0], len(numbers)
    if tuple(numbers) == tuple(range(first, first + count)):
        return volume[:, first : first + count]
    return torch.stack([volume[:, number] for number in numbers], dim=1)


# ---------------------------------------------------------------- inputs that are not kept


def recalled(convolve: Run, x: Tensor, weight: Tensor, bias: Tensor, groups: int, film: Tensor | None) -> Tensor:
    """Return convolve(norm_silu(x, …)); the input of the convolution is computed again for its backward pass."""
    inner = norm_silu(x, weight, bias, groups, film)
    storage, like = inner.untyped_storage()._cdata, (inner.shape, inner.stride())

    def pack(saved: Tensor) -> Tensor | None:
        own = saved.untyped_storage()._cdata == storage and (saved.shape, saved.stride()) == like
        return None if own else saved

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        with torch.no_grad():
            return norm_silu(x, weight, bias, groups, film)

    with saved_tensors_hooks(pack, unpack):
        return convolve(inner)


# ---------------------------------------------------------------- slabs


def in_slabs(
    run: Run, reach: int, volumes: Sequence[Tensor], others: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor:
    """Return run(*volumes, *others), computed for one slab of one sample at a time; the backward pass does so again.

    run's output at a plane depends on `reach` planes of the volumes on either side, as that of convolutions padded by
    zeros. volumes: [B, C, Z, Y, X] each; others: [B, …] each; `weights` are the parameters that run uses.
    """
    if not torch.is_grad_enabled():
        return _by_slab(run, reach, volumes, others)
    device = volumes[0].device.type
    cast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
    inputs, counts = (*volumes, *others, *weights), (len(volumes), len(others))
    computed: Tensor = _InSlabs.apply(run, reach, cast, *counts, *inputs)  # type: ignore[no-untyped-call]
    return computed


class _InSlabs(Function):
    @staticmethod
    def forward(
        ctx: Any, run: Run, reach: int, cast: tuple[str, torch.dtype, bool], volumes: int, others: int, *tensors: Tensor
    ) -> Tensor:
        inputs, ctx.weights = tensors[: volumes + others], tensors[volumes + others :]
        ctx.run, ctx.reach, ctx.cast, ctx.volumes = run, reach, cast, volumes
        ctx.save_for_backward(*inputs)
        own = [t.detach() for t in inputs]  # hooks of modules refuse inputs without a gradient function
        return _by_slab(run, reach, own[:volumes], own[volumes:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        device, dtype, enabled = ctx.cast
        needed = ctx.needs_input_grad[5:]
        totals = [torch.zeros_like(t) if n else None for t, n in zip((*inputs, *ctx.weights), needed, strict=True)]
        for slab in slabs(inputs[: ctx.volumes], ctx.reach):
            own = [slab.of(t) if i < ctx.volumes else slab.sample(t) for i, t in enumerate(inputs)]
            own = [t.detach().requires_grad_(n) for t, n in zip(own, needed, strict=False)]
            with torch.enable_grad(), torch.autocast(device, dtype, enabled=enabled):
                out = slab.own(ctx.run(*(t.view_as(t) for t in own)))  # hooks of modules refuse leaves
            wanted = [(i, t) for i, t in enumerate((*own, *ctx.weights)) if needed[i]]
            parts = torch.autograd.grad(out, [t for _, t in wanted], slab.sample(grad)[:, :, slab.first : slab.end])
            for (i, _), part in zip(wanted, parts, strict=True):
                total = totals[i]
                assert total is not None
                place = slab.of(total) if i < ctx.volumes else slab.sample(total) if i < len(own) else total
                place.add_(part)
            del out, parts
        return (None, None, None, None, None, *totals)


@dataclass(frozen=True)
class Slab:
    """The planes [first, end) of one sample of a batch; what an operation must see to compute them is [low, high)."""

    number: int  # of the sample
    first: int
    end: int
    low: int
    high: int

    def sample(self, batch: Tensor) -> Tensor:
        return batch[self.number : self.number + 1]

    def of(self, volume: Tensor) -> Tensor:
        return self.sample(volume)[:, :, self.low : self.high]

    def own(self, seen: Tensor) -> Tensor:
        return seen[:, :, self.first - self.low : self.end - self.low]


def slabs(volumes: Sequence[Tensor], reach: int) -> Iterator[Slab]:
    """Yield about equally thick slabs that cover the volumes of a batch, sample by sample.

    In a trace (`traced`), two slabs of each kind are yielded: the first one allocates the result.
    """
    batch, _, planes, rows, columns = volumes[0].shape
    trace = _trace.get()
    on_cpu = (volumes[0].device.type if trace is None else trace.device) == "cpu"
    thick = max(PLANES, (SLAB_VOXELS if on_cpu else GPU_SLAB_VOXELS) // (rows * columns))
    if on_cpu and computed_in_fp32_on_a_cpu(volumes[0]):
        thick = max(thick, ONEDNN_FLOOR // (rows * sum(v.shape[1] for v in volumes)) + 1)
    count = max(1, planes // thick)
    ends = [(planes * i // count, planes * (i + 1) // count) for i in range(count)]
    every = [
        Slab(number, first, end, max(0, first - reach), min(planes, end + reach))
        for number in range(batch)
        for first, end in ends
    ]
    if trace is None:
        yield from every
        return
    kinds: dict[tuple[int, int, int], list[Slab]] = {}
    for slab in every:
        kinds.setdefault((slab.first - slab.low, slab.end - slab.first, slab.high - slab.end), []).append(slab)
    for alike in kinds.values():
        yield alike[0]
        if alike[1:]:
            trace.told(len(alike) - 1)
            yield alike[1]
            trace.told(1)


@dataclass(frozen=True)
class Trace:
    """A run on tensors without storage, as CPU code, that follows what a step takes on a device."""

    device: str  # cuda | cpu | mps
    told: Callable[[int], None]  # hears for how many slabs the next operations stand


_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def traced(device: str, told: Callable[[int], None]) -> Iterator[None]:
    """Cut volumes into the slabs of this device, and run only two of those that are alike."""
    token = _trace.set(Trace(device, told))
    try:
        yield
    finally:
        _trace.reset(token)


def _by_slab(run: Run, reach: int, volumes: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    whole: Tensor | None = None
    for slab in slabs(volumes, reach):
        computed = slab.own(run(*(slab.of(v) for v in volumes), *(slab.sample(o) for o in others)))
        if whole is None:
            batch, planes = volumes[0].shape[0], volumes[0].shape[2]
            whole = computed.new_empty(batch, computed.shape[1], planes, *computed.shape[3:])
        slab.sample(whole)[:, :, slab.first : slab.end] = computed
    assert whole is not None
    return whole
