"""Tests of the planning rules about the data, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nndiff.planning import data
from nndiff.plans.channels import Crop
from nndiff.words.scheme import Scheme
from tests.planning.fingerprints import fingerprint, link, statistics, with_spacings

PETCT = fingerprint("Dataset001_A", (40, 40, 40), (3.0, 2.0, 2.0), ("CT", "PET"), ("PET",))


def channels(found):
    sources = tuple(data.source_channel(name).value for name in found.channel_names)
    anchor = data.anchors(found).value
    targets = tuple(
        data.target_channel(t, found, sources[anchor[t]] if anchor else None, anchor[t] if anchor else None).value
        for t in range(len(found.target_names))
    )
    return sources, targets, anchor


def test_the_anchor_has_the_same_name_even_where_another_correlates_more() -> None:
    case = PETCT.cases[0]
    ct, pet = case.source
    rows = ((link(ct, case.target[0], 0.1, 0.5, 0.99), link(pet, case.target[0], 0.1, 0.5, 0.5)),)
    found = replace(PETCT, cases=(replace(case, links=rows),))
    assert data.anchors(found).value == (1,)
    renamed = replace(found, target_names=("FLAIR",))
    assert data.anchors(renamed).value == (0,)


@pytest.mark.parametrize(
    ("name", "scheme"), [("CT", "fixed"), ("CBCT", "fixed"), ("NAC PET", "maximum"), ("T1", "percentiles")]
)
def test_a_channel_is_normalised_as_its_kind_asks(name: str, scheme: str) -> None:
    assert data.source_channel(name).value.normalization.name == scheme


def test_a_target_that_follows_its_source_from_case_to_case_is_tied_to_it() -> None:
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET",), ("PET",))
    gains = [0.2, 1.0, 5.0]
    together = [
        replace(case, source=(statistics("pet", g),), target=(statistics("pet", g),))
        for case, g in zip(found.cases, gains, strict=False)
    ]
    source_only = [
        replace(case, source=(statistics("pet", g),), target=(statistics("pet", 1.0),))
        for case, g in zip(found.cases, gains, strict=False)
    ]
    pet = data.source_channel("PET").value
    assert data.target_channel(0, replace(found, cases=tuple(together)), pet, 0).value.normalization == Scheme(
        "tied", {}
    )
    assert data.target_channel(0, replace(found, cases=tuple(source_only)), pet, 0).value.normalization.name == "fixed"


def test_ct_is_never_tied_and_its_window_depends_on_the_task() -> None:
    translation = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("T1",), ("CT",))
    generation = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), (), ("CT",))
    assert data.target_channel(0, translation, data.source_channel("T1").value, 0).value.normalization.options == {
        "low": -1024,
        "high": 3071,
    }
    assert data.target_channel(0, generation, None, None).value.normalization.options == {"low": -1000, "high": 1000}


def test_the_spread_of_a_source_is_that_of_the_normalised_voxels_of_all_cases() -> None:
    """Three cases of as many voxels, each with its own peak: PET is divided by it, CT has one window for all."""
    rng = np.random.default_rng(0)
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET", "CT"), ("PET",), cases=3)
    sources = [data.source_channel(name).value for name in found.channel_names]
    volumes = [(rng.gamma(2.0, 1.0 + i, 500), rng.normal(30.0 * i, 200.0, 500)) for i in range(3)]
    cases = [
        replace(case, moments=tuple((float(v.mean()), float(v.std())) for v in pair))
        for case, pair in zip(found.cases, volumes, strict=True)
    ]
    pet = np.concatenate([pair[0] / case.source[0].peak for case, pair in zip(cases, volumes, strict=True)])
    low, high = (sources[1].normalization.options[name] for name in ("low", "high"))
    ct = 2 * (np.concatenate([pair[1] for pair in volumes]) - low) / (high - low) - 1
    spreads = data.spreads(replace(found, cases=tuple(cases)), sources)
    assert spreads is not None
    for spread, voxels in zip(spreads, (pet, ct), strict=True):
        assert (spread.mean, spread.std) == pytest.approx((voxels.mean(), voxels.std()), rel=1e-3)


def test_a_constant_source_is_centred_and_one_that_was_not_measured_is_left() -> None:
    sources = channels(PETCT)[0]
    still = replace(PETCT, cases=tuple(replace(case, moments=((0.0, 0.0),) * 2) for case in PETCT.cases))
    assert [spread.std for spread in data.spreads(still, sources) or ()] == [1.0, 1.0]
    lacking = replace(PETCT, cases=(*PETCT.cases[:-1], replace(PETCT.cases[-1], moments=None)))
    assert data.spreads(lacking, sources) is None


@pytest.mark.parametrize(("kept", "enabled"), [(0.5, True), (0.92, True), (0.94, False), (0.99, False)])
def test_the_crop_is_taken_when_it_saves_enough(kept: float, enabled: bool) -> None:
    """A fifth of the voxels; `kept` is of each axis."""
    found = fingerprint("Dataset001_A", (100, 100, 100), (2.0, 2.0, 2.0), ("PET",), ("PET",), kept)
    assert data.crop(found).value.enabled is enabled


def test_the_range_holds_every_training_target_and_a_tenth_more() -> None:
    sources, targets, anchor = channels(PETCT)
    ((low, high),) = data.target_range(PETCT, sources, targets, anchor).value
    tops = [case.target[0].maximum / case.source[1].peak for case in PETCT.cases]
    assert high == pytest.approx(max(tops) + 0.1 * max(tops), rel=1e-3)
    assert low == 0, "no activity lies below 0"


@pytest.mark.parametrize(("lowest", "expected"), [(-900.0, -1024.0), (-1024.0, -1024.0), (-3024.0, -3024.0)])
def test_the_range_is_not_wider_than_what_is_physical(lowest: float, expected: float) -> None:
    """Above it there is no limit; training targets that pass it are followed, without a margin."""
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("CT",), ("CT",))
    target = replace(found.cases[0].target[0], minimum=lowest, maximum=2000.0)
    found = replace(found, cases=tuple(replace(case, target=(target,)) for case in found.cases))
    sources, targets, anchor = channels(found)
    verdict = data.target_range(found, sources, targets, anchor)
    ((low, high),) = verdict.value
    width = (2000 - lowest) * 1.1
    assert [2047.5 * value + 1023.5 for value in (low, high)] == pytest.approx([expected, lowest + width], abs=1)
    assert "-1024 HU" in verdict.reason


def test_the_rmse_from_moments_is_that_of_the_voxels() -> None:
    rng = np.random.default_rng(0)
    y = rng.gamma(2.0, 1.0, 4000)
    x = 0.7 * y + rng.normal(0, 0.3, 4000) + 0.2
    pet, target = statistics("pet"), statistics("pet")
    row = link(pet, target, 0.0, 0.0, float(np.corrcoef(x, y)[0, 1]))
    row = replace(row, source_mean=y.mean(), source_std=y.std(), target_mean=x.mean(), target_std=x.std())
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET",), ("PET",), cases=1)
    found = replace(found, cases=(replace(found.cases[0], source=(pet,), links=((row,),)),))
    sources = (data.source_channel("PET").value,)
    tied = replace(sources[0], normalization=Scheme("tied", {}))
    assert data.normalised_rmse(found, sources, (tied,), (0,)) == pytest.approx(
        [np.sqrt(np.mean((y - x) ** 2)) / pet.peak]
    )


def test_the_open_part_is_normalised_as_the_target_is() -> None:
    """Tied to the anchor, it is divided by the source's peak; a second channel with its own window joins by power."""
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET", "CT"), ("PET", "CT"))
    found = replace(found, cases=tuple(replace(case, open_rms=(0.6, 40.95)) for case in found.cases))
    sources = tuple(data.source_channel(name).value for name in found.channel_names)
    window = data.target_channel(1, found, sources[1], 1).value
    targets = (replace(sources[0], normalization=Scheme("tied", {})), window)
    peaks = [case.source[0].peak for case in found.cases]
    expected = [np.sqrt(((0.6 / peak) ** 2 + 0.02**2) / 2) for peak in peaks]
    assert data.open_part(found, sources, targets, (0, 1)) == pytest.approx(expected, rel=1e-3)


def test_an_open_part_that_the_fingerprint_lacks_is_not_invented() -> None:
    sources, targets, anchor = channels(PETCT)
    assert data.open_part(PETCT, sources, targets, anchor) is not None
    lacking = replace(PETCT, cases=tuple(replace(case, open_rms=None) for case in PETCT.cases))
    assert data.open_part(lacking, sources, targets, anchor) is None


def test_the_grain_is_that_of_the_faintest_target_normalised_as_it_is() -> None:
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET", "CT"), ("PET", "CT"))
    sources = [data.source_channel(name).value for name in found.channel_names]
    window = data.target_channel(1, found, sources[1], 1).value
    targets = (replace(sources[0], normalization=Scheme("tied", {})), window)
    peak = float(np.median([case.source[0].peak for case in found.cases]))
    for pet, ct, expected in ((0.006, 409.5, 0.006 / peak), (60.0, 4.095, 0.002)):
        with_grain = replace(found, cases=tuple(replace(case, grain=(pet, ct)) for case in found.cases))
        assert data.grain(with_grain, sources, targets, (0, 1)) == pytest.approx(expected, rel=1e-3)
    lacking = replace(found, cases=(*with_grain.cases[:-1], replace(found.cases[-1], grain=None)))
    assert data.grain(lacking, sources, targets, (0, 1)) is None


def test_the_curve_of_a_target_is_that_over_its_anchor_in_the_planned_units() -> None:
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("CT", "PET"), ("PET", "CT"))
    own = tuple(tuple(((0.0, 10.0 * t + s), (0.5, 1.0)) for s in (1, 2)) for t in (1, 2))
    found = replace(found, open_curves=own)
    sources = [data.source_channel(name).value for name in found.channel_names]
    assert data.open_curve(found, sources, (1, 0)) == (((0.0, 12.0), (0.5, 1.0)), ((0.0, 21.0), (0.5, 1.0)))
    wider = replace(sources[0], normalization=Scheme("fixed", {"low": -3071.5, "high": 5118.5}))  # twice as wide
    (low, high) = data.open_curve(found, (wider, sources[1]), (1, 0))[1]
    assert (low, high) == (pytest.approx((0.0, 21.0)), pytest.approx((0.25, 1.0)))
    assert data.open_curve(replace(found, open_curves=()), sources, (1, 0)) == ()


def test_translation_keeps_the_finest_detail_while_that_is_affordable() -> None:
    mixed = with_spacings(PETCT, [(3.0, 2.0, 2.0)] * 3 + [(3.0, 1.5, 1.5)] * 2)
    assert data.spacing(mixed).value == (3.0, 1.5, 1.5)
    wild = with_spacings(PETCT, [(3.0, 2.0, 2.0)] * 3 + [(1.0, 0.5, 0.5)] * 2)
    assert data.spacing(wild).value == (3.0, 2.0, 2.0)
    assert "voxels" in data.spacing(wild).alternatives[0].note


@pytest.mark.parametrize(("finest", "taken"), [(1.0, True), (0.97, False)])
def test_the_finest_detail_may_cost_four_times_the_voxels(finest: float, taken: bool) -> None:
    mixed = with_spacings(PETCT, [(4.0, 2.0, 2.0)] * 3 + [(finest, 2.0, 2.0)])
    assert data.spacing(mixed).value == ((finest if taken else 4.0), 2.0, 2.0)


def test_generation_takes_one_shape_that_holds_nearly_all() -> None:
    found = fingerprint("Dataset001_A", (40, 50, 60), (2.0, 2.0, 2.0), (), ("CT",), cases=20)
    odd = replace(found.cases[0], shape=(90, 90, 90), cropped_shape=(90, 90, 90))
    found = replace(found, cases=(*found.cases[1:], odd))
    assert data.volume_shape(found, Crop(False, 10.0), (2.0, 2.0, 2.0)).value == (40, 50, 60)


def test_a_tenth_of_the_cases_decides_about_detail() -> None:
    for finer, taken in ((1, 2.0), (2, 1.5)):
        mixed = with_spacings(PETCT, [(3.0, 2.0, 2.0)] * (20 - finer) + [(3.0, 1.5, 2.0)] * finer)
        assert data.spacing(mixed).value == (3.0, taken, 2.0)
    assert "lose detail in 10% of the cases" in data.spacing(mixed).alternatives[0].note


def test_a_tenth_of_large_cases_makes_all_generated_volumes_larger() -> None:
    found = fingerprint("Dataset001_A", (40, 50, 60), (2.0, 2.0, 2.0), (), ("CT",), cases=20)
    large = [replace(case, shape=(90, 90, 90), cropped_shape=(90, 90, 90)) for case in found.cases[:2]]
    found = replace(found, cases=(*found.cases[2:], *large))
    assert data.volume_shape(found, Crop(False, 10.0), (2.0, 2.0, 2.0)).value == (90, 90, 90)


def test_one_normalisation_for_the_dataset_is_that_of_its_targets() -> None:
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET",), ("PET",))
    gains = [0.2, 1.0, 5.0]  # which the targets do not share
    cases = [replace(case, source=(statistics("pet", g),)) for case, g in zip(found.cases, gains, strict=False)]
    found = replace(found, cases=tuple(cases), pooled_target=(replace(found.pooled_target[0], peak=7.0),))
    scheme = data.target_channel(0, found, data.source_channel("PET").value, 0).value.normalization
    assert (scheme.name, scheme.options["low"], scheme.options["high"]) == ("fixed", 0.0, 7.0)


def test_what_varies_only_in_the_brightest_hundredth_is_unexplained() -> None:
    """P99 is 8 ± 2 where the source is always the same: the rms over P50, P95 and P99 is 2/√3."""
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("PET",), ("PET",), cases=2)
    same = statistics("pet")
    targets = [replace(same, percentiles=same.percentiles | {"99": p99}) for p99 in (6.0, 10.0)]
    cases = [replace(case, source=(same,), target=(x,)) for case, x in zip(found.cases, targets, strict=True)]
    verdict = data.target_channel(0, replace(found, cases=tuple(cases)), data.source_channel("PET").value, 0)
    width = same.percentiles["99.5"] - same.percentiles["0.5"]
    assert f"does not explain {2 / np.sqrt(3) / width:.3f}" in verdict.reason


def test_a_level_in_planned_units_is_the_median_over_cases() -> None:
    """P99.5 of every case has one level in units of the kind, and its own in units of the dataset."""
    found = fingerprint("Dataset001_A", (40, 40, 40), (2.0, 2.0, 2.0), ("T1",), ("FLAIR",))
    gains = (1.0, 1.1, 1.2, 3.0, 9.0)
    cases = [replace(case, source=(statistics("mr", g),)) for case, g in zip(found.cases, gains, strict=True)]
    source = data.source_channel("T1").value
    bright = data.scheme_map(source.normalization, statistics("mr"))(statistics("mr").percentiles["99.5"])
    found = replace(found, cases=tuple(cases), open_curves=((((bright, 1.0),),),))
    planned = Scheme("fixed", {"low": 0.0, "high": 1000.0, "onto_low": 0.0, "onto_high": 1.0})
    (((level, _),),) = data.open_curve(found, [replace(source, normalization=planned)], (0,))
    assert level == pytest.approx(1.2 * 1.1, rel=1e-3)
