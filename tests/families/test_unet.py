"""Tests of the UNet family: its ladder, and the topology on each rung."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nndiff.families.unet import SMALLEST_FEATURE, UNetSpec, first_puzzle, topology
from nndiff.words.errors import NndiffError
from nndiff.words.spread import Spread
from tests.laws.test_planner_laws import shapes, spacings
from tests.walks import prdit, unet

# ---------------------------------------------------------------- the ladder


@given(shapes, spacings, st.booleans(), st.sampled_from(["cuda", "cpu", "mps"]))
def test_down_the_ladder_the_patch_never_grows_and_the_puzzle_never_shrinks(shape, spacing, tiled, device) -> None:
    rungs = list(UNetSpec.ladder(shape, spacing, tiled, device))
    for above, below in itertools.pairwise(rungs):
        assert math.prod(below.patch_size) <= math.prod(above.patch_size)
        assert all(b >= a for a, b in zip(above.puzzle_factor, below.puzzle_factor, strict=True))
    assert rungs[0].patch_size == shape
    assert len(set(rungs)) == len(rungs)


@given(shapes, spacings)
def test_untiled_the_extent_stays(shape, spacing) -> None:
    for rung in UNetSpec.ladder(shape, spacing, False, "cuda"):
        extents = zip(shape, spacing, rung.patch_size, rung.spacing, strict=True)
        assert all(n * s == pytest.approx(m * t, rel=1e-4) for n, s, m, t in extents)


@pytest.mark.parametrize(
    ("shape", "spacing", "puzzle"),
    [
        ((100, 100, 100), (1.0, 1.0, 1.0), (2, 2, 2)),
        ((28, 448, 448), (5.0, 0.5, 0.5), (1, 2, 2)),
        ((100, 100, 100), (1.9, 1.0, 1.0), (2, 2, 2)),
        ((8, 100, 100), (1.0, 1.0, 1.0), (1, 2, 2)),
    ],
)
def test_the_first_puzzle_follows_spacing_and_length(shape, spacing, puzzle) -> None:
    assert first_puzzle(shape, spacing) == puzzle


# ---------------------------------------------------------------- levels


def test_thick_slices_are_pooled_in_plane_first_with_flat_kernels() -> None:
    multipliers, kernels, strides = topology((25, 400, 400), (1, 2, 2), (5.0, 0.5, 0.5))
    assert strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert kernels[0] == (1, 3, 3)
    assert kernels[-1] == (3, 3, 3)
    assert multipliers == (1, 2, 4, 4, 4)


@given(shapes, spacings)
def test_no_axis_is_pooled_below_its_smallest_feature(shape, spacing) -> None:
    _, _, strides = topology(shape, (1, 1, 1), spacing)
    for n, steps in zip(shape, zip(*strides, strict=True), strict=True):
        pooled = math.prod(steps)
        assert pooled == 1 or n / pooled >= SMALLEST_FEATURE / 2


def test_features_are_kept_at_the_depth_of_any_decoder_block() -> None:
    assert unet().reuse_depths == 2
    assert unet(blocks=2, multipliers=(1, 2, 4)).reuse_depths == 6


# ---------------------------------------------------------------- weights of another run


@pytest.mark.parametrize(
    "changes",
    [
        {"multipliers": (1, 4)},
        {"kernels": ((1, 3, 3), (3, 3, 3))},
        {"strides": ((1, 1, 1), (1, 2, 2))},
        {"head_width": 8},
        {"mix": "haar"},
        {"skip": (1,)},
    ],
)
def test_a_unet_begins_with_its_own_kind_alone(changes) -> None:
    with pytest.raises(NndiffError, match=next(iter(changes))):
        unet().inherit({}, replace(unet(), **changes), {})


@pytest.mark.parametrize("targets", [1, 6])
def test_where_the_head_corrects_a_new_network_answers_zero_and_its_core_learns_from_the_first_step(targets) -> None:
    spec = unet(in_channels=targets + 1, out_channels=targets, head_width=4, corrects=True)
    network = spec.build((2, 2, 2))
    x, y = torch.randn(1, targets, 8, 8, 8), torch.randn(1, 1, 8, 8, 8)
    out = network(x, torch.rand(1), y)
    assert out.shape == x.shape
    assert not out.any()
    (out - 1).square().sum().backward()
    core, head = network.core.head.conv.weight.grad, network.head.last.weight.grad
    assert core.flatten(1).any(1).reshape(-1, 8)[:targets].all()  # the eight pieces of each target's own image
    assert head.any()


@pytest.mark.parametrize("family", [unet, prdit])
def test_one_mean_and_std_per_source_and_its_weights_fit_where_they_differ(family) -> None:
    spec = family(in_channels=3)
    standard = replace(spec, sources=(Spread(0.1, 2.0), Spread(-1.0, 0.5)))
    theirs = {"core.stem.weight": object()}
    assert standard.inherit({}, spec, theirs) == spec.inherit({}, standard, theirs) == theirs  # type: ignore[arg-type]
    assert standard.build((1, 1, 1)).state_dict().keys() == spec.build((1, 1, 1)).state_dict().keys()
    with pytest.raises(NndiffError, match="one mean and std per source"):
        replace(standard, sources=standard.sources[:1]).build((1, 1, 1))


@pytest.mark.parametrize("family", [unet, prdit])
def test_a_planned_mean_and_std_reach_the_network(family) -> None:
    spec = family(in_channels=3)
    standard = replace(spec, sources=(Spread(0.1, 2.0), Spread(-1.0, 0.5)))
    ours, plain = standard.build((1, 1, 1)), spec.build((1, 1, 1))
    for weight in plain.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    ours.load_state_dict(plain.state_dict())
    x, y, t = torch.randn(1, 1, 8, 8, 8), torch.randn(1, 2, 8, 8, 8), torch.rand(1)
    before = (y - torch.tensor([0.1, -1.0])[:, None, None, None]) / torch.tensor([2.0, 0.5])[:, None, None, None]
    torch.testing.assert_close(ours(x, t, y), plain(x, t, before), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours(x, t, y), plain(x, t, y), atol=1e-2)


def test_a_prior_sees_the_sources_as_they_were_when_it_was_measured() -> None:
    spec = prdit(prior_shape=(8, 8, 8), anchors=(0,), bounded=True)
    ours, plain = replace(spec, sources=(Spread(-5.0, 3.0),)).build((1, 1, 1)), spec.build((1, 1, 1))
    for network in (ours, plain):
        network.prior.slope.fill_(0.7)
    x, y, t = torch.randn(1, 1, 8, 8, 8), torch.randn(1, 1, 8, 8, 8), torch.ones(1)
    assert torch.equal(ours(x, t, y), plain(x, t, y))  # before training, the estimates are the prior's


@pytest.mark.parametrize("recompute", ["none", "norms", "blocks"])
def test_the_same_unet_is_taken_whole_whatever_it_computes_twice(recompute) -> None:
    theirs = {"core.stem.weight": object()}
    assert unet().inherit({}, unet(recompute=recompute), theirs) == theirs  # type: ignore[arg-type]


# ---------------------------------------------------------------- outputs aside


@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("head_width", [0, 6])
@pytest.mark.parametrize(("images", "errors"), [(1, 1), (2, 2), (2, 1)])
def test_errors_are_the_last_output_channels_and_have_a_head_of_their_own(factor, head_width, images, errors) -> None:
    spec = unet(out_channels=images + errors, errors=errors, head_width=head_width)
    network = spec.build(factor)
    assert network(torch.randn(1, 1, 4, 8, 8), torch.rand(1), torch.randn(1, 1, 4, 8, 8)).shape[1] == images + errors
    assert network.aside.last.out_channels == errors
    assert (network.head.last.out_channels if head_width else images) == images
    assert replace(spec, out_channels=images, errors=0).build(factor).aside is None


@pytest.mark.parametrize("errors", [2, 3])
def test_a_network_of_nothing_but_errors_is_refused(errors) -> None:
    with pytest.raises(NndiffError, match=r"'network.errors' counts output channels(.|\n)*0 to 1; found"):
        unet(out_channels=2, errors=errors).build((1, 1, 1))


def test_a_skip_names_an_input_for_each_image_and_for_no_error() -> None:
    x, y = torch.randn(1, 1, 4, 8, 8), torch.randn(1, 1, 4, 8, 8)
    out = unet(out_channels=2, errors=1, skip=(1,)).build((1, 1, 1))(x, torch.rand(1), y)
    assert out[:, 0].any()
    assert not out[:, 1].any()
    with pytest.raises(NndiffError, match="one input channel per output channel that is no error"):
        unet(out_channels=2, errors=1, skip=(1, 0)).build((1, 1, 1))


@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 2, 2)])
def test_before_training_the_output_is_zero_and_every_weight_learns_from_the_second_step_on(factor) -> None:
    """Only the last layer begins at zero: of two zeros in a row the first waits for the second."""
    torch.manual_seed(0)
    network = unet(head_width=16 if factor != (1, 1, 1) else 0).build(factor)
    x, y, t = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 1, 8, 8, 8), torch.rand(2)
    assert not network(x, t, y).any()
    for _ in range(2):
        network.zero_grad()
        (network(x, t, y) - x).square().mean().backward()
        with torch.no_grad():
            for weight in network.parameters():
                weight -= 0.1 * weight.grad
    still = [name for name, weight in network.named_parameters() if not weight.grad.any()]
    assert still == []
