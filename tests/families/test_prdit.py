"""The ladder of a transformer over tokens, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.networks.prdit import PRDiT
from nndiff.families import search, tokens
from nndiff.planning.planner import plan
from nndiff.words.errors import NndiffError
from tests.laws.test_planner_laws import shapes, spacings
from tests.planning.fingerprints import GOLDEN, budget
from tests.training.tiny import tiny_plan


@given(shapes, spacings, st.booleans(), st.sampled_from(["cuda", "cpu", "mps"]))
def test_every_rung_has_few_enough_tokens_and_the_finest_blocks_with_which_it_does(
    shape, spacing, tiled, device
) -> None:
    most = tokens.MOST_TOKENS[device]
    rungs = list(tokens.ladder(shape, spacing, tiled, device))
    assert len(set(rungs)) == len(rungs)
    for rung in rungs:
        assert tokens.count(rung.patch_size, rung.block) <= most
        extents = [b * s for b, s in zip(rung.block, rung.spacing, strict=True)]
        assert max(extents) / min(extents) <= max(2.0, max(rung.spacing) / min(extents)) * 1.001
        blocks = [tokens.block_of(size, rung.spacing) for size in tokens.BLOCKS]
        finer = blocks[: blocks.index(rung.block)]
        assert all(tokens.count(rung.patch_size, block) > most for block in finer)
        assert max(rung.block) <= (tokens.LARGEST_TILED[device] if tiled else max(tokens.BLOCKS))
    order = [(-math.prod(rung.patch_size), -rung.width, -rung.batch_size, rung.recompute != "none") for rung in rungs]
    assert order == sorted(order)


@given(spacings, st.sampled_from(tokens.BLOCKS))
def test_a_block_is_so_many_of_the_finest_voxels_and_about_as_long_along_every_axis(spacing, size) -> None:
    for b, s in zip(tokens.block_of(size, spacing), spacing, strict=True):
        extent = size * min(spacing)
        assert extent / 1.42 < b * s < extent * 1.42 or (b == 1 and s > extent)


def test_blocks_cover_the_volume_and_a_token_sees_a_quarter_more_on_every_side() -> None:
    assert tokens.count((9, 8, 1), (4, 4, 4)) == 3 * 2 * 1
    assert [tokens.patch_of((b, b, b))[0] for b in (1, 2, 4, 8, 16)] == [1, 4, 6, 12, 24]


def test_what_stands_beside_the_network_taken_is_a_larger_block_and_the_other_way_to_save() -> None:
    rung, asked = next(tokens.ladder((64, 64, 64), (1.0, 1.0, 1.0), True, "cuda")), []

    def build(changed):  # type: ignore[no-untyped-def]
        asked.append(changed)
        return tokens.network(changed, 2, 2)

    sized = search.Sized(rung, tokens.network(rung, 2, 2), tiny_cost())
    tokens.reasons(sized, (64, 64, 64), build, lambda *_: tiny_cost(), search.Limits(1, 1, 1, int))
    again = replace(rung, recompute="blocks")
    assert asked == [replace(rung, batch_size=2 * rung.batch_size), replace(rung, block=(8, 8, 8)), again]


@pytest.mark.parametrize("block", [(2, 2, 2), (4, 8, 8), (1, 16, 16)])
def test_a_token_of_any_block_is_one_that_the_network_takes(block) -> None:
    PRDiT(1, 1, 12, 1, tokens.patch_of(block), block)


@given(shapes, spacings)
def test_half_the_resolution_has_as_many_tokens_over_the_same_extent(shape, spacing) -> None:
    rung = next(tokens.ladder(shape, spacing, True, "cuda"))
    half = tokens.halved(rung)
    for n, b, s, n_half, b_half, s_half in zip(
        rung.patch_size, rung.block, rung.spacing, half.patch_size, half.block, half.spacing, strict=True
    ):
        assert -(-n // b) == -(-n_half // b_half)
        assert b * s == pytest.approx(b_half * s_half)
    assert (half.width, half.depth) == (rung.width, rung.depth)


def test_the_coarse_plan_is_the_fine_ones_transformer() -> None:
    planned = plan(GOLDEN["sarcoma_crop"], budget(24), ("prdit", "prdit_lowres"), predict=lambda *_: tiny_cost())
    fine, coarse = (planned.configurations[name] for name in ("prdit", "prdit_lowres"))
    assert (fine.network.width, fine.network.blocks) == (coarse.network.width, coarse.network.blocks)
    assert coarse.spacing == tuple(2 * s for s in fine.spacing)
    assert coarse.network.strides[0] == tuple(b // 2 for b in fine.network.strides[0])
    assert fine.network.kernels[0] == tokens.patch_of(fine.network.strides[0])
    assert fine.network.answers == 2 == fine.network.out_channels
    assert [stage.trains for stage in fine.stages] == ["core.local", "core.whole"]


def tiny_cost():  # type: ignore[no-untyped-def]
    from nndiff.resources.memory import Cost

    return Cost(10**6, 10**9)


def test_too_many_tokens_are_refused_with_their_number() -> None:
    spec = replace(tiny_plan(("prdit",)).configurations["prdit"].network, strides=((2, 2, 2),))
    tokens.demand_countable((64, 64, 64), spec)
    with pytest.raises(NndiffError, match="65536: 128 x 64 x 64 voxels in blocks of 2 x 2 x 2"):
        tokens.demand_countable((128, 64, 64), spec)


def test_too_many_tokens_by_hand_end_the_planning() -> None:
    by_hand = {"configurations.prdit.network.strides": [[1, 1, 1]], "configurations.prdit.network.kernels": [[1, 1, 1]]}
    with pytest.raises(NndiffError, match="too many tokens"):
        plan(GOLDEN["brain_mr"], budget(24), ("prdit",), by_hand, predict=lambda *_: tiny_cost())
