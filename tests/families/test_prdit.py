"""Tests of the transformer family: its ladder of token sizes, refused sizes, and weights inherited from coarse to fine.

Coarse to fine: the inherited transformer gives the same output for a volume whose voxels are repeated.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nndiff.assemble import build_network
from nndiff.families import search
from nndiff.families.family import Channels
from nndiff.families.prdit import BLOCKS, LARGEST_TILED, MOST_TOKENS, PRDiTSpec, block_of, count, halved, token_of
from nndiff.networks.prdit import PRDiT
from nndiff.planning.planner import plan
from nndiff.resources.memory import Cost
from nndiff.words.errors import NndiffError
from tests.laws.test_planner_laws import shapes, spacings
from tests.planning.fingerprints import GOLDEN, budget
from tests.training.tiny import tiny_plan
from tests.walks import prdit, unet


def tiny_cost(*_: object) -> Cost:
    return Cost(10**6, 10**9)


# ---------------------------------------------------------------- the ladder


@given(shapes, spacings, st.booleans(), st.sampled_from(["cuda", "cpu", "mps"]))
def test_every_rung_has_few_enough_tokens_and_the_finest_blocks_with_which_it_does(
    shape, spacing, tiled, device
) -> None:
    most = MOST_TOKENS[device]
    rungs = list(PRDiTSpec.ladder(shape, spacing, tiled, device))
    assert len(set(rungs)) == len(rungs)
    for rung in rungs:
        assert count(rung.patch_size, rung.block) <= most
        extents = [b * s for b, s in zip(rung.block, rung.spacing, strict=True)]
        assert max(extents) / min(extents) <= max(2.0, max(rung.spacing) / min(extents)) * 1.001
        blocks = [block_of(size, rung.spacing) for size in BLOCKS]
        finer = blocks[: blocks.index(rung.block)]
        assert all(count(rung.patch_size, block) > most for block in finer)
        assert max(rung.block) <= (LARGEST_TILED[device] if tiled else max(BLOCKS))
    order = [(-math.prod(rung.patch_size), -rung.width, -rung.batch_size, rung.recompute != "none") for rung in rungs]
    assert order == sorted(order)


@given(spacings, st.sampled_from(BLOCKS))
def test_a_block_is_so_many_of_the_finest_voxels_and_about_as_long_along_every_axis(spacing, size) -> None:
    for b, s in zip(block_of(size, spacing), spacing, strict=True):
        extent = size * min(spacing)
        assert extent / 1.42 < b * s < extent * 1.42 or (b == 1 and s > extent)


def test_blocks_cover_the_volume_and_a_token_sees_a_quarter_more_on_every_side() -> None:
    assert count((9, 8, 1), (4, 4, 4)) == 3 * 2 * 1
    assert [token_of((b, b, b))[0] for b in (1, 2, 4, 8, 16)] == [1, 4, 6, 12, 24]


def test_what_stands_beside_the_network_taken_is_a_larger_block_and_the_other_way_to_save() -> None:
    rung, asked = next(PRDiTSpec.ladder((64, 64, 64), (1.0, 1.0, 1.0), True, "cuda")), []

    def build(changed):  # type: ignore[no-untyped-def]
        asked.append(changed)
        return PRDiTSpec.on(changed, Channels(2, 2))

    taken = PRDiTSpec.on(rung, Channels(2, 2))
    explain = search.Reasons(rung, build, tiny_cost, search.Limits(1, 1, 1, 1, int)).verdict
    taken.reasons(rung, (64, 64, 64), "cuda", "it fits", explain)
    again = replace(rung, recompute="blocks")
    assert asked == [replace(rung, batch_size=2 * rung.batch_size), replace(rung, block=(8, 8, 8)), again]


@pytest.mark.parametrize("block", [(2, 2, 2), (4, 8, 8), (1, 16, 16)])
def test_a_token_of_any_block_is_one_that_the_network_takes(block) -> None:
    PRDiT(1, 1, 12, 1, token_of(block), block)


@given(shapes, spacings)
def test_half_the_resolution_has_as_many_tokens_over_the_same_extent(shape, spacing) -> None:
    rung = next(PRDiTSpec.ladder(shape, spacing, True, "cuda"))
    half = halved(rung)
    for n, b, s, n_half, b_half, s_half in zip(
        rung.patch_size, rung.block, rung.spacing, half.patch_size, half.block, half.spacing, strict=True
    ):
        assert -(-n // b) == -(-n_half // b_half)
        assert b * s == pytest.approx(b_half * s_half)
    assert (half.width, half.depth) == (rung.width, rung.depth)


def test_the_coarse_plan_is_the_fine_ones_transformer() -> None:
    planned = plan(GOLDEN["sarcoma_crop"], budget(24), ("prdit", "prdit_lowres"), predict=tiny_cost)
    fine, coarse = (planned.configurations[name] for name in ("prdit", "prdit_lowres"))
    assert isinstance(fine.network, PRDiTSpec)
    assert isinstance(coarse.network, PRDiTSpec)
    assert (fine.network.width, fine.network.depth) == (coarse.network.width, coarse.network.depth)
    assert coarse.spacing == tuple(2 * s for s in fine.spacing)
    assert coarse.network.block == tuple(b // 2 for b in fine.network.block)
    assert fine.network.token == token_of(fine.network.block)
    assert fine.network.answers == 2 == fine.network.out_channels
    assert [stage.trains for stage in fine.stages] == ["core.local", "core.whole"]


# ---------------------------------------------------------------- too many tokens


def test_too_many_tokens_are_refused_with_their_number() -> None:
    spec = replace(tiny_plan(("prdit",)).configurations["prdit"].network, block=(2, 2, 2))
    spec.demand_size((64, 64, 64))
    with pytest.raises(NndiffError, match="65536: 128 x 64 x 64 voxels in blocks of 2 x 2 x 2"):
        spec.demand_size((128, 64, 64))


def test_too_many_tokens_by_hand_end_the_planning() -> None:
    by_hand = {"configurations.prdit.network.block": [1, 1, 1], "configurations.prdit.network.token": [1, 1, 1]}
    with pytest.raises(NndiffError, match="too many tokens"):
        plan(GOLDEN["brain_mr"], budget(24), ("prdit",), by_hand, predict=tiny_cost)


def test_a_transformer_keeps_no_features_between_steps_and_answers_at_its_own_size_alone() -> None:
    assert (prdit().reuse_depths, prdit().keeps_patch) == (0, True)
    assert not unet().keeps_patch


# ---------------------------------------------------------------- from coarse to fine

COARSE = prdit(token=(6, 6, 4), block=(4, 4, 2), bounded=True)
FINE = replace(COARSE, token=(12, 12, 4), block=(8, 8, 2), recompute="blocks")


def network(spec: PRDiTSpec, seed: int):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    built = build_network(spec, (1, 1, 1))
    for weight in built.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return built


def repeated(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_whole_part_says_of_a_finer_volume_what_it_said_of_the_coarse_one() -> None:
    coarse, fine = network(COARSE, 0), network(FINE, 1)
    own, theirs = fine.state_dict(), coarse.state_dict()
    found = FINE.inherit(own, COARSE, theirs)
    anew = [name for name in found if found[name] is own[name]]
    assert anew == [name for name in found if name.startswith("core.local.")]
    assert found.keys() == own.keys()
    fine.load_state_dict(found)
    x, t = torch.randn(2, 2, 12, 8, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.9])
    for built in (coarse, fine):
        for weight in built.core.local.parameters():
            torch.nn.init.zeros_(weight)
    # the margins mirror another row of a repeated volume: look at the inner blocks' tokens alone
    coarse_x = x.clone()
    coarse_x[:, :, [0, 1, 2, -1, -2, -3]] = 0
    coarse_x[:, :, :, [0, 1, 2, -1, -2, -3]] = 0
    torch.testing.assert_close(fine(repeated(coarse_x), t), repeated(coarse(coarse_x, t)), rtol=1e-4, atol=1e-5)


def test_with_a_prior_the_transformer_reads_its_estimate_as_another_channel_and_the_prior_stays_its_own() -> None:
    coarse, fine = replace(COARSE, prior_shape=(12, 8, 6)), replace(FINE, prior_shape=(24, 16, 6))
    own, theirs = network(fine, 1).state_dict(), network(coarse, 0).state_dict()
    own["prior.mean"] = torch.ones_like(own["prior.mean"])
    found = fine.inherit(own, coarse, theirs)
    anew = {name.split(".")[0] + "." + name.split(".")[1] for name in found if found[name] is own[name]}
    assert anew == {"core.local"} | {name for name in own if name.startswith("prior.")}
    name = "core.whole.beside.weight"
    rows, theirs_rows = found[name].reshape(-1, 3, 12, 12, 4), theirs[name].reshape(-1, 3, 6, 6, 4)
    torch.testing.assert_close(rows[:, 2], theirs_rows[:, 2].repeat_interleave(2, 1).repeat_interleave(2, 2) / 4)
    fine_network = network(fine, 1)
    fine_network.load_state_dict(found)


def test_the_same_network_is_taken_whole() -> None:
    one, other = network(COARSE, 0).state_dict(), network(COARSE, 1).state_dict()
    found = COARSE.inherit(one, replace(COARSE, recompute="blocks"), other)
    assert found.keys() == one.keys()
    assert all(torch.equal(value, other[name]) for name, value in found.items())
    assert not any(value is one[name] for name, value in found.items())


@pytest.mark.parametrize("size", [8, 10, 14])
def test_where_margins_do_not_double_the_inner_voxels_are_read_as_before(size) -> None:
    fine = replace(FINE, token=(size, size, 4))
    own, theirs = network(fine, 1).state_dict(), network(COARSE, 0).state_dict()
    found = fine.inherit(own, COARSE, theirs)
    assert all(name.startswith("core.local.") for name in found if found[name] is own[name])
    name = "core.whole.beside.weight"
    coarse, ours = theirs[name].reshape(-1, 2, 6, 6, 4), found[name].reshape(-1, 2, size, size, 4)
    middle = slice(size // 2 - 4, size // 2 + 4)
    torch.testing.assert_close(ours[:, :, middle, middle], repeated(coarse)[:, :, 2:10, 2:10] / 4)
    if size == 14:
        assert not ours[:, :, 0].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 48},
        {"depth": 3},
        {"in_channels": 3},
        {"out_channels": 1},
        {"answers": 1},
        {"block": (3, 4, 2)},
        {"bounded": False},
        {"prior_shape": (12, 8, 6)},
    ],
)
def test_what_does_not_fit_is_refused(changes) -> None:
    with pytest.raises(NndiffError):
        FINE.inherit({}, replace(COARSE, **changes), {})


def test_a_network_of_another_family_is_refused_by_name() -> None:
    with pytest.raises(NndiffError, match="name unet instead of prdit"):
        FINE.inherit({}, unet(), {})
    with pytest.raises(NndiffError, match="name prdit instead of unet"):
        unet().inherit({}, FINE, {})
