"""Tests of the caches: which steps are full, and what is kept between them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nndiff.networks.unet import Cache
from nndiff.walk.caches import Deep, Kept, listed_steps
from nndiff.walk.layers import Where

CPU = torch.device("cpu")


PLACES = ((0, 0, 0), (1, 0, 0))  # two tiles of one fold


def walk(plan: Deep, xs: list[float], feature: Any = lambda x: x, measures: bool = False) -> Kept:
    """A walk through volumes that are constants; the network keeps `feature` of what it sees at a full step."""
    kept = plan.begin(CPU, measures)

    def network(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where, cache: Cache) -> Tensor:
        if cache.kept is None or cache.stale:
            cache.kept, cache.stale = feature(x_t), False
        return x_t

    ask = kept.around(network)
    for value in xs:
        x = torch.full((1, 1, 2, 2, 2), value)
        kept.begin(x)
        for where in PLACES:
            ask(x, torch.zeros(1), None, where)
        kept.end(x)
    return kept


@given(st.integers(1, 12), st.integers(1, 30))
def test_every_nth_step_is_full_from_the_first(interval: int, steps: int) -> None:
    assert walk(Deep(interval), [1.0] * steps).full == list(range(0, steps, interval))


@given(st.sets(st.integers(0, 29)))
def test_the_listed_steps_are_full_and_the_first_always(listed: set[int]) -> None:
    plan = Deep(listed=tuple(sorted(listed)))
    assert walk(plan, [1.0] * 30).full == sorted(listed | {0}) if listed else walk(plan, [1.0] * 3).full == [0, 1, 2]


def test_the_measured_changes_are_those_of_the_feature() -> None:
    kept = walk(Deep(), [1.0, 2.0, 2.0, 5.0], feature=lambda x: 3 * x, measures=True)
    assert kept.changes == pytest.approx([0.5, 0.0, 0.6])


def test_the_list_is_full_where_the_changes_since_the_last_add_up() -> None:
    assert listed_steps([0.1, 0.1, 0.1, 0.1], 0.15) == (0, 2, 4)
    assert listed_steps([0.5, 0.01, 0.01, 0.5], 0.4) == (0, 1, 4)
    assert listed_steps([], 0.1) == (0,)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 2))
def test_between_listed_steps_no_more_than_that_has_changed(changes: list[float], most: float) -> None:
    steps = [*listed_steps(changes, most), len(changes) + 1]
    for first, following in pairwise(steps):
        assert sum(changes[first : following - 1]) <= most + 1e-9


def test_a_feature_that_follows_x_is_refreshed_as_x_moves() -> None:
    """f = x, so k = 1 after two full steps; from then on a step is full once x is 20 % from where it was."""
    xs = [1.0, 1.1, 1.12, 1.2, 1.3, 1.5, 1.55, 1.56]
    assert walk(Deep(threshold=0.2), xs).full == [0, 1, 5]


def test_a_feature_that_does_not_move_is_never_refreshed() -> None:
    kept = walk(Deep(threshold=0.01), [1.0, 2.0, 4.0, 8.0], feature=torch.ones_like)
    assert kept.full == [0, 1]


def test_what_is_to_be_replaced_is_let_go_first_unless_it_is_measured() -> None:
    for measures in (False, True):
        kept = walk(Deep(2), [1.0], measures=measures)
        assert set(kept.features) == set(PLACES)
        kept.begin(torch.ones(1))
        assert all(feature.kept is not None for feature in kept.features.values())  # step 1 is shallow
        kept.end(torch.ones(1))
        kept.begin(torch.ones(1))
        assert all((feature.kept is not None) == measures for feature in kept.features.values())
