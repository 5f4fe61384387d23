"""Tests of the augmentations: reproducible by seed, consistent between source and target, without side effects."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from nndiff.imaging.augment import AUGMENTATIONS, Augmentation, Contrast, Mirror, Sample, Scale, augmented
from nndiff.words.volume import FloatArray

ROWS = sorted(AUGMENTATIONS)
ACTIVE: dict[str, dict[str, float]] = {"mirror": {"z": 1.0, "y": 1.0, "x": 1.0}, "contrast": {"probability": 1.0}}
SHAPE = (4, 5, 6)


def row(name: str) -> Augmentation:
    return AUGMENTATIONS.make(name, ACTIVE.get(name, {}))


def sample_of(sources: int = 2, targets: int = 1, mask: bool = True) -> Sample:
    rng = np.random.default_rng(0)

    def volume(channels: int) -> FloatArray:
        return rng.uniform(0.1, 1, (channels, *SHAPE)).astype(np.float32)

    return Sample(volume(sources) if sources else None, volume(targets), rng.random(SHAPE) > 0.5 if mask else None)


def same(one: Sample, other: Sample) -> bool:
    return all(_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def _equal(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


SAMPLES: list[Callable[[], Sample]] = [
    lambda: sample_of(),
    lambda: sample_of(1, 2, mask=False),
    lambda: sample_of(0, 1),
]


# ---------------------------------------------------------------- laws of every row


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("make", SAMPLES)
def test_a_seed_means_one_thing(name, make) -> None:
    for seed in range(10):
        np.random.seed(seed + 1)  # whatever numpy was doing
        assert same(augmented([row(name)], make(), [seed]), augmented([row(name)], make(), [seed]))


@pytest.mark.parametrize("name", ROWS)
def test_other_seeds_change_other_things(name) -> None:
    results = [augmented([row(name)], sample_of(), [seed]).source for seed in range(20)]
    assert any(not np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("make", SAMPLES)
def test_shapes_and_dtypes_stay(name, make) -> None:
    before, after = make(), augmented([row(name)], make(), [1])
    for one, other in zip(vars(before).values(), vars(after).values(), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            assert np.isfinite(other).all()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("make", SAMPLES)
def test_the_sample_that_came_in_is_not_touched(name, make) -> None:
    """It may be a memory map that cannot be written."""
    given = make()
    kept = deepcopy(given)
    for array in vars(given).values():
        if array is not None:
            array.flags.writeable = False
    for seed in range(10):
        augmented([row(name)], given, [seed])
    assert same(given, kept)


def test_rows_follow_one_another_and_nothing_is_changed_without_rows() -> None:
    assert same(augmented([], sample_of(), [1]), sample_of())
    both = augmented([row("mirror"), row("scale")], sample_of(), [4])
    mirrored = augmented([row("mirror")], sample_of(), [4])
    ratio = both.target / mirrored.target
    assert np.allclose(ratio, ratio.flat[0])
    assert not np.allclose(ratio, 1)


def test_numpys_state_comes_back_even_after_a_failure() -> None:
    before = np.random.get_state()[1].copy()

    def fails(sample: Sample) -> Sample:
        np.random.random()
        raise KeyError

    with pytest.raises(KeyError):
        augmented([fails], sample_of(), [1])
    assert np.array_equal(before, np.random.get_state()[1])


# ---------------------------------------------------------------- mirror


def test_source_target_and_mask_are_turned_together() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(SHAPE).astype(np.float32)
    given = Sample(np.stack([truth + 1, truth + 2]), truth[None], truth > 0.5)
    for seed in range(20):
        turned = augmented([Mirror(1, 1, 1)], given, [seed])
        assert turned.source is not None
        assert np.array_equal(turned.source, np.stack([turned.target[0] + 1, turned.target[0] + 2]))
        assert np.array_equal(turned.mask, turned.target[0] > 0.5)
        assert np.array_equal(np.sort(turned.target, axis=None), np.sort(truth, axis=None))


@pytest.mark.parametrize("masked", [False, True])
def test_what_lies_inside_the_case_is_turned_with_it(masked) -> None:
    truth = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    given = Sample(None, truth[None], truth > 0.5 if masked else None, inside=truth > 0.2)
    for seed in range(20):
        turned = augmented([Mirror(1, 1, 1), Scale(1, 1)], given, [seed])
        assert np.array_equal(turned.inside, turned.target[0] > 0.2)
        assert (turned.mask is not None) == masked
        if masked:
            assert np.array_equal(turned.mask, turned.target[0] > 0.5)


def test_every_way_to_turn_is_as_frequent_and_turning_twice_with_one_seed_is_no_turn() -> None:
    given = sample_of()
    ways: dict[bytes, int] = {}
    for seed in range(400):
        once = augmented([Mirror(1, 1, 1)], given, [seed])
        assert same(augmented([Mirror(1, 1, 1)], once, [seed]), given)
        ways[once.target.tobytes()] = ways.get(once.target.tobytes(), 0) + 1
    assert len(ways) == 8
    assert min(ways.values()) > 25  # of 50 expected; 25 lies 3.8 standard deviations below


@pytest.mark.parametrize("axis", range(3))
def test_only_the_chosen_axis_is_turned(axis) -> None:
    given = sample_of()
    mirror = Mirror(**{"zyx"[axis]: 1.0})
    seen = {augmented([mirror], given, [seed]).target.tobytes() for seed in range(20)}
    assert seen == {given.target.tobytes(), np.flip(given.target, axis + 1).tobytes()}


def test_a_mirror_without_an_axis_turns_nothing() -> None:
    assert same(augmented([Mirror()], sample_of(), [3]), sample_of())


# ---------------------------------------------------------------- scale


def test_source_and_target_share_one_factor_within_its_limits_evenly_in_log() -> None:
    factors = []
    for seed in range(400):
        given, scaled = sample_of(), augmented([Scale(0.5, 2.0)], sample_of(), [seed])
        ratio = scaled.target / given.target
        factors.append(float(ratio.mean()))
        assert np.allclose(ratio, factors[-1])
        assert np.allclose(scaled.source / given.source, factors[-1])
        assert np.array_equal(scaled.mask, given.mask)
    assert 0.5 <= min(factors) < 0.52
    assert 1.93 < max(factors) <= 2.0
    assert abs(np.mean(np.log(factors))) < 0.08  # four standard errors


def test_zero_stays_zero() -> None:
    zero = Sample(np.zeros((1, *SHAPE), np.float32), np.zeros((1, *SHAPE), np.float32), None)
    assert same(augmented([Scale()], zero, [1]), zero)


# ---------------------------------------------------------------- contrast


def test_contrast_changes_the_source_alone() -> None:
    given = sample_of()
    for seed in range(10):
        changed = augmented([Contrast(1.0, 0.15)], given, [seed])
        assert np.array_equal(changed.target, given.target)
        assert np.array_equal(changed.mask, given.mask)
        assert not np.array_equal(changed.source, given.source)
        assert np.corrcoef(changed.source.ravel(), given.source.ravel())[0, 1] > 0.9


def test_without_probability_or_source_contrast_does_nothing() -> None:
    assert same(augmented([Contrast(0.0)], sample_of(), [1]), sample_of())
    assert same(augmented([Contrast(1.0)], sample_of(0), [1]), sample_of(0))


def test_a_stronger_contrast_changes_more() -> None:
    def change(strength: float) -> float:
        rows = [augmented([Contrast(1.0, strength)], sample_of(), [seed]).source for seed in range(10)]
        return float(np.mean([np.abs(source - sample_of().source).mean() for source in rows]))

    assert 0 < change(0.05) < change(0.15) < change(0.4)
