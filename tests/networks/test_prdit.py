"""Tests of the transformer: tokens tile the volume exactly, the local part only sees its patch, the global part starts
at zero and sees the whole volume.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nndiff.networks.prdit import HIGHEST, LOGIT, Block, Gated, PRDiT, fold, positions, unfold
from nndiff.words.errors import NndiffError

strides = st.tuples(*(st.sampled_from([1, 2, 4]),) * 3)
grids = st.tuples(*(st.integers(2, 3),) * 3)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(depth: int = 2, recompute: str = "none", seed: int = 0, **changes) -> PRDiT:
    torch.manual_seed(seed)
    words = {"in_channels": 2, "out_channels": 1, "width": 24, "patch": (6, 6, 4), "stride": (4, 4, 2)} | changes
    return PRDiT(depth=depth, recompute=recompute, **words)


def stirred(model: PRDiT) -> PRDiT:
    """Nothing at zero any more, as after some training."""
    for i, weight in enumerate(model.parameters()):
        if not weight.any():
            weight.data = 0.05 * volume(*weight.shape, seed=i)
    return model


X, T = volume(2, 2, 12, 8, 8), torch.tensor([0.3, 0.8])


@settings(max_examples=25, deadline=None)
@given(strides, grids, st.booleans(), st.integers(1, 2))
def test_folding_the_inner_blocks_of_the_tokens_is_the_identity(stride, grid, overlap, channels) -> None:
    margin = [int(overlap and s > 1) for s in stride]
    patch = tuple(s + 2 * m for s, m in zip(stride, margin, strict=True))
    x = volume(2, channels, *(s * n for s, n in zip(stride, grid, strict=True)))
    tokens = unfold(x, patch, stride)
    assert tokens.shape == (2, *grid, channels * prod(patch))
    inner = tokens.unflatten(-1, (channels, *patch))
    for axis, (m, s) in enumerate(zip(margin, stride, strict=True)):
        inner = inner.narrow(5 + axis, m, s)
    assert torch.equal(fold(inner.flatten(4), stride), x)


def test_a_token_is_its_block_and_what_surrounds_it_mirrored_at_the_border() -> None:
    x = torch.arange(8.0).reshape(1, 1, 8, 1, 1)
    tokens = unfold(x, (6, 1, 1), (4, 1, 1))
    assert tokens[0, :, 0, 0].tolist() == [[1, 0, 1, 2, 3, 4], [3, 4, 5, 6, 7, 6]]


def test_the_whole_part_starts_at_nothing_and_is_not_run_while_it_is_frozen() -> None:
    model = stirred(network())
    torch.nn.init.zeros_(model.whole.head.weight)
    torch.nn.init.zeros_(model.whole.head.bias)
    answer = model(X, T)
    model.whole.requires_grad_(False)
    model.whole.forward = None  # whoever runs it fails
    assert torch.equal(model(X, T), answer)
    local = fold(model.local(unfold(X, model.patch, model.stride), T), model.stride) + model.local.voxels(X, T)
    assert torch.equal(answer, local)


def test_at_the_start_it_answers_nothing_and_yet_learns() -> None:
    model = network()
    answer = model(X, T)
    assert not answer.any()
    (answer - 1).square().mean().backward()
    assert model.local.head.weight.grad.any()
    assert model.whole.head.weight.grad.any()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_the_local_part_sees_its_own_patch_and_the_whole_part_everything(whole, bounded) -> None:
    model = stirred(network(bounded=bounded))
    model.whole.requires_grad_(whole)
    x = X.clone().requires_grad_()
    model(x, T)[:, :, 4:8, :4, 2:4].sum().backward()  # one block
    reach = torch.zeros(x.shape, dtype=torch.bool)
    reach[:, :, 3:9, :5, 1:5] = True
    outside = x.grad[~reach]
    assert outside.any() if whole else not outside.any()
    assert x.grad[reach].all()


def test_where_tokens_have_no_margin_the_denoiser_of_voxels_has_no_reach() -> None:
    model = stirred(network(depth=0, patch=(6, 4, 2), stride=(4, 4, 2)))
    x = X.clone().requires_grad_()
    model(x, T)[:, :, 4:8, :4, 2:4].sum().backward()
    reach = torch.zeros(x.shape, dtype=torch.bool)
    reach[:, :, 3:9, :4, 2:4] = True
    assert not x.grad[~reach].any()
    assert x.grad[reach].all()


@pytest.mark.parametrize(("side", "sees"), [(8, True), (12, False)])
def test_a_wide_token_shows_the_local_mlps_no_first_estimate_and_the_denoiser_of_voxels_does(side, sees) -> None:
    """12³ voxels of two channels are more than the 2048 numbers up to which tokens are wide enough for both."""
    model = stirred(network(depth=0, patch=(side,) * 3, stride=(8,) * 3, known=1))
    tokens = unfold(volume(1, 2, 16, 8, 16), model.patch, model.stride)
    assert model.local.head.in_features == side**3 * (2 if sees else 1)
    assert model.local(tokens[..., : model.seen], T[:1]).shape[-1] == 8**3
    x = volume(1, 2, 16, 8, 16).requires_grad_()
    model(x, T[:1]).sum().backward()
    assert x.grad[:, 1].any()


def test_its_health_is_that_of_tokens_that_differ_and_channels_that_speak() -> None:
    model = stirred(network())
    healthy = model.whole.signs(lambda: model(X, T))
    assert healthy["token_spread"] > 0.1
    assert healthy["dead"] < 0.2
    for block in model.whole.blocks:
        block.mlp[0].bias.data[:72] = -1e3  # of 96 hidden channels
    model.whole.norm.weight.data.zero_()
    model.whole.norm.bias.data[0] = 1e4  # as in a transformer that a few channels have drowned
    sick = model.whole.signs(lambda: model(X, T))
    assert sick["token_spread"] < 1e-2
    assert sick["dead"] == pytest.approx(0.75, abs=0.1)
    assert not model.whole.last._forward_hooks


def test_the_time_and_every_block_count() -> None:
    model = stirred(network())
    answer = model(X, T)
    assert not torch.allclose(model(X, T + 0.1), answer)
    for block in model.whole.blocks:
        kept = block.leave.weight.data.clone()
        block.leave.weight.data.zero_()
        assert not torch.allclose(model(X, T), answer)
        block.leave.weight.data = kept


@pytest.mark.parametrize("depth", [0, 2])
def test_what_is_computed_twice_gives_the_same(depth) -> None:
    plain, again = stirred(network(depth)), stirred(network(depth, "blocks"))
    answers, gradients = [], []
    for model in (plain, again):
        answer = model(X, T)
        answer.square().mean().backward()
        answers.append(answer)
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*answers)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_every_token_has_its_own_code_whatever_the_grid() -> None:
    for grid in ((16, 16, 16), (10, 10, 10), (3, 9, 4)):
        rows = positions(grid, 48, X.device).flatten(0, 2)
        assert (torch.cdist(rows, rows) + 9 * torch.eye(len(rows))).min() > 0.05
    assert positions((2, 3, 4), 50, X.device).shape == (2, 3, 4, 50)


@pytest.mark.parametrize(("n", "highest", "expected"), [(10, None, 10), (16, None, 16), (4000, HIGHEST, HIGHEST)])
def test_along_an_axis_the_codes_turn_from_half_a_turn_to_the_nyquist_frequency(n, highest, expected) -> None:
    """n half turns over n blocks: neighbours differ in sign, and no wave turns faster than blocks can show."""
    codes = positions((n, 1, 1), 12, X.device, highest)[:, 0, 0]
    sines, cosines = codes[:, :2], codes[:, 2:4]
    torch.testing.assert_close(sines**2 + cosines**2, torch.ones(n, 2))
    assert (cosines[1:, 0].sign() != cosines[:-1, 0].sign()).sum() == 1
    turned = sines[:, 1] if highest is None else cosines[:, 1]
    assert (turned[1:].sign() != turned[:-1].sign()).sum() == (n - 1 if highest is None else expected)


def test_the_whole_part_knows_where_a_block_lies() -> None:
    """Of a volume that is the same everywhere it says something else in every place."""
    model = stirred(network())
    answers = model.whole(torch.ones(1, 2, 3, 2, 2 * 6 * 6 * 4), T[:1]).flatten(0, 3)
    assert torch.pdist(answers).min() > 1e-3


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_a_whole_part_that_was_trained_speaks_where_it_is_frozen(trained) -> None:
    model, other = stirred(network()), network(seed=1)
    torch.nn.init.zeros_(getattr(model.whole.head, "bias" if trained == "weight" else "weight"))
    other.load_state_dict(model.state_dict())
    other.requires_grad_(False)
    assert torch.equal(other(X, T), model(X, T))
    assert not torch.equal(other(X, T), fold(other.local(unfold(X, other.patch, other.stride), T), other.stride))


def test_every_64_channels_attend_by_themselves() -> None:
    block, h = Block(192, bounded=False), volume(2, 5, 192)
    theirs = torch.nn.MultiheadAttention(192, 3, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj = block.enter.weight, block.enter.bias, block.leave
    torch.testing.assert_close(block._attended(h), theirs(h, h, h, need_weights=False)[0], rtol=1e-4, atol=1e-5)


def test_attention_looks_at_directions_alone_and_is_never_one_hot(monkeypatch) -> None:
    """However large queries and keys grow, no logit leaves ±8, so every token is looked at by at least e^-16."""
    torch.manual_seed(0)
    seen = []
    block, h = Block(192), volume(2, 5, 192)
    block.enter.bias.data.zero_()
    own = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, scale: seen.append(scale * q @ k.mT) or own(q, k, v, scale=scale),
    )
    before = block._attended(h)
    block.enter.weight.data[: 2 * 192] *= 1000
    torch.testing.assert_close(block._attended(h), before, rtol=1e-3, atol=1e-4)
    assert seen[0].std() > 0.5
    for logits in seen:
        assert logits.abs().max() <= LOGIT * 1.0001


def test_the_residual_stream_is_bounded_whatever_the_weights_have_become() -> None:
    """rms(h) grows by at most 2 per block, one per branch."""
    torch.manual_seed(0)
    h, time = volume(2, 7, 24), volume(2, 24)
    for weight_scale in (1.0, 1e3):
        block = Block(24)
        for weight in block.parameters():
            weight.data = weight_scale * torch.randn_like(weight)
        grown = block(h, time).square().mean(-1).sqrt() - h.square().mean(-1).sqrt()
        assert grown.max() <= 2.001
        assert grown.max() > 0.1, "and it does grow"


@pytest.mark.parametrize(("gate", "opened", "other"), [(2, "leave", "mlp"), (5, "mlp", "leave")])
def test_each_half_of_a_block_has_its_own_gate(gate, opened, other) -> None:
    torch.manual_seed(0)
    block, h, time = Block(24), volume(2, 5, 24), volume(2, 24)
    assert torch.equal(block(h, time), h), "both begin shut"
    block.film.bias.data[24 * gate : 24 * (gate + 1)] = 1
    answer = block(h, time)
    for half in (other, opened):
        for weight in getattr(block, half).parameters():
            torch.nn.init.zeros_(weight)
        assert torch.equal(block(h, time), answer if half == other else h)


def test_what_a_gated_layer_adds_is_blind_to_a_tokens_level_and_scale_and_nothing_where_its_gate_is_shut() -> None:
    torch.manual_seed(0)
    layer, x, time = Gated(36, 36, 24), volume(2, 5, 36), volume(2, 24)
    added = layer(x, time) - x
    assert added.abs().mean() > 0.01
    torch.testing.assert_close(layer(3 * x + 5, time) - (3 * x + 5), added, rtol=1e-3, atol=1e-4)
    layer.enter.bias.data[:36], layer.leave.bias.data[:] = -1000, 0
    assert torch.equal(layer(x, time), x)


def test_however_large_the_tokens_have_grown_the_answer_is_the_same() -> None:
    class Grown(torch.nn.Module):
        def forward(self, h: Tensor, _: Tensor) -> Tensor:
            return 3 * h + 5

    model = stirred(network())
    tokens, answers = unfold(X, model.patch, model.stride), []
    for blocks in ([], [Grown()]):
        model.whole.blocks = torch.nn.ModuleList(blocks)
        answers.append(model.whole(tokens, T))
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("part", ["local", "whole"])
def test_what_is_computed_twice_is_not_kept(part) -> None:
    kept = {}
    for recompute in ("none", "blocks"):
        model, sizes = network(4, recompute), []
        tokens = unfold(X, model.patch, model.stride)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):  # noqa: B023
            getattr(model, part)(tokens, T)
        kept[recompute] = sum(sizes)
    assert kept["blocks"] < 0.7 * kept["none"]


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": (5, 6, 4)},
        {"patch": (2, 6, 4)},
        {"patch": (12, 6, 4)},
        {"width": 4},
        {"width": 200},
        {"recompute": "norms"},
    ],
)
def test_what_cannot_be_is_refused_in_words(changes) -> None:
    with pytest.raises(NndiffError) as refusal:
        network(**changes)
    assert refusal.value.expected


def test_in_bf16_it_says_nearly_the_same_and_learns() -> None:
    model = stirred(network())
    with torch.autocast("cpu", torch.bfloat16):
        answer = model(X, T)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), model(X, T), rtol=0.05, atol=0.05)
    answer.float().square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
