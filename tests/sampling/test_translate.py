"""Tests of the translation of one volume: tiles, folds, kept features, and the predicted memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nndiff.assemble import build_network
from nndiff.imaging.tiles import Tiling
from nndiff.resources.memory import prediction_cost, reuse_cost, shallow_share
from nndiff.sampling import translate as module
from nndiff.sampling.translate import Arrangement, Model, Pace, arrangements, build_model, kept_bytes, translate
from nndiff.walk.caches import Deep, Kept
from nndiff.walk.layers import Tiles
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple
from tests.networks.test_unet import awake
from tests.prediction.trained import plan_of
from tests.walks import changed, walk_of

CPU = torch.device("cpu")
SHAPE = (12, 10, 14)
WALK = walk_of("shortcut", 300, 6, eta=1.0)
TWO_BLOCKS = {"multipliers": (1, 2), "kernels": ((3, 3, 3),) * 2, "strides": ((1, 1, 1), (2, 2, 2)), "blocks": 2}


def model_of(folds: int = 1, **changes: Any) -> Model:
    plan = plan_of("ddpm", **{"patch_size": (8, 8, 8), **changes})
    configuration = plan.configurations["ddpm"]
    configuration = replace(configuration, network=replace(configuration.network, **TWO_BLOCKS))
    plan = replace(plan, configurations={"ddpm": configuration})
    seeds = [
        awake(build_network(configuration.network, configuration.puzzle_factor), seed).state_dict()
        for seed in range(folds)
    ]
    return build_model(plan, "ddpm", seeds, CPU)


def tiled(size: Triple) -> list[Arrangement]:
    return [Arrangement(Tiling(SHAPE, size, 0.5), CPU, 0)]


def walked(model: Model, sampler: SamplerPlan, size: Triple = SHAPE, **words: Any) -> Tensor:
    source = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    return translate(model, source, SHAPE, sampler, generator, tiled(size), **words)


def reusing(**words: Any) -> SamplerPlan:
    return changed(WALK, reuse=Deep(**words))


# ---------------------------------------------------------------- kept features


@pytest.mark.parametrize("size", [SHAPE, (8, 8, 8)], ids=["whole", "tiled"])
@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("puzzle", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_when_every_step_is_full_keeping_changes_no_bit(size: Triple, folds: int, puzzle: Triple) -> None:
    model = model_of(folds, puzzle_factor=puzzle)
    plain = walked(model, WALK, size)
    for sampler in (reusing(interval=1), reusing(listed=tuple(range(6))), reusing(threshold=1e-12)):
        assert torch.equal(walked(model, sampler, size, on_kept=lambda _: None), plain)


@pytest.mark.parametrize("size", [SHAPE, (8, 8, 8)], ids=["whole", "tiled"])
def test_shifts_keep_features_of_their_own(size: Triple) -> None:
    """Each a cache a tile and fold; when every step is full, keeping changes no bit."""
    model, seen = model_of(2, puzzle_factor=(2, 2, 2)), list[Kept]()
    shifted = changed(WALK, shifts=2)
    plain = walked(model, shifted, size)
    assert not torch.equal(plain, walked(model, WALK, size))
    assert torch.equal(walked(model, shifted, size, on_kept=seen.append), plain)
    every = itertools.product(range(len(Tiling(SHAPE, size, 0.5))), range(2), range(2))
    assert list(seen[0].features) == list(every)
    features = [feature.kept for feature in seen[0].features.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(features) for b in features[:i])


def deaf(network: Any) -> None:
    """What comes up from below D_1 is made a constant: nothing is then lost by keeping it."""
    core = network.core
    with torch.no_grad():
        core.decoder[1].second.conv.weight.zero_()
        for shortcut in core.decoder[1].shortcut:
            shortcut.weight.zero_()


@pytest.mark.parametrize("size", [SHAPE, (8, 8, 8)], ids=["whole", "tiled"])
def test_where_the_kept_feature_is_a_constant_nothing_is_lost_and_else_something_is(size: Triple) -> None:
    model = model_of(2)
    assert not torch.equal(walked(model, reusing(interval=3), size), walked(model, WALK, size))
    for network in model.networks:
        deaf(network)
    torch.testing.assert_close(walked(model, reusing(interval=3), size), walked(model, WALK, size))


def test_each_tile_and_fold_keeps_its_own() -> None:
    seen: list[Kept] = []
    walked(model_of(2), reusing(interval=4), (8, 8, 8), on_kept=seen.append)
    (kept,) = seen
    features = [feature.kept for feature in kept.features.values()]
    assert len(features) == 2 * len(Tiling(SHAPE, (8, 8, 8), 0.5))
    assert all(not torch.equal(a, b) for i, a in enumerate(features) for b in features[:i])


def test_a_draft_is_made_by_the_whole_network_and_leaves_no_feature() -> None:
    seen: list[Kept] = []
    walked(model_of(), changed(reusing(interval=3), start="draft"), on_kept=seen.append)
    assert seen[0].full == [0, 3]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("puzzle", [(1, 1, 1), (1, 2, 2)], ids=str)
def test_the_predicted_bytes_of_a_kept_feature_are_its_bytes(depth: int, puzzle: Triple) -> None:
    seen: list[Kept] = []
    model = model_of(puzzle_factor=puzzle)
    walked(model, reusing(interval=2, depth=depth), (8, 8, 8), on_kept=seen.append)
    for feature in seen[0].features.values():
        assert feature.kept.numel() * feature.kept.element_size() == kept_bytes(model.configuration, (8, 8, 8), depth)


def test_a_volume_is_cut_into_as_few_and_as_small_tiles_as_fit() -> None:
    """Each next arrangement has twice as many along its longest side, and computes little twice."""
    model = model_of(puzzle_factor=(2, 2, 2), patch_size=(64, 64, 40))
    shape = (97, 64, 50)
    options = arrangements(model, shape, 10**12)
    assert options[0].tiling.size == shape, "one tile, although the patch is a little smaller"
    overlap = model.configuration.sampler.part(Tiles).overlap
    for few, more in pairwise(options):
        assert len(few.tiling) < len(more.tiling) <= 2 * len(few.tiling)
        assert more.bytes < few.bytes
        longest = max(few.tiling.size)
        changed = [(a, b) for a, b in zip(few.tiling.size, more.tiling.size, strict=True) if a != b]
        assert [a for a, _ in changed] == [longest]
        assert more.tiling.overlap == overlap
    assert options[-1].tiling.size == (module.SMALLEST_TILE,) * 3
    eight = next(option.tiling for option in options if len(option.tiling) == 8)
    share = 2 / (2 - overlap)  # of an axis: two tiles
    assert 8 * math.prod(eight.size) <= share**3 * math.prod(n + 2 for n in shape)
    for usable in (options[3].bytes, options[3].bytes + 1):
        assert arrangements(model, shape, usable)[0] == options[3]


def test_what_is_much_larger_than_the_patch_has_tiles_of_the_patch() -> None:
    """The norms of a network average over what it sees: in training a patch."""
    patch, shape = (24, 16, 20), (24, 80, 20)
    model = model_of(patch_size=patch)
    assert arrangements(model, shape, 10**12)[0].tiling.size == shape, "five times the voxels are alike"
    sizes = [option.tiling.size for option in arrangements(model, (25, 80, 20), 10**12)]
    assert sizes == [(24, 16, 20), (16, 16, 20), (16, 16, 16)]
    assert arrangements(model, (9, 8, 7), 10**12)[0].tiling.size == (9, 8, 7)


def test_kept_features_count_among_the_bytes_of_an_arrangement() -> None:
    model = model_of(2)
    without, kept = (arrangements(model, SHAPE, 10**9, sampler=sampler) for sampler in (WALK, reusing(interval=3)))
    for plain, keeping in zip(without, kept, strict=True):
        tile = kept_bytes(model.configuration, plain.tiling.size, 1)
        assert keeping.bytes - plain.bytes == 2 * tile * (len(plain.tiling) + 1)


def test_shifts_count_among_the_bytes_of_an_arrangement() -> None:
    model = model_of(puzzle_factor=(2, 2, 2), patch_size=SHAPE)
    kinds = [WALK, changed(WALK, shifts=2), reusing(interval=3), changed(reusing(interval=3), shifts=2)]
    (plain, *_), (shifted, *_), (keeping, *_), (both, *_) = (
        arrangements(model, SHAPE, 10**9, sampler=kind) for kind in kinds
    )
    assert shifted.bytes - plain.bytes == 4 * 12 * 10 * 14 * (
        2 + 2 * 2
    )  # what it sees, moved; two answers of two channels
    assert both.bytes - shifted.bytes == 2 * (keeping.bytes - plain.bytes)


def test_a_shallow_step_does_a_share_of_the_work() -> None:
    """More with every decoder block that is done anew; and the memory of a step falls."""
    levels = {"multipliers": (1, 2, 4), "kernels": ((3, 3, 3),) * 3, "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2))}
    work = model_of(puzzle_factor=(1, 1, 1), patch_size=(16, 16, 16)).configuration.workload("cuda")
    work = replace(work, network=replace(work.network, **levels, width=32, head_width=0))
    whole = prediction_cost(work)
    costs = [reuse_cost(work, depth) for depth in range(1, 7)]
    flops = [cost.flops for cost in costs]
    assert flops == sorted(flops)
    assert 0.10 < flops[0] / whole.flops < 0.15  # published, where all of the last block is done anew: 0.16
    assert [shallow_share(work, depth) for depth in range(1, 7)] == [each / whole.flops for each in flops]
    assert flops[-1] < whole.flops
    assert costs[0].bytes <= whole.bytes


# ---------------------------------------------------------------- memory


def test_predicted_bytes_follow_the_voxels_within_the_slack() -> None:
    work = model_of(puzzle_factor=(2, 2, 2), patch_size=(32, 32, 32)).configuration.workload("cuda")
    work = replace(work, network=replace(work.network, width=16))
    own = prediction_cost(work).bytes
    for tile in ((64, 64, 64), (48, 32, 32), (16, 16, 16), (64, 16, 48)):
        there = prediction_cost(replace(work, patch_size=tile)).bytes
        weights = 4 * sum(w.numel() for w in build_network(work.network, (2, 2, 2)).parameters())
        voxels = torch.tensor(tile).prod().item() / 32**3
        assert there - weights <= module.PROPORTION_SLACK * (own - weights) * voxels


@given(st.integers(1, 9), st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_the_shares_of_a_step_are_never_negative_and_make_one(tiles: int, asked: list[int]) -> None:
    """However often its tiles were asked for: by a layer again, or not at all."""
    for count in asked:
        told: list[float] = []
        pace = Pace(told.append, tiles)
        for _ in range(2):
            for _ in range(count):
                pace.tile()
            pace.step()
        assert min(told) >= 0
        assert sum(told) == pytest.approx(2)
        assert count == 0 or told[0] == pytest.approx(1 / tiles)


def test_a_walk_tells_how_far_it_is_tile_by_tile() -> None:
    model, sampler, told = model_of(), reusing(interval=2), list[float]()
    options = tiled((8, 8, 8))
    translate(model, torch.randn(1, *SHAPE), SHAPE, sampler, torch.Generator(), options, told.append)
    assert sum(told) == pytest.approx(sampler.steps)
    assert max(told) == pytest.approx(1 / len(options[0].tiling))
    assert len(options[0].tiling) > 1


class Greedy(nn.Module):
    """Runs out of memory above a number of voxels."""

    def __init__(self, network: nn.Module, most: int):
        super().__init__()
        self.network, self.most = network, most

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        if x.numel() > self.most:
            raise torch.OutOfMemoryError
        return self.network(x, *rest)


def test_out_of_memory_it_steps_down_and_the_noise_is_the_same() -> None:
    model = model_of()
    options = tiled(SHAPE) + tiled((8, 8, 8))
    greedy = replace(model, networks=(Greedy(model.networks[0], 8**3),))
    source, retreats = torch.randn(1, *SHAPE), []
    sampler = reusing(interval=2)
    stepped = translate(
        greedy, source, SHAPE, sampler, torch.Generator().manual_seed(3), options, on_retreat=retreats.append
    )
    direct = translate(model, source, SHAPE, sampler, torch.Generator().manual_seed(3), options[1:])
    assert retreats == options[1:]
    assert torch.equal(stepped, direct)
    with pytest.raises(NndiffError, match="smallest tiles"):
        translate(
            replace(model, networks=(Greedy(model.networks[0], 1),)),
            source,
            SHAPE,
            sampler,
            torch.Generator(),
            options,
        )
