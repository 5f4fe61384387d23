"""Tests of the estimate of the open part, on made cases whose conditional standard deviation is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from nndiff.data import neighbourhood, open_part
from nndiff.data.neighbourhood import Sample, sample
from nndiff.data.open_part import open_part as measured
from nndiff.data.open_part import voxels_a_case
from nndiff.words.kind import CT, MR, PET, Kind
from nndiff.words.volume import FloatArray, Floats, Grid, Volume

SHAPE, SPACING = (24, 24, 24), (2.0, 2.0, 2.0)
THICK, THICK_SPACING = (8, 44, 44), (5.0, 1.0, 1.0)
UNIT = 1000.0  # HU: the window of CT is the same in every case


def open_rms(samples: Sequence[Sample], groups: Sequence[str]) -> list[tuple[float, ...]] | None:
    found = measured(samples, groups)
    return None if found is None else found.rms


Rule = Callable[[Sequence[Floats]], Floats]  # standard sources → what they determine of the target


def texture(seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Floats:
    """Return a random volume of standard deviation 1 with coarse and fine detail."""
    rng, fine = np.random.default_rng(seed), np.array(spacing) / min(spacing)
    parts = [ndimage.gaussian_filter(rng.standard_normal(shape), k / fine) for k in (0.7, 1.5, 3.0)]
    volume = sum(part / part.std() for part in parts)
    return np.asarray(volume / volume.std())


def sampled(
    rule: Rule,
    s: float,
    seed: int,
    channels: int = 1,
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = SPACING,
    count: int = 2000,
) -> Sample:
    """Return the sample of a case whose target is `rule` of its sources, plus white noise of standard deviation s."""
    sources = [texture(100 * seed + channel, shape, spacing) for channel in range(channels)]
    noise = np.random.default_rng(seed).standard_normal(shape)
    target = rule(sources) + s * noise
    grid = Grid(shape, spacing, (0.0, 0.0, 0.0))
    volumes = [Volume(UNIT * np.asarray(side, dtype=np.float32), grid) for side in (sources, [target])]
    everywhere = np.ones(shape, dtype=bool)
    kinds, names = ([CT] * channels, [CT]), ([f"CT {i}" for i in range(channels)], ["CT"])
    return sample(*volumes, kinds, names, ([everywhere] * channels, [everywhere]), count)


def estimate(rule: Rule, s: float, cases: int = 5, groups: Sequence[str] = (), **words: int) -> float:
    """Return the median estimate over cases, as a multiple of the true one."""
    samples = [sampled(rule, s, seed, **words) for seed in range(cases)]  # type: ignore[arg-type]
    found = open_rms(samples, groups or [f"patient {i}" for i in range(cases)])
    assert found is not None
    return float(np.median(found)) / (UNIT * s)


RULES: dict[str, Rule] = {
    "twice": lambda y: 2 * y[0],
    "saturated mean": lambda y: np.tanh(2 * ndimage.gaussian_filter(y[0], 1.0)),
    "square": lambda y: y[0] ** 2 / 2,
    "edges": lambda y: ndimage.gaussian_gradient_magnitude(y[0], 1.0),
}

# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize("s", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("rule", ["twice", "saturated mean", "edges"])
def test_it_is_the_noise_that_was_added_whatever_the_rule(rule: str, s: float) -> None:
    assert estimate(RULES[rule], s) == pytest.approx(1, abs=0.15)


def test_a_steep_rule_is_learnt_too() -> None:
    assert estimate(RULES["square"], 0.25) == pytest.approx(1, abs=0.15)


def test_thick_slices() -> None:
    found = estimate(
        lambda y: np.tanh(2 * ndimage.gaussian_filter(y[0], (0.2, 1, 1))), 0.2, shape=THICK, spacing=THICK_SPACING
    )
    assert found == pytest.approx(1, abs=0.15)


def test_a_source_that_tells_nothing_leaves_the_whole_target_open() -> None:
    assert estimate(lambda y: 0 * y[0], 0.5) == pytest.approx(1, abs=0.03)


def test_one_of_two_channels_suffices() -> None:
    assert estimate(lambda y: np.tanh(y[1]), 0.2, channels=2) == pytest.approx(1, abs=0.15)
    assert estimate(lambda y: 0.3 * y[0] + 0.3 * y[1], 0.2, channels=2) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("cases", [2, 3])
def test_few_cases_and_voxels_are_not_fitted_by_heart(cases: int) -> None:
    """With fewer voxels than inputs, a fit leaves nothing of what it has seen: only held-out cases are honest."""
    inputs = open_part.HIDDEN + 26
    assert estimate(lambda y: 0 * y[0], 0.5, cases, count=inputs // 2) == pytest.approx(1, abs=0.1)


def test_cases_of_one_patient_are_held_out_together() -> None:
    """A second scan of the same noise would give the answer away."""
    samples = [sampled(lambda y: 0 * y[0], 0.5, seed, count=300) for seed in (0, 1, 0, 1)]
    together = open_rms(samples, ["a", "b", "a", "b"])
    apart = open_rms(samples, ["a", "b", "c", "d"])
    assert together is not None
    assert apart is not None
    assert np.median(together) == pytest.approx(0.5 * UNIT, rel=0.1)
    assert np.median(apart) < 0.8 * np.median(together)


# ---------------------------------------------------------------- by the source's level


def uneven(seed: int, low: float, high: float) -> Sample:
    """Return a case whose source is dark in one half and bright in the other, with targets that are open by as much."""
    rng, grid = np.random.default_rng(seed), Grid(SHAPE, SPACING, (0.0, 0.0, 0.0))
    bright = np.arange(SHAPE[2]) >= SHAPE[2] // 2
    source = np.where(bright, 0.5, -0.5) + 0.01 * rng.standard_normal(SHAPE)
    target = source + np.where(bright, high, low) * rng.standard_normal(SHAPE)
    volumes = [Volume(UNIT * side[None].astype(np.float32), grid) for side in (source, target)]
    inside = np.broadcast_to(bright, SHAPE).copy()
    return sample(*volumes, ([CT], [CT]), (["CT"], ["CT"]), ([inside], [inside]), 4000)


@pytest.mark.parametrize("low", [0.0, 0.03, 0.3])
def test_the_curve_states_how_much_is_open_where_the_source_is_dark_and_where_it_is_bright(low: float) -> None:
    """Relative to the foreground, which is the bright half; less than a fiftieth counts as a fiftieth."""
    found = measured([uneven(seed, low, 0.1) for seed in range(4)], ["a", "b", "c", "d"])
    assert found is not None
    ((curve,),) = found.curves
    levels, shares = (np.array(side) for side in zip(*curve, strict=True))
    assert (np.diff(levels) > 0).all()
    assert np.median(found.rms) == pytest.approx(0.1 * UNIT, rel=0.1)
    middle = (levels[0] + levels[-1]) / 2
    assert np.median(shares[levels > middle]) == pytest.approx(1, rel=0.1)
    assert np.median(shares[levels < middle]) == pytest.approx(
        max(low / 0.1, open_part.LEAST_SHARE), rel=0.25, abs=0.05
    )


def test_one_patient_cannot_be_held_out() -> None:
    samples = [sampled(RULES["twice"], 0.1, seed, count=200) for seed in range(3)]
    assert open_rms(samples, ["one"] * 3) is None


def test_the_same_figures_twice() -> None:
    samples = [sampled(RULES["square"], 0.3, seed, count=500) for seed in range(3)]
    first, second = (open_rms(samples, ["a", "b", "c"]) for _ in range(2))
    assert first == second


def test_more_cases_give_fewer_voxels_each() -> None:
    counts = [voxels_a_case(cases) for cases in (1, 10, 30, 100, 10_000)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (open_part.MOST_VOXELS, open_part.LEAST_VOXELS)


# ---------------------------------------------------------------- grain


def sphere(shape: tuple[int, int, int]) -> Floats:
    """Return a ball of 1 with a sharp edge in 0."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (sum(np.square(axis) for axis in axes) < 0.5).astype(float)


@pytest.mark.parametrize("rule", ["smooth", "edges"])
@pytest.mark.parametrize("grain", [0.01, 0.1])
def test_the_grain_is_the_rms_of_white_noise_whatever_lies_below_it(rule: str, grain: float) -> None:
    """The fine power of the edges is 150 times that of the fainter noise: an rms would be 12 times as large."""
    noise = grain * np.random.default_rng(0).standard_normal(SHAPE)
    below = sphere(SHAPE) if rule == "edges" else ndimage.gaussian_filter(sphere(SHAPE), 4.0)
    target = UNIT * (below + noise)
    (found,) = case_of(target, target, (CT, CT), ("CT", "CT")).grain
    scale = case_of(target, target, (CT, CT), ("CT", "CT")).scales[0]
    assert found * scale == pytest.approx(UNIT * grain, rel=0.4)


def test_smoothing_takes_the_grain_and_leaves_the_open_part() -> None:
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    smooth = ndimage.gaussian_filter(noise, 2.0)
    fine, coarse = (
        case_of(target, target, (CT, CT), ("CT", "CT")).grain[0]
        for target in (UNIT * noise, UNIT * smooth / smooth.std())
    )
    assert coarse < 0.3 * fine


def test_each_target_has_its_own_grain() -> None:
    rng, grid = np.random.default_rng(0), Grid(SHAPE, SPACING, (0.0, 0.0, 0.0))
    both = np.stack([UNIT * part * rng.standard_normal(SHAPE) for part in (0.1, 0.4)]).astype(np.float32)
    everywhere = [np.ones(SHAPE, dtype=bool)] * 2
    found = sample(
        Volume(both[:1], grid), Volume(both, grid), ([CT], [CT, CT]), (["A"], ["B", "C"]), ([], everywhere), 2000
    )
    assert found.grain[1] / found.grain[0] == pytest.approx(4, rel=0.1)


# ---------------------------------------------------------------- many voxels


def test_it_is_the_same_where_there_are_too_many_voxels_to_keep_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, groups = [sampled(RULES["square"], 0.1, seed, count=400) for seed in range(3)], ["a", "b", "c"]
    called, call = [0], open_part._Hinges.__call__

    def counted(self: Any, features: FloatArray) -> Floats:
        called[0] += 1
        return call(self, features)

    monkeypatch.setattr(open_part._Hinges, "__call__", counted)
    kept, few = measured(samples, groups), called[0]
    monkeypatch.setattr(open_part, "ALL_VOXELS", 0)
    computed_again = measured(samples, groups)
    assert kept is not None
    assert computed_again is not None
    assert (kept.rms, kept.curves) == (computed_again.rms, computed_again.curves)
    assert called[0] - few == 2 * few


# ---------------------------------------------------------------- samples


def case_of(source: FloatArray, target: FloatArray, kinds: tuple[Kind, Kind], names: tuple[str, str]) -> Sample:
    grid = Grid(source.shape, SPACING, (0.0, 0.0, 0.0))  # type: ignore[arg-type]
    everywhere = np.ones(source.shape, dtype=bool)
    sides = (Volume(array[None].astype(np.float32), grid) for array in (source, target))
    return sample(*sides, ([kinds[0]], [kinds[1]]), ([names[0]], [names[1]]), ([everywhere], [everywhere]), 100)


def test_a_target_shares_the_map_of_a_source_in_its_units() -> None:
    rng = np.random.default_rng(0)
    dim, bright = rng.uniform(0, 1, SHAPE), rng.uniform(0, 7, SHAPE)
    assert case_of(dim, bright, (PET, PET), ("NAC PET", "PET")).scales == pytest.approx((1.0,), rel=0.01)
    (shared,), (own,) = (case_of(dim, bright, (MR, MR), ("T1", name)).scales for name in ("T1", "T2"))
    assert own == pytest.approx(7 * shared, rel=0.02)


def test_blocks_of_a_large_volume_show_what_the_whole_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around a block, as much is read as the filters reach."""
    y = texture(0, (50, 60, 70), SPACING)
    position = np.arange(y.size, dtype=np.float32).reshape(y.shape)  # exact in float32, and so is its HU value
    whole = [feature.reshape(-1) for feature in neighbourhood.features_of(y.astype(np.float32), SPACING)]
    identity = neighbourhood.Affine(1.0, 0.0)
    monkeypatch.setattr(neighbourhood, "default_map", lambda channel, kind: identity)
    found = case_of(y, position, (CT, MR), ("CT", "T1"))
    where = found.targets[:, 0].astype(int)
    assert len(set(where.tolist())) > 90
    np.testing.assert_allclose(found.features, np.stack([feature[where] for feature in whole], axis=1), atol=1e-5)


def test_only_foreground_is_sampled_and_blocks_follow_it() -> None:
    shape = (90, 90, 90)
    inside = np.zeros(shape, dtype=bool)
    inside[70:80, 60:75, 10:30] = True
    target = np.where(inside, 1.0, -1.0).astype(np.float32)[None]
    grid = Grid(shape, SPACING, (0.0, 0.0, 0.0))
    nothing = np.zeros(shape, dtype=bool)
    sides = Volume(UNIT * target, grid), Volume(UNIT * target, grid)
    found = sample(*sides, ([CT], [CT]), (["CT"], ["CT"]), ([nothing], [inside]), 500)
    assert 400 <= found.inside.sum() <= 600
    assert 200 <= (~found.inside).sum() <= 300
    assert len(np.unique(found.targets[found.inside])) == len(np.unique(found.targets[~found.inside])) == 1


def test_a_volume_of_one_slice_has_finite_features() -> None:
    y = texture(0, (1, 30, 30), SPACING)
    found = case_of(y, y, (MR, MR), ("T1", "T1"))
    assert np.isfinite(found.features).all()
