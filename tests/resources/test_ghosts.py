"""Tests of tensors without storage: they answer as tensors with data would, and what they would take is followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nndiff.resources.ghosts import Ghost, Tracer

LAST = torch.channels_last_3d
A, B = torch.rand(2, 4, 3, 5, 6), torch.rand(2, 4, 3, 5, 6)
LAID = A.contiguous(memory_format=LAST)
ROW = torch.rand(2, 4, 1, 1, 1)
OPERATIONS: dict[str, Callable[[], Tensor | tuple[Tensor, ...]]] = {
    "sum": lambda: A + B,
    "of layouts": lambda: A + LAID,
    "of channels last": lambda: LAID * LAID,
    "of precisions": lambda: A.bfloat16() * B,
    "by a number": lambda: 2 - LAID,
    "by a scalar of fp64": lambda: A.bfloat16() / torch.tensor(3.0, dtype=torch.float64),
    "scalars": lambda: torch.tensor(3.0, dtype=torch.float64) * torch.tensor(2.0),
    "of whole numbers": lambda: torch.arange(6) / 2,
    "of a scalar of fp64 and whole numbers": lambda: torch.arange(6) * torch.tensor(2.0, dtype=torch.float64),
    "broadcast": lambda: LAID * ROW,
    "broadcast from the first": lambda: ROW - LAID,
    "broadcast by both": lambda: A[:, :, :1] * A[:1],
    "broadcast by rank": lambda: LAID + A[0, 0],
    "by row and volume": lambda: torch.addcmul(ROW, LAID, ROW),
    "negative": lambda: -LAID,
    "by voxel": lambda: (LAID.abs(), LAID.exp(), LAID.log(), F.silu(LAID), LAID.clamp_min(0.5)),
    "power": lambda: LAID.square().sqrt(),
    "power of whole numbers": lambda: torch.arange(6) ** 0.5,
    "at least": lambda: LAID[..., 1:].clamp(min=0.5),
    "expanded": lambda: ROW.expand(2, 4, 3, 5, 6) + ROW.expand(2, 4, 3, 5, 6),
    "of strides": lambda: A[..., ::2] - B[..., ::2],
    "written over": lambda: LAID.clone().mul_(2).addcmul_(B, ROW),
    "written elsewhere": lambda: torch.addcmul(ROW, A, B, out=torch.empty_like(LAID)),
    "silu": lambda: F.silu(LAID.clone(), inplace=True),
    "silu's gradient": lambda: torch.ops.aten.silu_backward.grad_input(LAID, B, grad_input=torch.empty_like(LAID)),
    "group norm": lambda: torch.native_group_norm(LAID, None, None, 2, 4, 90, 2, 1e-5),
    "group norm of bf16": lambda: torch.native_group_norm(
        LAID.bfloat16(), ROW[0, :, 0, 0, 0].bfloat16(), ROW[1, :, 0, 0, 0].bfloat16(), 2, 4, 90, 2, 1e-5
    ),
    "layer norm of bf16": lambda: torch.native_layer_norm(A.bfloat16(), [5, 6], None, None, 1e-5),
    "parts": lambda: torch.stack([A, B]).unbind(),
}


def form(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device.type


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_answer_as_on_real_tensors(name: str, again: bool) -> None:
    real = OPERATIONS[name]()
    with Tracer("cpu", trains=True):
        ghosts = OPERATIONS[name]()
        if again:
            ghosts = OPERATIONS[name]()
    parts = [(real, ghosts)] if isinstance(real, Tensor) else list(zip(real, ghosts, strict=True))
    for one, other in parts:
        assert isinstance(other, Ghost)
        assert form(other) == form(one)


def test_an_answer_is_remembered_for_arguments_alike_alone() -> None:
    whole = torch.arange(6)
    with Tracer("cpu", trains=True):
        dtypes = [(whole * by).dtype for by in (1, 1.0, True, 1)]
        sums = [whole.sum(dtype=dtype).dtype for dtype in (None, torch.float32, None)]
        flat, kept = (whole.float().view(2, 3).sum(1, keepdim=keep).shape for keep in (False, True))
    assert dtypes == [torch.int64, torch.float32, torch.int64, torch.int64]
    assert sums == [torch.int64, torch.float32, torch.int64]
    assert (flat, kept) == ((2,), (2, 1))


def test_what_shares_its_arguments_storage_takes_no_memory_when_asked_again() -> None:
    with Tracer("cpu", trains=True) as tracer:
        whole = torch.rand(6)
        for _ in range(2):
            view = torch.ops.aten._unsafe_view(whole, [2, 3])  # its schema calls it new
            assert (tuple(view.shape), tracer.live) == ((2, 3), 24)


def test_what_is_remembered_still_takes_memory() -> None:
    with Tracer("cpu", trains=True) as tracer:
        kept = []
        for n in (1, 2, 3):
            kept.append(torch.rand(25).sum_to_size(1).expand(25).clone())
            assert tracer.live == 100 * n


def test_autocast_and_gradients_take_them_for_tensors_on_a_cpu() -> None:
    with Tracer("cpu", trains=True), torch.autocast("cpu", torch.bfloat16):
        weight = torch.empty(7, 4, requires_grad=True)
        out = F.linear(torch.empty(3, 4), weight)
        out.float().square().sum().backward()
    assert (out.dtype, out.device.type) == (torch.bfloat16, "cpu")
    assert weight.grad is not None
    assert form(weight.grad) == ((7, 4), (4, 1), torch.float32, "cpu")


def test_what_is_released_no_longer_counts() -> None:
    with Tracer("cpu", trains=True) as tracer:
        one = torch.empty(1000)
        view = one[10:].view(2, 495)
        two = one * 2
        three = two.add_(view.sum())
        assert (tracer.live, tracer.peak) == (8000, 8004)
        del one, two
        assert tracer.live == 8000  # a view keeps its base
        del view
        assert tracer.live == 4000
        del three
        assert tracer.live == 0


def test_a_ghost_outside_of_its_trace_is_refused() -> None:
    with Tracer("cpu", trains=False):
        ghost = torch.empty(3)
    with pytest.raises(RuntimeError, match="outside of its trace"):
        ghost + 1


def test_an_operation_that_reshapes_its_argument_is_refused() -> None:
    with Tracer("cpu", trains=False), pytest.raises(RuntimeError, match="unsqueeze_"):
        torch.empty(3).unsqueeze_(0)


@pytest.mark.parametrize(
    ("device", "trains", "unfolds"), [("cpu", True, True), ("cpu", False, False), ("cuda", True, False)]
)
def test_only_a_training_on_a_cpu_unfolds_small_maps(device: str, trains: bool, unfolds: bool) -> None:
    with Tracer(device, trains), torch.set_grad_enabled(False):
        out = F.conv3d(torch.empty(1, 4, 3, 3, 3), torch.empty(8, 4, 3, 3, 3), padding=1)
    assert out.is_contiguous() is unfolds
