"""Blocks: norms keep the dtype, units recompute without a trace, every map answers channels last."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nndiff.networks.blocks import GroupNorm, NormConv, ResidualBlock, TimeEmbedding, Up, conv, groups, repeat

LAST = torch.channels_last_3d


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (6, 1), (12, 3), (20, 5), (32, 8), (48, 12), (256, 32)])
def test_groups_divide_and_leave_four_channels_each(channels: int, expected: int) -> None:
    assert groups(channels) == expected


def test_group_norm_stays_in_bf16_under_autocast() -> None:
    norm, x = GroupNorm(16), torch.randn(2, 16, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16
        assert norm(x).dtype == torch.float32


def test_group_norm_is_pytorchs_own() -> None:
    norm, x = GroupNorm(12), 3 + 2 * torch.randn(2, 12, 4, 5, 6)
    with torch.no_grad():
        norm.weight.uniform_(), norm.bias.uniform_()
    assert torch.equal(norm(x), F.group_norm(x, 3, norm.weight, norm.bias))


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


def test_a_residual_block_starts_as_its_shortcut() -> None:
    time, x = torch.randn(2, 16), torch.randn(2, 8, 4, 4, 4)
    assert torch.equal(ResidualBlock(8, 8, 16, (3, 3, 3), "none")(time, x), x)
    wider = ResidualBlock(16, 8, 16, (3, 3, 3), "none")
    torch.testing.assert_close(wider(time, x, x), wider.shortcut(torch.cat([x, x], 1)), rtol=0, atol=0)


def test_film_scales_and_shifts_the_normalised_volume() -> None:
    unit, x = NormConv(8, 4, (1, 1, 1), recompute=False), torch.randn(2, 8, 3, 3, 3)
    film = torch.randn(2, 16)
    scale, shift = film[:, :8, None, None, None], film[:, 8:, None, None, None]
    expected = unit.conv(F.silu(unit.norm(x) * (1 + scale) + shift))
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
