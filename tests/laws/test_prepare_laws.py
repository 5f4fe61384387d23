"""Laws of prepare and undo, over shapes, orientations, kinds and tasks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nndiff.data.prepare import Undo, prepare
from nndiff.imaging.io import canonical
from nndiff.plans.channels import Channel, Crop, Preparation
from nndiff.words.kind import KINDS
from nndiff.words.scheme import Scheme
from nndiff.words.strict_json import decode, encode
from nndiff.words.volume import Grid, Volume

CT = Channel("CT", KINDS["ct"], Scheme("fixed", {"low": -1024.0, "high": 3071.0}), -1024.0)
PET = Channel("PET", KINDS["pet"], Scheme("maximum", {"percentile": 99.99}), 0.0)
MR = Channel("T1", KINDS["mr"], Scheme("percentiles", {"low": 0.5, "high": 99.5}), 0.0)
TIED_PET = replace(PET, normalization=Scheme("tied", {}))
FLAIR = Channel("FLAIR", KINDS["mr"], Scheme("fixed", {"low": 0.0, "high": 400.0}), 0.0)
HALF_ULP = 2.0**-23  # two roundings to float32, of the larger of value and range


def phantom(shape, spacing, seed=0, low=0.0, high=100.0, empty=0) -> Volume:
    """Band-limited, in [low, high], with `empty` voxels of `low` on every side."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(shape)
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    for _ in range(6):
        k = rng.uniform(-0.1, 0.1, 3)
        wave += np.cos(2 * np.pi * sum(a * b for a, b in zip(k, axes, strict=True)) + rng.uniform(0, 6))
    wave = low + (high - low) * (0.5 + 0.5 * (wave - wave.min()) / np.ptp(wave))
    if empty:
        inside = np.zeros(shape)
        inside[(slice(empty, -empty),) * 3] = 1
        wave = low + (wave - low) * ndimage.gaussian_filter(inside, 0.3)
    return Volume(wave[None].astype(np.float32), Grid(shape, spacing, (1.0, -2.0, 3.0)))


def preparation(source, target, spacing, crop=False, shape=None) -> Preparation:
    task = "translation" if source else "generation"
    anchor = (0,) * len(target) if source else ()
    return Preparation(task, source, target, anchor, Crop(crop, 4.0), spacing, shape)


PAIRS = {
    "pet": ((PET,), (TIED_PET,), 0.0, 30.0),
    "ct": ((CT,), (CT,), -1024.0, 2000.0),
    "mr": ((MR,), (FLAIR,), 0.0, 400.0),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("crop", [False, True])
def test_without_resampling_undo_gives_the_target_back_to_float32s_rounding(kind, crop) -> None:
    sources, targets, low, high = PAIRS[kind]
    shape, spacing = (18, 22, 20), (2.0, 1.5, 1.0)
    source, target = (phantom(shape, spacing, seed, low, high, empty=3) for seed in (1, 2))
    prepared = prepare(source, target, None, preparation(sources, targets, spacing, crop))
    home = prepared.undo(prepared.target)
    assert home.grid == target.grid
    inside = (slice(None), *prepared.undo.box.slices)
    scale = max(abs(low), abs(high), prepared.undo.maps[0].scale)
    np.testing.assert_allclose(home.array[inside], target.array[inside], atol=2 * HALF_ULP * scale, rtol=0)


@pytest.mark.parametrize("spacing", [(1.5, 1.2, 0.8), (2.0, 1.0, 0.7)])
def test_refined_and_undone_the_error_is_below_a_thousandth(spacing) -> None:
    source, target = (phantom((18, 22, 20), (2.0, 1.5, 1.0), seed, 0.0, 30.0) for seed in (1, 2))
    prepared = prepare(source, target, None, preparation((PET,), (TIED_PET,), spacing))
    assert prepared.target.shape != target.array.shape
    home = prepared.undo(prepared.target)
    assert np.abs(home.array - target.array).max() <= 1e-3 * 30


def test_outside_the_crop_is_background_and_nothing_else() -> None:
    source, target = (phantom((30, 30, 30), (2.0, 2.0, 2.0), seed, -1024.0, 800.0, empty=9) for seed in (1, 2))
    prepared = prepare(source, target, None, preparation((CT,), (CT,), (2.0, 2.0, 2.0), crop=True))
    assert prepared.undo.box.shape < (30, 30, 30)
    outside = np.ones((30, 30, 30), bool)
    outside[prepared.undo.box.slices] = False
    assert outside.any()
    assert (prepared.undo(prepared.target).array[0][outside] == -1024.0).all()


@pytest.mark.parametrize("kind", PAIRS)
def test_undo_needs_no_target(kind) -> None:
    sources, targets, low, high = PAIRS[kind]
    source, target = (phantom((16, 16, 16), (1.0, 1.0, 1.0), seed, low, high, empty=2) for seed in (1, 2))
    plan = preparation(sources, targets, (1.0, 0.8, 1.2), crop=True)
    trained, alone = prepare(source, target, None, plan), prepare(source, None, None, plan)
    assert alone.undo == trained.undo
    np.testing.assert_array_equal(alone.source, trained.source)
    assert alone.target is None


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_however_a_file_is_oriented_the_network_sees_the_same_and_the_file_gets_its_own_back(axes, flips) -> None:
    upright = phantom((12, 14, 16), (1.0, 1.0, 1.0), 1, 0.0, 30.0)
    array = upright.array[0].transpose(axes)
    matrix = upright.grid.matrix[:, list(axes)]
    origin = np.array(upright.grid.origin)
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            origin = origin + matrix[:, axis] * (array.shape[axis] - 1)
            matrix = matrix * np.where(np.arange(3) == axis, -1, 1)
    grid = Grid(array.shape, (1.0, 1.0, 1.0), tuple(origin), tuple(matrix.ravel()))
    turned = Volume(*_with_channel(canonical(array, grid)))
    plan = preparation((PET,), (TIED_PET,), (0.8, 1.0, 1.0))
    a, b = prepare(upright, None, None, plan), prepare(turned, None, None, plan)
    np.testing.assert_allclose(a.source, b.source, atol=1e-6)
    assert b.undo(b.source).layout.grid == grid


def _with_channel(parts):
    array, grid, layout = parts
    return np.ascontiguousarray(array[None], dtype=np.float32), grid, layout


@pytest.mark.parametrize("shape", [(24, 30, 18), (16, 20, 20)])
def test_generation_brings_every_case_to_one_shape_and_back(shape) -> None:
    target = phantom((18, 22, 20), (2.0, 1.5, 1.0), 1, -1000.0, 1000.0)
    prepared = prepare(None, target, None, preparation((), (CT,), (2.0, 1.5, 1.0), shape=shape))
    assert prepared.target.shape == (1, *shape)
    assert prepared.source is None
    home = prepared.undo(prepared.target).array
    core = (0, *[slice(2, -2)] * 3)  # at most one voxel is cut on a side
    np.testing.assert_allclose(home[core], target.array[core], atol=1e-3)


def test_the_networks_grid_lies_where_the_case_lies() -> None:
    """On a volume that holds its own z coordinate, each voxel of the new grid holds that of its own position."""
    grid = Grid((20, 24, 22), (2.0, 1.5, 1.0), (5.0, -7.0, 11.0))
    z = np.arange(20)[:, None, None] * 2.0 + 11.0 + np.zeros(grid.shape)
    ramp = Volume(z[None].astype(np.float32), grid)
    unchanged = Scheme("fixed", {"low": 0.0, "high": 1.0, "onto_low": 0.0, "onto_high": 1.0})
    identity = replace(MR, normalization=unchanged)
    prepared = prepare(ramp, None, None, preparation((identity,), (identity,), (1.0, 1.5, 1.0)))
    for index in [(10, 3, 2), (20, 10, 10), (30, 20, 20)]:
        assert prepared.source[(0, *index)] == pytest.approx(prepared.grid.position(index)[2], abs=0.02)


def test_the_mask_goes_where_the_image_goes() -> None:
    target = phantom((20, 20, 20), (2.0, 2.0, 2.0), 1, 0.0, 30.0, empty=4)
    inside = np.zeros((1, 20, 20, 20), np.float32)
    inside[0, 8:12, 6:14, 5:15] = 1
    mask = Volume(inside, target.grid)
    prepared = prepare(target, target, mask, preparation((PET,), (TIED_PET,), (1.0, 1.0, 2.0), crop=True))
    assert prepared.mask.shape == prepared.source.shape[1:]
    assert prepared.mask.sum() == pytest.approx(4 * inside.sum(), rel=0.15)


@pytest.mark.parametrize("spacing", [(2.0, 1.5, 1.0), (1.4, 1.2, 0.8)])
@pytest.mark.parametrize("shape", [None, (28, 36, 30)])
def test_the_mask_of_a_level_is_where_the_prepared_image_is_above_it(spacing, shape) -> None:
    """Nothing about the image is symmetric, so a mask that is mirrored or displaced differs from it."""
    image = phantom((18, 22, 20), (2.0, 1.5, 1.0), 1, 0.0, 400.0)
    mask = replace(image, array=(image.array > 300).astype(np.float32))
    plan = preparation((), (FLAIR,), spacing, shape=shape)
    prepared = prepare(None, image, mask, plan)
    level = prepared.undo.maps[0].forward(np.full((1, 1, 1), 300.0, np.float32)).item()
    above = prepared.target[0] > level
    differing = np.mean(prepared.mask != above)
    assert differing == 0 if spacing == image.grid.spacing else differing < 0.04
    assert all(np.mean(prepared.mask != np.flip(above, axis)) > 0.1 for axis in range(3))


def test_the_mask_is_false_outside_the_case() -> None:
    target = phantom((10, 10, 10), (2.0, 2.0, 2.0), 1, 500.0, 900.0)
    mask = replace(target, array=np.ones_like(target.array))
    prepared = prepare(None, target, mask, preparation((), (CT,), (2.0, 2.0, 2.0), shape=(14, 16, 10)))
    case = np.zeros((14, 16, 10), bool)
    case[2:12, 3:13] = True
    np.testing.assert_array_equal(prepared.mask, case)


def test_undo_survives_json() -> None:
    source = phantom((12, 14, 16), (1.0, 2.0, 1.0), 1, 0.0, 30.0)
    undo = prepare(source, None, None, preparation((PET,), (TIED_PET,), (1.0, 1.0, 1.0))).undo
    assert decode(Undo, encode(undo)) == undo


def test_a_tied_target_is_in_its_anchors_units() -> None:
    source, target = (phantom((12, 12, 12), (1.0, 1.0, 1.0), seed, 0.0, 30.0) for seed in (1, 2))
    prepared = prepare(source, target, None, preparation((PET,), (TIED_PET,), (1.0, 1.0, 1.0)))
    np.testing.assert_allclose(prepared.target, target.array / np.percentile(source.array, 99.99), rtol=1e-5)


def test_generation_puts_the_case_in_the_middle_and_knows_where_that_is() -> None:
    target = phantom((10, 10, 10), (2.0, 2.0, 2.0), 1, 500.0, 900.0)
    prepared = prepare(None, target, None, preparation((), (CT,), (2.0, 2.0, 2.0), shape=(14, 16, 10)))
    body = np.argwhere(prepared.target[0] > -0.5)  # 500 HU and more, in air
    np.testing.assert_array_equal(body.min(axis=0), [2, 3, 0])
    np.testing.assert_array_equal(body.max(axis=0), [11, 12, 9])
    np.testing.assert_allclose(prepared.grid.position((2, 3, 0)), target.grid.position((0, 0, 0)))
