"""The dial from the mean to the texture: which samplers stand on it, where, and when there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nndiff.assemble import build_process
from nndiff.sampling import dial
from nndiff.sampling.dial import Point
from nndiff.walk.survival import survival
from nndiff.walk.times import Ratio
from nndiff.words.errors import NndiffError
from nndiff.words.scheme import Scheme
from tests.prediction.trained import plan_of
from tests.walks import walk_of

ONE, FOUR, SIX, TEN = (walk_of("source", 1000, steps) for steps in (1, 4, 6, 10))


def bridge(**changes):
    return replace(plan_of().configurations["bridge"], **changes)


# ---------------------------------------------------------------- measured


def test_the_dial_holds_what_no_other_sampler_beats_from_the_best_psnr_to_the_best_texture() -> None:
    points = [Point(SIX, 31.0, 1.0), Point(ONE, 34.0, 8.0), Point(TEN, 30.0, 2.0), Point(FOUR, 33.0, 4.0)]
    stops = dial.measured(points)
    assert [stop.sampler for stop in stops] == [ONE, FOUR, SIX]  # TEN is worse than SIX in both
    assert [stop.position for stop in stops] == pytest.approx([0, 1 / 3, 1])
    assert [(stop.psnr, stop.texture_db) for stop in stops] == [(34.0, 8.0), (33.0, 4.0), (31.0, 1.0)]


def test_a_sampler_that_is_best_in_both_stands_alone() -> None:
    assert [stop.position for stop in dial.measured([Point(ONE, 34.0, 1.0), Point(SIX, 33.0, 2.0)])] == [0.0]
    assert dial.measured([]) == ()


@pytest.mark.parametrize(
    ("position", "expected"), [(0, ONE), (0.1, ONE), (0.3, FOUR), (0.6, FOUR), (0.7, SIX), (1, SIX)]
)
def test_a_position_selects_the_nearest_stop(position, expected) -> None:
    stops = dial.measured([Point(ONE, 34.0, 8.0), Point(FOUR, 33.0, 4.0), Point(SIX, 31.0, 1.0)])
    assert dial.at(stops, position, bridge()).sampler == expected


# ---------------------------------------------------------------- planned


def test_before_tuning_it_goes_from_one_step_to_a_whole_walk() -> None:
    """With a perfect network, the first stop keeps no variance, the last one more than four fifths of it."""
    configuration = bridge()
    process, s = build_process(configuration.process), configuration.open_part
    stops = dial.planned(configuration)
    assert [stop.position for stop in stops] == [0.0, 0.5, 1.0]
    assert stops[0].sampler.steps == 1
    kept = [
        survival(process, walk.rule, walk.times(process, walk.rule), s) for walk in (stop.sampler for stop in stops)
    ]
    assert kept[0] == pytest.approx(0, abs=1e-12)
    assert 0.1 < kept[1] < 0.6
    assert 0.8 < kept[2] < 1.1
    assert all(isinstance(stop.sampler.times, Ratio) for stop in stops)


def test_a_late_start_gets_its_mean_from_the_whole_path() -> None:
    (ddpm,) = plan_of(configuration="ddpm").configurations.values()
    first, *_, last = dial.planned(ddpm)
    assert (first.sampler.start.name, first.sampler.times.first, first.sampler.steps) == ("source", 1000, 1)
    assert last.sampler.start == ddpm.sampler.start


# ---------------------------------------------------------------- refusals


def test_a_model_without_both_ends_refuses_all_but_the_mean() -> None:
    old = bridge(prediction="x0")
    assert dial.planned(old) == ()
    assert dial.at((), 0.0, old).sampler == old.sampler
    with pytest.raises(NndiffError, match=r"no dial from the mean to the texture") as refusal:
        dial.at((), 1.0, old)
    assert "prediction x0" in str(refusal.value)
    assert "nndiff_tune" in str(refusal.value)


def test_a_tuned_model_whose_best_texture_is_that_of_the_mean_says_so() -> None:
    stops = dial.measured([Point(ONE, 34.0, 1.0), Point(SIX, 33.0, 2.0)])
    with pytest.raises(NndiffError, match=r"no sampler of this model whose texture is nearer"):
        dial.at(stops, 1.0, bridge())
    assert dial.at(stops, 0.0, bridge()).sampler == ONE


def test_a_process_without_noise_is_named_in_the_refusal() -> None:
    silent = bridge(process=Scheme("bridge", {"gamma": 0.0}))
    assert dial.planned(silent) == ()
    with pytest.raises(NndiffError, match=r"gamma 0"):
        dial.at(dial.planned(silent), 0.5, silent)


def test_a_model_that_was_trained_for_the_mean_alone_has_no_dial() -> None:
    def taught(at_source: float):
        (stage,) = bridge().stages
        options = {**stage.objective.options, "at_source": at_source}
        return bridge(stages=(replace(stage, objective=replace(stage.objective, options=options)),))

    assert len(dial.planned(taught(0.99))) == 3
    mean = taught(1.0)
    assert dial.planned(mean) == ()
    assert dial.at((), 0.0, mean).sampler == mean.sampler
    with pytest.raises(NndiffError, match="trained for the mean alone"):
        dial.at((), 1.0, mean)


@pytest.mark.parametrize("position", [-0.1, 1.5])
def test_a_position_beyond_the_ends_is_refused(position) -> None:
    with pytest.raises(NndiffError, match=r"out of range"):
        dial.at(dial.planned(bridge()), position, bridge())
