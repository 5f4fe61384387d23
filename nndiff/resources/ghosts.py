"""Tensors that have no storage but pass for tensors on a CPU, and the mode that follows what they would have taken.

    peak = max over the operations of  Σ bytes of the storages alive after it  +  the operation's own scratch

Devices differ in the scratch of operations alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from nndiff.networks.lean import ONEDNN_FLOOR

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")
ASKED_FOR_DEVICE = torch.ops.prim.device.default


class Ghost(Tensor):
    """A meta tensor that passes for one on the CPU, to autocast as well as to whoever asks for its device.

    PyTorch's own FakeTensor does the same and more, and takes several times as long for every operation.
    """

    meta: Tensor  # the same storage, as a plain meta tensor

    @staticmethod
    def of(meta: Tensor) -> Ghost:
        ghost = Tensor._make_subclass(Ghost, meta, dispatch_device=True, device_for_backend_keys=CPU)
        ghost.meta = meta
        return ghost

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is ASKED_FOR_DEVICE:
            return CPU
        raise RuntimeError(f"{func} was called on a ghost outside of its trace")


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that follows storages by weak references; a view shares the storage of its base."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, so that no operation passes through a wrapper of the compiler, which is never in use here."""
        return False

    def __init__(self, device: str, trains: bool):
        super().__init__()  # type: ignore[no-untyped-call]
        self.unfolds = device != "cuda" and trains
        self.scratch = _cuda_scratch if device == "cuda" else _cpu_scratch if trains else _no_scratch
        self.live = self.peak = self.flops = 0
        self.times = 1
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ASKED_FOR_DEVICE:
            return CPU
        known: dict[int, Tensor] = {}  # the ghosts of the call by their meta tensors
        args = _uncovered(args, known)
        kwargs = {name: _uncovered(value, known) for name, value in (kwargs or {}).items()}
        if "device" in kwargs:
            kwargs["device"] = META
        out = self._answer(func, args, kwargs)
        covered = self._covered(out, known)
        self.peak = max(self.peak, self.live + self.scratch(func._overloadpacket, args, out))
        if (count := FLOPS.get(func._overloadpacket)) is not None:
            self.flops += self.times * count(*args, **kwargs, out_val=out)
        return covered

    def stand_for(self, times: int) -> None:
        """Count the FLOPs of the following operations so many times."""
        self.times = times

    def _covered(self, value: Any, known: Mapping[int, Tensor]) -> Any:
        """Return an operation's output with ghosts in place of meta tensors; an argument that it returns is kept."""
        if isinstance(value, Tensor):
            return known[id(value)] if id(value) in known else self._new(value)
        return type(value)(self._covered(part, known) for part in value) if isinstance(value, list | tuple) else value

    def _new(self, meta: Tensor) -> Ghost:
        self._follow(meta.untyped_storage())
        return Ghost.of(meta)

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the output of an operation on meta tensors.

        Operations that depend on this machine's processor, or that are slow to trace, are imitated here.
        """
        if func is aten.convolution.default:
            return _convolved(_layout(args[0], self.unfolds), *args)
        if func is aten.convolution_backward.default:
            return _convolved_back(_layout(args[1], self.unfolds), *args)
        if func is aten.native_group_norm.default:
            x, groups = args[0], args[6]
            return _like(x), *(_empty(x, x.shape[0], groups) for _ in range(2))
        if func is aten.native_layer_norm.default:  # its statistics are in fp32 on the meta device
            x, kept = args[0], args[0].dim() - len(args[1])
            rows = (*x.shape[:kept], *(1 for _ in args[1]))
            return _empty(x, *x.shape), *(_empty(x, *rows) for _ in range(2))
        if (written := _written(func)) is not None:
            return kwargs[written] if written in kwargs else args[0]
        if func in BY_VOXEL and (like := _result_like(args)) is not None:
            return _like(like)
        if _returns_new(func):
            return _remembered(func, args, kwargs)
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


def _uncovered(value: Any, known: dict[int, Tensor]) -> Any:
    """Return an operation's argument with meta tensors in place of ghosts and of tensors with data."""
    if isinstance(value, Tensor):
        meta = value.meta if isinstance(value, Ghost) else value.to(META)
        known[id(meta)] = value
        return meta
    return type(value)([_uncovered(part, known) for part in value]) if isinstance(value, list | tuple) else value


def _attention_flops(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))  # type: ignore[no-untyped-call]


def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))  # type: ignore[no-untyped-call]


FLOPS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,  # missing in the registry
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


BY_VOXEL = {
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.addcmul.default),
    *(aten.neg.default, aten.abs.default, aten.pow.Tensor_Scalar, aten.sqrt.default, aten.exp.default),
    *(aten.log.default, aten.silu.default, aten.clamp_min.default),
}


def _result_like(operands: Sequence[Any]) -> Tensor | None:
    """Return the operand that a result by voxel has the shape, layout, and dtype of, where one plainly has."""
    volumes = [x for x in operands if isinstance(x, Tensor) and x.dim() > 0]
    if not volumes:
        return None
    first, *others = sorted(volumes, key=Tensor.numel, reverse=True)
    plain = first.is_floating_point() and aten.is_non_overlapping_and_dense(first)
    return first if plain and all(_follows(other, first) for other in others) else None


def _like(x: Tensor) -> Tensor:
    """Return a meta tensor like x, which is dense; PyTorch decomposes `empty_like` of a meta tensor in Python."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)


def _empty(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=META)


def _follows(other: Tensor, first: Tensor) -> bool:
    if other.dtype != first.dtype or other.dim() != first.dim():
        return False
    if other.shape == first.shape:
        return other.stride() == first.stride()
    return all(n in (1, of_first) for n, of_first in zip(other.shape, first.shape, strict=True))


_answers: dict[Any, Any] = {}
_SHARED = object()  # the answer of an operation whose output shares an argument's storage; not all schemas tell


def _remembered(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the output of an operation that returns new tensors; arguments alike were perhaps answered before.

    On meta tensors PyTorch runs many operations in Python, which takes ten times as long as to remember.
    """
    question = (func, _described(args), _described(tuple(kwargs.items())))
    answer = _answers.get(question)
    if answer is not None and answer is not _SHARED:
        return _made(answer)
    out = func(*args, **kwargs)
    if answer is None:
        shared = _storages(out) & _storages((*args, *kwargs.values()))
        _answers[question] = _SHARED if shared else _described(out)
    return out


def _storages(value: Any) -> set[int]:
    if isinstance(value, Tensor):
        return {value.untyped_storage()._cdata}
    return set().union(*map(_storages, value)) if isinstance(value, list | tuple) else set()


def _described(value: Any) -> Any:
    """Return what an operation's output depends on, to be compared: 1, 1.0, and True are different."""
    if isinstance(value, Tensor):
        return Tensor, value.shape, value.stride(), value.dtype
    return (tuple, *map(_described, value)) if isinstance(value, list | tuple) else (type(value), value)


def _made(described: Any) -> Any:
    """Return new tensors in place of the described ones."""
    kind, *what = described
    if kind is Tensor:
        shape, stride, dtype = what
        return torch.empty_strided(shape, stride, dtype=dtype, device=META)
    return tuple(map(_made, what)) if kind is tuple else what[0]


@cache
def _returns_new(func: Any) -> bool:
    """Return whether an operation of PyTorch returns tensors that share nothing with its arguments."""
    returns = func._schema.returns
    return (
        func.namespace == "aten"
        and all(str(value.type).startswith("Tensor") for value in returns)
        and all(value.alias_info is None for value in (*func._schema.arguments, *func._schema.returns))
    )


@cache
def _written(func: Any) -> str | None:
    """Return the name of the argument that an operation writes over and returns, if there is one."""
    if torch.Tag.inplace_view in func.tags:
        raise RuntimeError(
            f"{func} changes the shape of its argument, which a trace cannot follow; return a view instead"
        )
    returns = func._schema.returns
    if len(returns) != 1 or returns[0].alias_info is None or not returns[0].alias_info.is_write:
        return None
    written: list[str] = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return written[0]


def _layout(x: Tensor, unfolds: bool) -> torch.memory_format:
    """Return the memory format of a convolution's output: channels last, except for small maps that a CPU unfolds."""
    return torch.contiguous_format if unfolds and _is_small(x) else torch.channels_last_3d


def _convolved(layout: torch.memory_format, x: Tensor, weight: Tensor, _: Any, *how: Any) -> Tensor:
    stride, padding = how[:2]
    rows = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    size = [(n + 2 * p - k) // s + 1 for n, k, s, p in rows]
    return torch.empty(x.shape[0], weight.shape[0], *size, dtype=x.dtype, device=META, memory_format=layout)


def _convolved_back(
    layout: torch.memory_format, grad: Tensor, x: Tensor, weight: Tensor, _: Any, *how: Any
) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias = how[-1]
    return (
        torch.empty_like(x, memory_format=layout) if of_x else None,
        _like(weight) if of_weight else None,
        _empty(weight, weight.shape[0]) if of_bias else None,
    )


# ---------------------------------------------------------------- the operations' scratch

ONEDNN_BLOCK = 16  # channels


def _cuda_scratch(op: Any, args: Any, out: Any) -> int:
    """Return the scratch bytes of an operation on CUDA: cuDNN's workspace."""
    if op is aten.convolution:
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
