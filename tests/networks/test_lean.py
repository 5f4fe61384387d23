"""Tests of the operations that keep little: their values and gradients are those of the plain operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nndiff.networks import lean
from nndiff.networks.blocks import Conv, conv
from nndiff.networks.lean import in_slabs, norm_silu, recalled, slabs

GROUPS = 3


@pytest.fixture(params=["cpu", "gpu"])
def norms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute norms as on this device; PyTorch's own group norm refuses what a GPU's would refuse."""
    if request.param == "gpu":
        monkeypatch.setattr(lean, "takes_channels_last", lambda x: False)
        monkeypatch.setattr(torch, "native_group_norm", None)
    return str(request.param)


def test_only_a_cpu_has_a_group_norm_that_takes_channels_last() -> None:
    assert lean.takes_channels_last(torch.empty(1))
    assert not lean.takes_channels_last(torch.empty(1, device="meta"))


def _plain(x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None) -> Tensor:
    normed = F.group_norm(x, GROUPS, weight.to(x.dtype), bias.to(x.dtype))
    if film is not None:
        scale, shift = film.to(x.dtype)[..., None, None, None].chunk(2, dim=1)
        normed = torch.addcmul(shift, normed, 1 + scale)
    return F.silu(normed)


def _inputs(batch: int, film: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return (x, weight, bias, film) of 12 channels; the channels of x have means of up to three deviations."""
    generator = torch.Generator().manual_seed(batch + 2 * film)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x = (draw(batch, 12, 4, 5, 6) + 1.5 * draw(batch, 12, 1, 1, 1)).contiguous(memory_format=torch.channels_last_3d)
    values = x, draw(12), draw(12), draw(batch, 24) if film else None
    return tuple(None if v is None else v.requires_grad_() for v in values)  # type: ignore[return-value]


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_norm_silu_is_the_plain_operation_and_so_are_its_gradients(norms: str, batch: int, film: bool) -> None:
    x, weight, bias, told = _inputs(batch, film, torch.float64)
    found = norm_silu(x, weight, bias, GROUPS, told)
    expected = _plain(x, weight, bias, told)
    assert torch.equal(found, expected) or (norms == "gpu" and torch.allclose(found, expected, rtol=1e-12, atol=1e-13))
    _same_gradients(found, expected, [v for v in (x, weight, bias, told) if v is not None])


@pytest.mark.parametrize("film", [False, True])
def test_norm_silu_in_bf16_errs_no_more_than_the_plain_operation(norms: str, film: bool) -> None:
    exact = _inputs(2, film, torch.float64)
    x, weight, bias, told = (None if v is None else v.detach().float() for v in exact)
    rounded = x.bfloat16()
    weighing = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(9)).bfloat16()

    def gradients(operation: Callable[..., Tensor], *values: Tensor | None) -> list[Tensor]:
        own = [None if v is None else v.detach().requires_grad_() for v in values]
        (operation(*own) * weighing.to(own[0].dtype)).sum().backward()
        return [v.grad.double() for v in own if v is not None]

    truth = gradients(_plain, rounded.double(), *exact[1:])
    plain = gradients(_plain, rounded, weight, bias, told)
    lean = gradients(lambda x, w, b, f: norm_silu(x, w, b, GROUPS, f), rounded, weight, bias, told)
    for name, t, p, q in zip(("x", "weight", "bias", "film"), truth, plain, lean, strict=False):
        limit = max(1.3 * float((p - t).norm()), 0.004 * float(t.norm()))
        assert float((q - t).norm()) <= limit, name


def test_norm_silu_keeps_the_dtype_under_autocast() -> None:
    x, weight, bias, film = _inputs(1, True, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm_silu(x.bfloat16(), weight, bias, GROUPS, film).dtype == torch.bfloat16
        assert norm_silu(x, weight, bias, GROUPS, film).dtype == torch.float32


def test_norm_silu_trains_where_the_layers_before_it_are_frozen() -> None:
    x, weight, bias, _ = _inputs(2, False, torch.float32)
    norm_silu(x.detach(), weight, bias, GROUPS).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.parametrize("bf16", [False, True])
def test_a_recalled_input_is_the_same_to_the_bit(bf16: bool) -> None:
    x, weight, bias, film = _inputs(2, True, torch.float32)
    layer = conv(12, 4, (3, 3, 3))
    wanted = [x, weight, bias, film, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        entered = x.bfloat16() if bf16 else x
        again = recalled(layer, entered, weight, bias, GROUPS, film)
        kept = layer(norm_silu(entered, weight, bias, GROUPS, film))
    assert torch.equal(again, kept)
    for one, other in zip(
        *(torch.autograd.grad(out.float().square().sum(), wanted) for out in (again, kept)), strict=True
    ):
        assert torch.equal(one, other)


# ---------------------------------------------------------------- slabs


class _Local(torch.nn.Module):
    """Two convolutions, as the head: it sees two planes beyond each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 4, (3, 3, 3)).double(), conv(4, 1, (3, 3, 3)).double()

    def forward(self, volume: Tensor, other: Tensor) -> Tensor:
        return self.entered(volume, other)

    def entered(self, volume: Tensor, other: Tensor) -> Tensor:
        maps = self.first(volume) + other[:, :, None, None, None]
        return F.conv3d(F.silu(maps), self.last.weight, self.last.bias, padding=1)


@pytest.mark.parametrize("planes", [3, 23, 24, 49, 80])
@pytest.mark.parametrize("batch", [1, 2])
def test_slabs_compute_what_the_whole_volume_would(batch: int, planes: int) -> None:
    run = _Local()
    volume = torch.randn(batch, 3, planes, 4, 5, dtype=torch.float64, requires_grad=True)
    other = torch.randn(batch, 4, dtype=torch.float64, requires_grad=True)
    weights = list(run.parameters())
    whole, parts = run(volume, other), in_slabs(run, 2, [volume], [other], weights)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    _same_gradients(parts, whole, [volume, other, *weights])
    with torch.no_grad():
        torch.testing.assert_close(in_slabs(run, 2, [volume], [other], weights), whole, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def _thin_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nndiff.networks.lean.SLAB_VOXELS", 0)


def test_gradients_that_nobody_needs_are_not_computed() -> None:
    run, volume = _Local(), torch.randn(1, 3, 49, 4, 5, dtype=torch.float64)
    other = torch.randn(1, 4, dtype=torch.float64)
    run.first.requires_grad_(False)
    in_slabs(run, 2, [volume], [other], list(run.parameters())).sum().backward()
    assert run.first.weight.grad is None
    assert run.last.weight.grad is not None


@given(
    batch=st.integers(1, 3),
    planes=st.integers(1, 200),
    rows=st.integers(1, 200),
    reach=st.integers(0, 3),
    fp32=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_slabs_cover_every_plane_of_every_sample_once(
    batch: int, planes: int, rows: int, reach: int, fp32: bool
) -> None:
    volume = torch.empty(1, dtype=torch.float32 if fp32 else torch.bfloat16).expand(batch, 2, planes, rows, 3)
    seen = torch.zeros(batch, planes)
    for slab in slabs([volume], reach):
        seen[slab.number, slab.first : slab.end] += 1
        assert slab.low == max(0, slab.first - reach)
        assert slab.high == min(planes, slab.end + reach)
        assert slab.end - slab.first >= min(planes, 24)
    assert (seen == 1).all()


def test_an_autocast_operation_is_computed_again_under_autocast() -> None:
    layer, dtypes = Conv(3, 9, 3, padding=1), []

    def run(volume: Tensor) -> Tensor:
        out = layer(volume)
        dtypes.append(out.dtype)
        return out

    volume = torch.randn(1, 3, 25, 4, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = in_slabs(run, 1, [volume], [], list(layer.parameters()))
    out.float().sum().backward()
    assert set(dtypes) == {torch.bfloat16}
    assert len(dtypes) >= 2


def test_slabs_bear_the_hooks_of_a_counter_of_flops() -> None:
    run = _Local()
    volume, other = (torch.randn(*n, dtype=torch.float64, requires_grad=True) for n in ((1, 3, 49, 4, 5), (1, 4)))
    with FlopCounterMode(display=False) as counter:
        in_slabs(run.entered, 2, [volume], [other], list(run.parameters())).sum().backward()
    assert counter.get_total_flops() > 0


def _same_gradients(found: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    weighing = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    pairs = (torch.autograd.grad((out * weighing).sum(), wanted) for out in (found, expected))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
