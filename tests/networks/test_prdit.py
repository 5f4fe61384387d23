"""Tokens tile the volume exactly; the local part is blind; the whole part starts at zero and sees everything."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nndiff.errors import NndiffError
from nndiff.networks.prdit import PRDiT, fold, positions, unfold

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
    assert torch.equal(answer, fold(model.local(unfold(X, model.patch, model.stride), T), model.stride))


def test_at_the_start_it_answers_nothing_and_yet_learns() -> None:
    model = network()
    answer = model(X, T)
    assert not answer.any()
    (answer - 1).square().mean().backward()
    assert model.local.head.weight.grad.any()
    assert model.whole.head.weight.grad.any()


@pytest.mark.parametrize("whole", [False, True])
def test_the_local_part_sees_its_own_patch_and_the_whole_part_everything(whole) -> None:
    model = stirred(network())
    model.whole.requires_grad_(whole)
    x = X.clone().requires_grad_()
    model(x, T)[:, :, 4:8, :4, 2:4].sum().backward()  # one block
    reach = torch.zeros(x.shape, dtype=torch.bool)
    reach[:, :, 3:9, :5, 1:5] = True
    outside = x.grad[~reach]
    assert outside.any() if whole else not outside.any()
    assert x.grad[reach].all()


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


def test_a_place_has_one_code_however_fine_the_grid_and_every_token_its_own() -> None:
    fine, thick = positions((9, 4, 4), 48, X.device), positions((3, 4, 4), 48, X.device)
    torch.testing.assert_close(fine[1::3], thick, rtol=1e-5, atol=1e-5)
    rows = positions((16, 16, 16), 48, X.device).flatten(0, 2)
    assert torch.cdist(rows[::37], rows).add(torch.eye(len(rows))[::37] * 9).min() > 0.05
    assert positions((2, 3, 4), 50, X.device).shape == (2, 3, 4, 50)


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
