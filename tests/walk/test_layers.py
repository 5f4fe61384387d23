"""Tests of the mean over shifts of the puzzle's grid: a pattern of the grid cancels, everything else is preserved."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nndiff.networks.puzzle import Puzzled
from nndiff.sampling.compose import plain
from nndiff.walk.layers import Shifts, moved, offsets
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

FACTORS: list[Triple] = [(2, 2, 2), (1, 2, 2), (4, 4, 4), (3, 1, 2)]
T = torch.zeros(1)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shifted(network: nn.Module, places: int, factor: Triple, x: Tensor, condition: Tensor | None) -> Tensor:
    """The mean answer over so many places of the puzzle's grid."""
    return Shifts(places).around(plain(network), factor)(x, T, condition, ())


class Places(nn.Module):
    """A core that says of every piece the same: a number for each place in it, whatever it sees."""

    def __init__(self, factor: Triple):
        super().__init__()
        self.numbers = volume(factor[0] * factor[1] * factor[2])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.numbers[None, :, None, None, None].expand(x.shape[0], -1, *x.shape[2:])


class Pointwise(nn.Module):
    """Asks no voxel about its neighbours, so it commutes with every shift."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return torch.tanh(x) * condition + t


@pytest.mark.parametrize("factor", FACTORS, ids=str)
def test_along_each_axis_every_place_is_taken_equally_often(factor: Triple) -> None:
    every = offsets(max(factor), factor)
    assert every[0] == (0, 0, 0)
    for axis, r in enumerate(factor):
        counts = Counter(by[axis] for by in every)
        assert set(counts) == set(range(r))
        assert max(counts.values()) - min(counts.values()) <= max(factor) % r


@pytest.mark.parametrize("factor", [*FACTORS, (8, 4, 2), (7, 5, 3)], ids=str)
def test_the_places_are_evenly_spread_within_a_piece(factor: Triple) -> None:
    """Around each axis, where a shift by a whole piece is none, neighbouring places are equally far apart up to one."""
    for places in range(1, max(factor) + 1):
        for axis, r in enumerate(factor):
            taken = sorted(by[axis] for by in offsets(places, factor))
            assert taken[0] == 0
            assert taken[-1] < r
            gaps = [after - before for before, after in pairwise([*taken, r])]
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("shifts", [0, 3])
def test_more_shifts_than_places_are_refused(shifts: int) -> None:
    with pytest.raises(NndiffError, match=r"1 to 2, because the puzzle factor is 1 x 2 x 2"):
        offsets(shifts, (1, 2, 2))
    assert offsets(1, (1, 1, 1)) == ((0, 0, 0),)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*(st.integers(1, 7),) * 3), st.sampled_from(FACTORS))
def test_what_commutes_with_shifts_is_left_as_it_is_up_to_the_borders(size: Triple, factor: Triple) -> None:
    x, y = volume(2, 1, *size), volume(2, 1, *size, seed=1)
    answer = shifted(Pointwise(), max(factor), factor, x, y)
    torch.testing.assert_close(answer, Pointwise()(x, T, y))


@pytest.mark.parametrize("factor", FACTORS, ids=str)
def test_a_number_for_each_plane_of_a_piece_becomes_their_mean(factor: Triple) -> None:
    """Planes across each axis in turn; the first voxels, that a shift cuts away, have the unmoved answer."""
    for axis, r in enumerate(factor):
        core = Places(factor)
        planes = volume(r).reshape([r if i == axis else 1 for i in range(3)]).expand(*factor)
        core.numbers = planes.flatten()
        network = Puzzled(core, factor, factor, None)
        size = [6 * f for f in factor]
        plain = network(volume(1, 1, *size), T)
        answer = shifted(network, max(factor), factor, volume(1, 1, *size), None)
        inside = answer[:, :, factor[0] :, factor[1] :, factor[2] :]
        flat = planes.mean().expand_as(inside) if max(factor) % r == 0 else inside
        torch.testing.assert_close(inside, flat)
        if r > 1:
            assert plain.std() > 0.1
            assert torch.equal(answer[:, :, 0, 0, 0], plain[:, :, 0, 0, 0])


@pytest.mark.parametrize("places", [1, 3])
def test_every_place_asks_the_network_once_and_says_where(places: int) -> None:
    asked: list[tuple[int, ...]] = []

    def network(x_t: Tensor, t: Tensor, condition: Tensor | None, where: tuple[int, ...]) -> Tensor:
        asked.append(where)
        return x_t

    Shifts(places).around(network, (4, 4, 4))(volume(1, 1, 8, 8, 8), T, None, (5, 7))
    assert asked == [(5, 7, place) for place in range(places)]
    assert Shifts(places).passes == places


def test_one_shift_is_the_network_itself() -> None:
    network = Puzzled(Places((2, 2, 2)), (2, 2, 2), (2, 2, 2), None)
    x = volume(1, 1, 4, 5, 6)
    assert torch.equal(shifted(network, 1, (2, 2, 2), x, None), network(x, T))


def test_a_move_cuts_the_near_border_and_repeats_the_far_one() -> None:
    x = torch.arange(4.0).reshape(1, 1, 1, 1, 4)
    assert moved(x, (0, 0, 3)).flatten().tolist() == [3, 3, 3, 3]
    assert moved(x, (0, 0, 1)).flatten().tolist() == [1, 2, 3, 3]
    assert moved(x, (0, 0, 0)) is x
