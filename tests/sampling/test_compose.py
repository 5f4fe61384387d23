"""Tests of the function that a sampler calls: folds are averaged, tiles merged, and each call has its own cache."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from nndiff.imaging.tiles import Tiling
from nndiff.resources.ghosts import Tracer
from nndiff.sampling.compose import averaged, layered, plain, tiled
from nndiff.walk.caches import Deep
from nndiff.walk.layers import Asks, Shifts, Tiles, Where

CPU = torch.device("cpu")
T = torch.zeros(1)
FACTOR = (2, 2, 2)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Constant(nn.Module):
    """Answers with one number, in bfloat16 where autocast says so."""

    def __init__(self, number: float):
        super().__init__()
        self.linear = nn.Linear(1, 1).requires_grad_(False)
        self.linear.weight.fill_(number)
        self.linear.bias.zero_()

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return self.linear(torch.ones_like(x)[..., None])[..., 0]


class Keeping(nn.Module):
    """Tells which cache it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[object] = []

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None, cache: object) -> Tensor:
        self.given.append(cache)
        cache.kept = x  # type: ignore[attr-defined]
        return x


def noting(asked: list[Where]) -> Asks:
    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
        asked.append(where)
        return x_t

    return ask


def test_a_plain_network_is_the_network() -> None:
    x = volume(1, 1, 3, 4, 5)
    assert torch.equal(plain(Constant(0.7))(x, T, None, (1, 2)), Constant(0.7)(x, T, None))


def test_folds_answer_with_their_mean_and_have_a_number_each() -> None:
    asked: list[Where] = []
    x = volume(1, 1, 3, 4, 5)
    torch.testing.assert_close(averaged([noting(asked)] * 3, "fp32")(x, T, None, (4,)), x)
    assert asked == [(4, 0), (4, 1), (4, 2)]
    answer = averaged([plain(Constant(number)) for number in (1.0, 2.0, 6.0)], "fp32")(x, T, None, ())
    torch.testing.assert_close(answer, torch.full_like(x, 3.0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("folds", [1, 2])
def test_the_mean_over_folds_is_taken_in_float32(precision: str, folds: int) -> None:
    """1 and 1.0078125 are neighbours in bfloat16: their mean lies between the two."""
    numbers = (1.0, 1.0078125)[:folds]
    answer = averaged([plain(Constant(number)) for number in numbers], precision)(volume(1, 1, 2, 2, 2), T, None, ())
    assert answer.dtype == torch.float32
    assert float(answer.max()) == sum(numbers) / folds


@pytest.mark.parametrize("size", [(4, 4, 4), (5, 6, 7), (3, 6, 4)], ids=str)
def test_a_network_that_asks_no_neighbour_is_the_same_in_tiles(size: tuple[int, int, int]) -> None:
    asked: list[Where] = []
    tiling, x = Tiling((5, 6, 7), size, 0.5), volume(1, 1, 5, 6, 7)
    torch.testing.assert_close(tiled(noting(asked), tiling, CPU)(x, T, None), x)
    assert asked == [(tile,) for tile in range(len(tiling))]


def test_tiles_see_their_own_part_of_the_condition() -> None:
    tiling, x, y = Tiling((5, 6, 7), (4, 4, 4), 0.5), volume(1, 1, 5, 6, 7), volume(1, 1, 5, 6, 7, seed=1)
    answer = tiled(lambda x_t, t, condition, where: x_t * condition, tiling, CPU)(x, T, y)
    torch.testing.assert_close(answer, x * y)


def test_every_fold_and_shift_has_a_cache_of_its_own() -> None:
    """And the same one at every step."""
    networks, kept = [Keeping(), Keeping()], Deep(2).begin(CPU)
    x = volume(1, 1, 4, 4, 4)
    layers = (Tiles(), Shifts(2))
    ask = averaged([layered(network, layers, [kept], FACTOR) for network in networks], "fp32")
    for _ in range(2):
        kept.begin(x)
        torch.testing.assert_close(ask(x, T, None, (3,)), x)
        kept.end(x)
    assert list(kept.features) == [(3, 0, 0), (3, 0, 1), (3, 1, 0), (3, 1, 1)]
    assert [len(network.given) for network in networks] == [4, 4]


@pytest.mark.parametrize("folds", [1, 3, 8])
def test_no_output_of_a_fold_is_kept_beside_the_sum(folds: int) -> None:
    """While a network runs, nothing of the folds before it is alive but their sum."""
    outputs, kept = [volume(1, 2, 3, 4, 5, seed=fold) for fold in range(folds)], []
    given: list[weakref.ref[Tensor]] = []

    def network(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
        kept.append(sum(answer() is not None for answer in given))
        answer = outputs[where[-1]].clone()
        given.append(weakref.ref(answer))
        return answer

    mean = averaged([network] * folds, "fp32")(volume(1, 1, 3, 4, 5), T, None, ())
    assert max(kept) <= 1  # the sum over one fold is its output
    torch.testing.assert_close(mean, torch.stack(outputs).double().mean(0).float(), rtol=0, atol=2**-22)


def test_memory_does_not_grow_with_the_folds() -> None:
    """Not by the weights that autocast converts either: it keeps them until it is left."""

    def peak(folds: int) -> int:
        tracer = Tracer("cpu", trains=False)
        with tracer, torch.no_grad():
            networks = [plain(Converted()) for _ in range(folds)]
            weights = tracer.live
            averaged(networks, "bf16")(torch.empty(1, 1, 8, 8, 8), T, None, ())
        return tracer.peak - weights

    assert peak(3) == peak(8)


class Converted(nn.Module):
    """A convolution with large weights, which are converted to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, 9, 9, 9))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return nn.functional.conv3d(x, self.weight, padding=4)
