"""Laws of the puzzle: a permutation by one formula, exactly invertible, that keeps norm and noise and commutes with
sampling.
"""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nndiff.networks.puzzle import Puzzled, haar, puzzle, unpuzzle
from nndiff.networks.unet import UNet

factors = st.tuples(*(st.sampled_from([1, 2, 3, 4]),) * 3)
sizes = st.tuples(*(st.integers(1, 3),) * 3)
quick = settings(max_examples=25, deadline=None)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(factors, sizes, st.integers(1, 2), st.integers(1, 3), st.booleans())
def test_inverse_is_exact_and_norm_is_kept(r: tuple, n: tuple, batch: int, channels: int, last: bool) -> None:
    x = volume(batch, channels, *(a * b for a, b in zip(r, n, strict=True)))
    if last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    pieces = puzzle(x, r)
    assert pieces.shape == (batch, channels * prod(r), *n)
    assert pieces.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(unpuzzle(pieces, r), x)
    assert torch.equal(pieces.flatten().sort().values, x.flatten().sort().values)


@pytest.mark.parametrize("r", [(2, 2, 2), (1, 2, 3), (3, 1, 2)])
def test_the_formula_holds_element_by_element(r: tuple) -> None:
    n, channels = (2, 3, 2), 2
    x = torch.arange(channels * prod(n) * prod(r), dtype=torch.float32)
    x = x.reshape(1, channels, *(a * b for a, b in zip(n, r, strict=True)))
    pieces = puzzle(x, r)
    for c, i, j, k in product(range(channels), *map(range, r)):
        row = ((c * r[0] + i) * r[1] + j) * r[2] + k
        for z, y, w in product(*map(range, n)):
            assert pieces[0, row, z, y, w] == x[0, c, z * r[0] + i, y * r[1] + j, w * r[2] + k]


@pytest.mark.parametrize("mix", [False, True])
def test_white_noise_stays_white(mix: bool) -> None:
    pieces = puzzle(volume(1, 1, 64, 64, 64), (2, 2, 2))
    rows = (haar(pieces, (2, 2, 2)) if mix else pieces)[0].flatten(1)  # [8, 32768]
    error = 5 / rows.shape[1] ** 0.5  # five standard errors of a correlation
    assert (torch.cov(rows) - torch.eye(8)).abs().max() < 1.5 * error  # a variance errs by sqrt(2) more
    assert abs(torch.corrcoef(torch.stack([rows[0, 1:], rows[0, :-1]]))[0, 1]) < error
    assert abs((rows**4).mean() - 3) < 0.1


halves = st.sampled_from([(2, 2, 2), (1, 2, 2), (2, 1, 1)])


@quick
@given(sizes, st.integers(1, 3), halves)
def test_haar_is_orthogonal_and_its_own_inverse(n: tuple, channels: int, r: tuple) -> None:
    x = volume(2, prod(r) * channels, *n)
    torch.testing.assert_close(haar(haar(x, r), r), x)
    torch.testing.assert_close(haar(x, r).square().sum((1,)), x.square().sum((1,)))


@pytest.mark.parametrize("r", [(2, 2, 2), (1, 2, 2), (2, 1, 1)])
def test_haar_gathers_a_constant_in_its_first_channel(r: tuple) -> None:
    mixed = haar(puzzle(torch.ones(1, 2, 4, 4, 4), r), r)
    expected = torch.zeros(2 * prod(r))
    expected[[0, prod(r)]] = prod(r) ** 0.5
    torch.testing.assert_close(mixed[0, :, 0, 0, 0], expected)


@pytest.mark.parametrize(("axis", "channel"), [(2, 2), (3, 1)])  # of four: along y the third, along x the second
def test_haar_tells_the_axes_apart(axis: int, channel: int) -> None:
    """A sign that changes from slice to slice along one axis is all in that axis's band."""
    x = torch.ones(1, 1, 1, 4, 4)
    x.movedim(axis + 1, 0)[1::2] *= -1
    mixed = haar(puzzle(x, (1, 2, 2)), (1, 2, 2))
    assert [bool(band.any()) for band in mixed[0]] == [k == channel for k in range(4)]
    assert torch.allclose(mixed[0, channel].abs(), torch.full((1, 2, 2), 2.0))


@quick
@given(factors, st.floats(0, 1), st.floats(0, 1))
def test_it_commutes_with_sampling(r: tuple, a: float, sigma: float) -> None:
    x0, eps = volume(2, 1, *(2 * n for n in r)), volume(2, 1, *(2 * n for n in r), seed=1)
    assert torch.equal(puzzle(a * x0 + sigma * eps, r), a * puzzle(x0, r) + sigma * puzzle(eps, r))


class Same(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


@quick
@given(factors, st.tuples(*(st.integers(1, 9),) * 3), st.sampled_from([1, 2, 4]))
def test_an_identity_core_gives_back_a_volume_of_any_size(r: tuple, n: tuple, stride: int) -> None:
    x = volume(1, 2, *n)
    multiple = tuple(stride * f for f in r)
    assert torch.equal(Puzzled(Same(), r, multiple, None)(x, torch.zeros(1)), x)  # type: ignore[arg-type]
    if set(r) <= {1, 2}:
        mixed = Puzzled(Same(), r, multiple, None, haar=True)(x, torch.zeros(1))  # type: ignore[arg-type]
        torch.testing.assert_close(mixed, x)


@settings(max_examples=8, deadline=None)
@given(st.tuples(*(st.integers(1, 11),) * 3), st.sampled_from([(2, 2, 2), (1, 2, 2), (1, 1, 1)]))
def test_a_unet_core_answers_at_any_size(n: tuple, r: tuple) -> None:
    c = prod(r)
    core = UNet(2 * c, c, 4, (1, 1), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), blocks=1)
    network = Puzzled(core, r, tuple(2 * f for f in r), None)  # type: ignore[arg-type]
    assert network(volume(1, 1, *n), torch.rand(1), volume(1, 1, *n)).shape == (1, 1, *n)
