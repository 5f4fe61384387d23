"""A self-test of 3D convolutions: does a device compute in 16 bits what it computes in 32?

    error = rms(found - truth) / rms(truth)      for the output, and for the gradients of input, weights and bias

Inputs are rounded to bf16 first, so that both precisions begin with the same numbers. The truth is computed in fp32 on
the same device without TF32 or, for small shapes, in fp64 on the CPU. `nndiff_doctor` tests a few shapes within
seconds, `benchmarks/card.py` tests those of real plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nndiff.words.volume import Triple

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}
# Bounds of relative rms errors, about three times what was found on a CPU. Rounding to bf16 has an rms of 0.0017 of the
# value, and a convolution rounds once. fp16 has 3 bits more.
BF16, FP16 = 0.01, 0.00125
LARGEST = 5  # of the bound: a single error, as a share of the largest value
SMALL = 2**21  # elements of the input times channels of the output, up to which the CPU checks in fp64


@dataclass(frozen=True)
class Convolution:
    """A convolution by its shapes, padded by half a kernel."""

    batch: int
    inputs: int
    outputs: int
    kernel: Triple
    stride: Triple
    size: Triple

    def __str__(self) -> str:
        kernel, stride, size = ("x".join(map(str, triple)) for triple in (self.kernel, self.stride, self.size))
        return f"{self.inputs} to {self.outputs}, kernel {kernel}, stride {stride}, {self.batch} x {size}"

    @property
    def padding(self) -> Triple:
        z, y, x = (k // 2 for k in self.kernel)
        return z, y, x

    @property
    def out_size(self) -> Triple:
        rows = zip(self.size, self.padding, self.kernel, self.stride, strict=True)
        z, y, x = ((n + 2 * p - k) // s + 1 for n, p, k, s in rows)
        return z, y, x


THREE: Triple = (3, 3, 3)
# A plain one, one of thick slices with odd sizes and channels, one that halves, a thin slab, a deep one without extent.
QUICK = (
    Convolution(2, 8, 8, THREE, (1, 1, 1), (8, 8, 8)),
    Convolution(1, 3, 5, (1, 3, 3), (1, 2, 2), (5, 9, 7)),
    Convolution(1, 16, 32, THREE, (2, 2, 2), (17, 18, 19)),
    Convolution(2, 16, 16, THREE, (1, 1, 1), (1, 32, 32)),
    Convolution(1, 64, 64, (1, 1, 1), (1, 1, 1), (6, 8, 8)),
)
# On a GPU, where libraries choose their algorithms by the shape, also shapes of a network; at most 0.5 GB each.
LARGER = (
    Convolution(1, 32, 32, THREE, (1, 1, 1), (64, 64, 64)),
    Convolution(1, 64, 128, THREE, (2, 2, 2), (48, 66, 66)),
    Convolution(1, 128, 128, THREE, (1, 1, 1), (24, 33, 33)),
)


@dataclass(frozen=True)
class Difference:
    """How far tensors are from the truth: the worst relative rms, the largest single error, and which tensor is worst.

    An error that is not finite is never within the bound.
    """

    error: float
    largest: float
    bound: float
    worst: str
    right: bool


def drawn(shape: Sequence[int], device: torch.device | str, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal numbers rounded to bf16, so that all precisions begin with the same ones."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).to(torch.bfloat16).to(dtype)


def with_gradients(run: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Return run(*tensors) and the gradients of all tensors."""
    own = [tensor.detach().requires_grad_() for tensor in tensors]
    out = run(*own)
    like = torch.empty_like(out, memory_format=torch.preserve_format).copy_(grad)
    return [out.detach(), *torch.autograd.grad(out, own, like)]


def difference(found: Sequence[Tensor], truth: Sequence[Tensor], names: Sequence[str], bound: float) -> Difference:
    """Return how far the tensors are from the truth."""
    rms, largest = [], []
    for value, right in zip(found, truth, strict=True):
        off = value.to(right) - right
        rms.append(float(off.norm() / right.norm()))
        largest.append(float(off.abs().max() / right.abs().max()))
    worst = max(range(len(rms)), key=lambda i: rms[i] if math.isfinite(rms[i]) else math.inf)
    good = all(value <= bound for value in rms) and all(value <= LARGEST * bound for value in largest)
    return Difference(rms[worst], max(largest), bound, names[worst], good)


def convolved(
    shape: Convolution, device: torch.device | str, layout: str, dtype: torch.dtype, bound: float
) -> Difference:
    """Return how far a convolution in `dtype` and its gradients are from the truth.

    It runs with and without cuDNN's benchmark, which chooses other algorithms; the worse one is returned.
    """

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv3d(x, weight, bias, shape.stride, shape.padding)

    x = drawn((shape.batch, shape.inputs, *shape.size), device, 0, dtype)  # [B, C, Z, Y, X]
    weight = drawn((shape.outputs, shape.inputs, *shape.kernel), device, 1, dtype)
    bias = drawn((shape.outputs,), device, 2, dtype)
    grad = drawn((shape.batch, shape.outputs, *shape.out_size), device, 3, dtype)
    small = x.numel() * shape.outputs <= SMALL
    to: Callable[[Tensor], Tensor] = (lambda t: t.cpu().double()) if small else Tensor.float
    with cudnn(tf32=False):
        truth = with_gradients(run, [to(t) for t in (x, weight, bias)], to(grad))
    own = [x.to(memory_format=LAYOUTS[layout]), weight.to(memory_format=LAYOUTS[layout]), bias]
    rows = []
    for benchmark in (False, True):
        with cudnn(benchmark=benchmark):
            found = with_gradients(run, own, grad.to(memory_format=LAYOUTS[layout]))
        names = [f"{part}{', benchmark' if benchmark else ''}" for part in ("output", "of x", "of weight", "of bias")]
        rows.append(difference([t.to(truth[0].device) for t in found], truth, names, bound))
    return max(rows, key=lambda row: (not row.right, row.error))


@contextmanager
def cudnn(benchmark: bool = False, tf32: bool = True, deterministic: bool = False) -> Iterator[None]:
    """Set how cuDNN chooses its algorithms: training compares them (benchmark), prediction does not."""
    flags, wanted = torch.backends.cudnn, {"benchmark": benchmark, "allow_tf32": tf32, "deterministic": deterministic}
    before = {name: getattr(flags, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(flags, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(flags, name, value)
