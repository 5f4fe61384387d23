"""Tests of the network blocks: recomputed units keep only their input, outputs are channels last."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from nndiff.networks.blocks import (
    LANES,
    LAST,
    Conv,
    NormConv,
    ResidualBlock,
    TimeEmbedding,
    Up,
    conv,
    groups,
    repeat,
)


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (6, 1), (12, 3), (20, 5), (32, 8), (48, 12), (256, 32)])
def test_groups_divide_and_leave_four_channels_each(channels: int, expected: int) -> None:
    assert groups(channels) == expected


def test_time_embedding_tells_neighbouring_steps_apart() -> None:
    embed = TimeEmbedding(32, 64)
    a, b, c = embed(torch.tensor([0.5, 0.501, 0.5]))
    assert torch.equal(a, c)
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize(
    "batch", [1, 2]
)  # small fp32 maps at batch 1 take PyTorch's slow path, which answers otherwise
def test_convolutions_answer_channels_last(batch: int) -> None:
    x = torch.randn(batch, 8, 6, 6, 6).contiguous(memory_format=LAST)
    layer = conv(8, 12, (3, 3, 3)).to(memory_format=LAST)
    assert layer(x).is_contiguous(memory_format=LAST)
    assert Up(8, 4, (1, 2, 2))(x).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (5, 1, 3)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_a_convolution_keeps_one_voxel_of_a_stride(kernel: tuple, stride: tuple) -> None:
    out = conv(2, 3, kernel, stride)(torch.randn(1, 2, 4, 8, 6))
    assert out.shape[2:] == tuple(n // s for n, s in zip((4, 8, 6), stride, strict=True))


@pytest.mark.parametrize(("kernel", "slices"), [(3, 2), (5, 2), (5, 4), (3, 4)])
def test_bf16_gradients_of_thin_volumes_are_right(kernel: int, slices: int) -> None:
    layer = conv(16, 16, (kernel, 3, 3)).to(memory_format=LAST)
    x = torch.randn(2, 16, slices, 6, 6).contiguous(memory_format=LAST)
    layer(x).square().sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    for _ in range(5):
        dirt = [torch.full((n,), 1e30) for n in (1000, 10**4, 10**5, 10**6) for _ in range(4)]
        del dirt  # what malloc hands out next holds numbers, not zeros
        layer.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        assert (layer.weight.grad - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (3, 2, 1)])
def test_repeat_is_nearest_neighbour(stride: tuple) -> None:
    x = torch.randn(2, 3, 2, 4, 3)
    assert torch.equal(repeat(x, stride), F.interpolate(x, scale_factor=stride, mode="nearest"))


@pytest.mark.parametrize(
    ("c", "kernel"), [(1, (3, 3, 3)), (2, (1, 3, 3)), (2, (3, 1, 3)), (1, (1, 1, 7)), (1, (1, 1, 5))]
)
def test_few_outputs_by_taps_are_the_convolution_and_so_are_their_gradients(c: int, kernel: tuple) -> None:
    layer, x = conv(5, c, kernel), torch.randn(2, 5, 4, 5, 6, requires_grad=True)
    padding = tuple(k // 2 for k in kernel)
    with mock.patch.object(Conv, "_by_taps", autospec=True, side_effect=Conv._by_taps) as by_taps:
        out = layer(x)
        assert by_taps.called == (c * kernel[2] <= LANES)
    expected = F.conv3d(x, layer.weight, layer.bias, padding=padding)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert out.is_contiguous(memory_format=LAST)
    wanted = x, layer.weight, layer.bias
    weighing = torch.randn_like(out)
    for found, exact in zip(
        torch.autograd.grad((out * weighing).sum(), wanted),
        torch.autograd.grad((expected * weighing).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x[:1]), expected[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("c", [1, 6])  # by taps, and not
def test_a_film_is_applied_to_what_a_convolution_returns(c: int) -> None:
    layer, x, film = conv(4, c, (3, 3, 3)), torch.randn(1, 4, 5, 4, 6), torch.randn(1, 2 * c, requires_grad=True)
    scale, shift = film[0, :c, None, None, None], film[0, c:, None, None, None]
    found, expected = layer(x, film), layer(x) * (1 + scale) + shift
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weighing = torch.randn_like(found)
    wanted = film, layer.weight, layer.bias
    for one, other in zip(
        torch.autograd.grad((found * weighing).sum(), wanted),
        torch.autograd.grad((expected * weighing).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_residual_block_adds_to_its_shortcuts() -> None:
    time, x, y = torch.randn(2, 16), torch.randn(2, 8, 4, 4, 4), torch.randn(2, 12, 4, 4, 4)
    alone, wider = (ResidualBlock(c_in, 8, 16, (3, 3, 3), "none") for c_in in ((8,), (8, 12)))
    for block, parts, plain in ((alone, (x,), x), (wider, (x, y), wider.shortcut[0](x) + wider.shortcut[1](y))):
        assert not torch.equal(block(time, *parts), plain), "it does something before training"
        torch.nn.init.zeros_(block.second.conv.weight)
        torch.nn.init.zeros_(block.second.conv.bias)
        assert torch.equal(block(time, *parts), plain)


def test_parts_are_a_concatenation_whose_groups_do_not_straddle_them() -> None:
    """By hand: one norm over both, one convolution of both."""
    block, time = ResidualBlock((8, 16), 8, 16, (3, 3, 3), "none"), torch.randn(2, 16)
    with torch.no_grad():
        for weight in block.parameters():
            weight.normal_()
        x, y = torch.randn(2, 8, 4, 5, 6), torch.randn(2, 16, 4, 5, 6)
        units, both = list(block.first), torch.cat([x, y], dim=1)
        scale, shift = (torch.cat([getattr(u.norm, name) for u in units]) for name in ("weight", "bias"))
        weight, bias = torch.cat([u.conv.weight for u in units], 1), sum(u.conv.bias for u in units)
        assert groups(8) + groups(16) == 6  # of four channels each
        h = F.conv3d(F.silu(F.group_norm(both, 6, scale, shift)), weight, bias, padding=1)
        skip = F.conv3d(both, torch.cat([c.weight for c in block.shortcut], 1), sum(c.bias for c in block.shortcut))
        expected = skip + block.second(h, block.film(time))
        torch.testing.assert_close(block(time, x, y), expected, rtol=1e-4, atol=1e-4)


def test_film_scales_and_shifts_the_normalised_volume() -> None:
    unit, x = NormConv(8, 4, (1, 1, 1), recompute=False), torch.randn(2, 8, 3, 3, 3)
    film = torch.randn(2, 16)
    scale, shift = film[:, :8, None, None, None], film[:, 8:, None, None, None]
    expected = unit.conv(F.silu(F.group_norm(x, 2, unit.norm.weight, unit.norm.bias) * (1 + scale) + shift))
    torch.testing.assert_close(unit(x, film), expected)


def test_recomputing_a_unit_keeps_only_its_input() -> None:
    x = torch.randn(1, 8, 6, 6, 6, requires_grad=True)
    assert _saved(NormConv(8, 8, (3, 3, 3), recompute=True), x) < _saved(NormConv(8, 8, (3, 3, 3), recompute=False), x)


def _saved(unit: NormConv, x: torch.Tensor) -> int:
    """How many volumes wait for the backward pass."""
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unit(x)
    return sum(tensor.dim() == 5 and tensor.shape[2:] == x.shape[2:] for tensor in kept)
