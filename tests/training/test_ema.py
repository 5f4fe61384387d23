"""Tests of the averaged weights against their closed form, and of their use in a network and restoration afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nndiff.training.ema import EMA


def one_weight(value: float) -> nn.Module:
    network = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    return set_to(network, value)


def set_to(network: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(value)
    return network


def value_of(ema: EMA) -> float:
    return float(ema.values["weight"])


def decay(half_life: int, step: int) -> float:
    return min(0.5 ** (1 / half_life), (1 + step) / (10 + step))


@pytest.mark.parametrize("half_life", [1, 7, 1000])
def test_it_is_the_weighted_sum_of_all_that_it_saw(half_life) -> None:
    """e_n = e_0·Π d + Σ w_k·(1 - d_k)·Π_{j>k} d_j."""
    network = one_weight(3.0)
    ema = EMA(network, half_life)
    seen = torch.linspace(-1, 2, 30, dtype=torch.float64).tolist()
    for k, value in enumerate(seen, start=1):
        ema.update(set_to(network, value), k)
    shares, kept = [], 1.0
    for k in reversed(range(1, 31)):
        shares.append((1 - decay(half_life, k)) * kept)
        kept *= decay(half_life, k)
    assert kept + sum(shares) == pytest.approx(1)
    expected = 3.0 * kept + sum(share * value for share, value in zip(reversed(shares), seen, strict=True))
    assert value_of(ema) == pytest.approx(expected)


def test_after_a_half_life_half_is_forgotten() -> None:
    network = one_weight(1.0)
    ema = EMA(network, 50)
    for step in range(10_000, 10_050):  # late: the short memory of the start is over
        ema.update(set_to(network, 0.0), step)
    assert value_of(ema) == pytest.approx(0.5)


def test_the_random_start_is_forgotten_at_once_however_long_the_half_life() -> None:
    network = one_weight(1.0)
    ema = EMA(network, 10**6)
    for step in range(1, 101):
        ema.update(set_to(network, 0.0), step)
    assert value_of(ema) < 1e-6


def test_it_copies_and_never_shares_the_weights() -> None:
    network = one_weight(1.0)
    ema = EMA(network, 10)
    set_to(network, 5.0)
    assert value_of(ema) == 1.0
    ema.restore({"weight": torch.full((1, 1), 9.0, dtype=torch.float64)})
    assert (value_of(ema), float(network.weight.detach())) == (9.0, 5.0)


def test_what_was_restored_from_stays_as_it_was() -> None:
    ema, stored = EMA(one_weight(1.0), 10), {"weight": torch.full((1, 1), 9.0, dtype=torch.float64)}
    ema.restore(stored)
    ema.update(one_weight(0.0), 1)
    assert float(stored["weight"]) == 9.0


@pytest.mark.parametrize("fails", [False, True])
def test_inside_the_network_is_the_mean_and_afterwards_exactly_itself(fails) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.GroupNorm(1, 2)).to(memory_format=torch.channels_last_3d)
    ema = EMA(network, 3)
    set_to(network, 0.3)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    identities = [id(weight) for weight in network.parameters()]
    try:
        with ema.inside(network):
            assert all(torch.equal(value, ema.values[name]) for name, value in network.state_dict().items())
            assert not torch.equal(network.state_dict()["0.weight"], own["0.weight"])
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert [id(weight) for weight in network.parameters()] == identities  # the optimiser's own
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
