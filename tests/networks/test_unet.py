"""Tests of the UNet: every topology keeps the grid, the output starts at zero, recomputation changes no bit, and the
last decoder block receives the output of the stem.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nndiff.networks.blocks import GroupNorm
from nndiff.networks.unet import Cache, UNet
from nndiff.words.errors import NndiffError

ONE, TWO = (1, 1, 1), (2, 2, 2)
SMALL: dict[str, Any] = {"multipliers": (1, 2), "kernels": ((3, 3, 3),) * 2, "strides": (ONE, TWO)}
FLAT: dict[str, Any] = {
    "multipliers": (1, 2, 3),
    "kernels": ((1, 3, 3), (1, 3, 3), (3, 3, 3)),
    "strides": (ONE, (1, 2, 2), (1, 3, 1)),
}


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """The same network with none of its weights at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return network


@pytest.mark.parametrize(
    ("topology", "shape"),
    [
        (SMALL, (4, 6, 8)),
        (FLAT, (5, 12, 4)),
        (SMALL, (5, 6, 9)),
        (FLAT, (4, 13, 3)),
        ({"multipliers": (1,), "kernels": ((3, 1, 3),), "strides": (ONE,)}, (3, 5, 7)),
        ({"multipliers": (1, 1, 2, 2), "kernels": ((3, 3, 3),) * 4, "strides": (ONE, TWO, TWO, TWO)}, (8, 8, 8)),
        ({"multipliers": (1, 1, 2, 2), "kernels": ((3, 3, 3),) * 4, "strides": (ONE, TWO, TWO, TWO)}, (9, 3, 13)),
    ],
)
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_every_topology_keeps_the_grid(topology: dict[str, Any], shape: tuple, blocks: int) -> None:
    network = awake(UNet(3, 2, 8, **topology, blocks=blocks))
    out = network(torch.randn(2, 3, *shape), torch.rand(2))
    assert out.shape == (2, 2, *shape)
    assert out.std() > 0


def test_no_size_needs_padding_and_a_size_that_divides_loses_nothing() -> None:
    """Far from the end that differs, a volume of 33 voxels gives what one of 32 gives."""
    network = awake(UNet(1, 1, 8, **SMALL, blocks=1))
    x, t = torch.randn(1, 1, 33, 4, 4), torch.rand(1)
    for module in network.modules():
        if isinstance(module, GroupNorm):
            module.weight.data.zero_()  # norms see the whole volume; without them the network is local
    odd, even = (network._deep(x[:, :, :n], network.time(t), 0)[0] for n in (33, 32))  # the head begins with a norm
    torch.testing.assert_close(odd[:, :, :24], even[:, :, :24])
    assert odd[:, :, 32:].std() > 0


def test_output_starts_at_zero() -> None:
    assert not UNet(2, 1, 8, **SMALL)(torch.randn(1, 2, 4, 4, 4), torch.rand(1)).any()


def test_time_matters() -> None:
    network, x = awake(UNet(1, 1, 8, **SMALL)), torch.randn(1, 1, 4, 4, 4)
    assert (network(x, torch.tensor([0.1])) - network(x, torch.tensor([0.9]))).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_meet() -> None:
    network, x, t = awake(UNet(1, 1, 8, **SMALL)), torch.randn(2, 1, 4, 4, 4), torch.rand(2)
    torch.testing.assert_close(network(x, t)[1:], network(x[1:], t[1:]), rtol=1e-4, atol=1e-5)


def test_encoder_and_decoder_mirror_each_other() -> None:
    network = UNet(1, 1, 8, **FLAT, blocks=2)
    assert [len(part) for part in (network.downs, network.encoder, network.decoder, network.ups)] == [6] * 4
    begins = [False, False, True, False, True, False]
    assert [not isinstance(down, nn.Identity) for down in network.downs] == begins
    assert [not isinstance(up, nn.Identity) for up in network.ups] == begins


def test_the_last_decoder_block_sees_the_stems_output() -> None:
    network, seen = awake(UNet(1, 1, 8, **SMALL)), {}
    network.stem.register_forward_hook(lambda _m, _i, out: seen.update(stem=out))
    network.decoder[0].register_forward_hook(lambda _m, inputs, _o: seen.update(skip=inputs[2]))
    network(torch.randn(1, 1, 4, 4, 4), torch.rand(1))
    assert seen["skip"] is seen["stem"]


def kept_pass(network: UNet, depth: int, x: Tensor, t: Tensor) -> tuple[Cache, Tensor]:
    cache = Cache(depth)
    return cache, network(x, t, cache)


@pytest.mark.parametrize("topology", [SMALL, FLAT])
@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_keeping_changes_no_bit_and_on_its_own_feature_a_shallow_pass_is_the_whole(topology, blocks: int) -> None:
    network = awake(UNet(1, 1, 8, **topology, blocks=blocks))
    x, t = torch.randn(1, 1, 5, 7, 3), torch.rand(1)
    for depth in range(1, len(network.decoder) + 1):
        cache, full = kept_pass(network, depth, x, t)
        assert torch.equal(full, network(x, t))
        for _ in range(2):  # a shallow pass leaves what is kept as it was
            assert torch.equal(network(x, t, cache), full)


@pytest.mark.parametrize("depth", range(1, 7))
@torch.no_grad()
def test_a_shallow_pass_sees_the_new_input_and_time_and_runs_what_it_must_alone(depth: int) -> None:
    network, x = awake(UNet(1, 1, 8, **FLAT, blocks=2)), torch.randn(1, 1, 5, 6, 6)
    cache, full = kept_pass(network, depth, x, torch.tensor([0.9]))
    kept, ran = cache.kept, set[str]()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _m, _i, _o, name=name: ran.add(name))
    later = network(x, torch.tensor([0.1]), cache)
    assert not torch.equal(later, full)
    assert not torch.equal(network(x + 0.1, torch.tensor([0.1]), cache), later)
    assert cache.kept is kept
    for k in range(6):
        assert (f"encoder.{k}" in ran) == (k < depth - 1)
        assert (f"decoder.{k}.second" in ran) == (f"downs.{k}" in ran) == (k < depth)
        assert (f"decoder.{k}.first.0" in ran) == (f"decoder.{k}.shortcut.0" in ran) == (k < depth - 1)


@torch.no_grad()
def test_a_stale_cache_is_filled_anew() -> None:
    network, x, t = awake(UNet(1, 1, 8, **SMALL)), torch.randn(1, 1, 4, 4, 4), torch.tensor([0.5])
    cache, _ = kept_pass(network, 2, torch.randn(1, 1, 4, 4, 4), t)
    cache.stale = True
    assert torch.equal(network(x, t, cache), network(x, t))
    assert torch.equal(network(x, t, cache), network(x, t))


@pytest.mark.parametrize("recompute", ["norms", "blocks"])
@pytest.mark.parametrize("bf16", [False, True])
def test_recomputing_changes_no_bit(recompute: str, bf16: bool) -> None:
    plain, thrifty = awake(UNet(2, 1, 8, **SMALL)), UNet(2, 1, 8, **SMALL, recompute=recompute)
    thrifty.load_state_dict(plain.state_dict())
    x, t = torch.randn(2, 2, 4, 4, 4), torch.rand(2)
    (a, grads_a), (b, grads_b) = (_pass(network, x, t, bf16) for network in (plain, thrifty))
    assert torch.equal(a, b)
    assert all(torch.equal(p, q) for p, q in zip(grads_a, grads_b, strict=True))
    assert all(grad.any() for grad in grads_a)


def _pass(network: nn.Module, x: Tensor, t: Tensor, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = network(x, t)
    out.float().square().sum().backward()
    return out.detach(), [weight.grad for weight in network.parameters()]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"multipliers": (1, 2, 4)}, "3 multipliers, 2 kernels, 2 strides"),
        ({"strides": (TWO, TWO)}, r"strides\[0\] = \(1, 1, 1\)"),
        ({"kernels": ((3, 3, 3), (2, 3, 3))}, "odd"),
        ({"recompute": "norm"}, "did you mean 'norms'"),
    ],
)
def test_a_wrong_topology_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(NndiffError, match=says):
        UNet(1, 1, 8, **(SMALL | wrong))
