"""Laws of the comparison of configurations: pairing by case, intervals by patient, and what is advised."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from nndiff.evaluation.comparison import Candidate, Trial, compare, interval
from nndiff.evaluation.crossval import read
from nndiff.sampling.scoring import Figures
from nndiff.words.errors import NndiffError
from nndiff.words.version import versions

CASES = [f"case_{i}" for i in range(8)]
ALONE = {case: case for case in CASES}  # each case is a patient
DIFFICULTY = dict(zip(CASES, np.random.default_rng(0).uniform(15, 45, len(CASES)), strict=True))


def trial(psnr, fold="0", seconds=1.0, device="cpu", failed=None, **words):
    """A fold with these PSNRs by case; all else is equal."""
    figures = {case: Figures(psnr=value, ssim=0.5, mae=1.0, **words) for case, value in psnr.items()}
    return Trial(fold, "abc", 7, 10, device, figures, dict.fromkeys(psnr, seconds), failed or {})


def candidate(name, *trials):
    return Candidate(name, trials, 10**9)


def planted(seed=1, cases=CASES, mean=0.4):
    """Two candidates whose scores differ by `differences` where the cases differ by far more."""
    differences = np.random.default_rng(seed).normal(mean, 0.3, len(cases))
    low = {case: DIFFICULTY[case] for case in cases}
    high = {case: DIFFICULTY[case] + d for case, d in zip(cases, differences, strict=True)}
    return candidate("high", trial(high)), candidate("low", trial(low)), differences


def row_of(best, name):
    (row,) = (row for row in best.rows if row.configuration == name)
    return row


# ---------------------------------------------------------------- pairing and intervals


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_paired_difference_gives_the_interval_of_a_paired_t_test(seed) -> None:
    high, low, differences = planted(seed)
    found = row_of(compare([high, low], ALONE), "low")
    expected = stats.ttest_1samp(-differences, 0).confidence_interval(0.95)
    assert found.difference == pytest.approx(-differences.mean())
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(3).normal(0.7, 2, (2000, 4))
    ends = [interval(row) for row in draws.tolist()]
    covered = np.mean([low < 0.7 < high for low, high in ends])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_better_by_a_constant_wins_clearly_whatever_the_cases() -> None:
    low = trial(DIFFICULTY)
    high = trial({case: psnr + 0.05 for case, psnr in DIFFICULTY.items()})
    found = compare([candidate("a", low), candidate("b", high)], ALONE)
    assert found.configuration == "b"
    assert row_of(found, "a").difference == pytest.approx(-0.05)
    assert row_of(found, "a").interval == pytest.approx((-0.05, -0.05), abs=1e-9)
    assert "the difference is clear" in found.advice


def test_the_score_counts_ssim_as_the_project_does() -> None:
    one, other = trial({"case_0": 30.0}), trial({"case_0": 29.0})
    other = replace(other, figures={"case_0": Figures(psnr=29.0, ssim=0.6, mae=1.0)})
    found = compare([candidate("psnr", one), candidate("ssim", other)], ALONE)
    assert [row.figures.score for row in found.rows] == pytest.approx([41.0, 40.0])
    assert found.configuration == "ssim"


def test_many_cases_of_the_same_patients_do_not_narrow_the_interval() -> None:
    cases, patients = CASES[:3], ALONE
    high, low, _ = planted(cases=cases)
    few = row_of(compare([high, low], patients), "low")
    copies = {f"{case}_{k}": case for case in cases for k in range(20)}

    def many(one: Candidate) -> Candidate:
        figures = one.trials[0].figures
        return candidate(one.name, trial({copy: figures[case].psnr for copy, case in copies.items()}))

    found = row_of(compare([many(high), many(low)], copies), "low")
    assert found.interval == pytest.approx(few.interval)
    assert found.difference == pytest.approx(few.difference)


def test_a_patient_with_many_cases_weighs_no_more_than_another() -> None:
    patients = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    high = trial({"a1": 31.0, "a2": 31.0, "a3": 31.0, "b1": 33.0})
    low = trial(dict.fromkeys(patients, 30.0))
    found = compare([candidate("high", high), candidate("low", low)], patients)
    assert row_of(found, "low").difference == pytest.approx(-2.0)  # of 1 and 3, not of 1, 1, 1 and 3
    scores = [row.figures.score for row in found.rows]
    assert scores[1] - scores[0] == pytest.approx(-2.0)


def test_a_single_patient_has_no_interval_and_the_advice_says_so() -> None:
    patients = dict.fromkeys(CASES, "anna")
    high, low, _ = planted()
    slow = candidate("high", replace(high.trials[0], seconds=dict.fromkeys(CASES, 9.0)))
    found = compare([slow, low], patients)
    assert row_of(found, "low").interval is None
    assert "with a single patient there is no interval" in found.advice
    assert "not clearly worse" not in found.advice


def test_the_order_of_configurations_and_folds_does_not_matter() -> None:
    high, low, _ = planted(cases=CASES[1:])
    high, low = (candidate(each.name, replace(each.trials[0], failed={"case_0": each.name})) for each in (high, low))
    third = candidate("third", trial(dict.fromkeys(CASES[:4], 30.0), "0"), trial(dict.fromkeys(CASES[4:], 20.0), "1"))
    first = compare([high, low, third], ALONE)
    assert first == compare([third, low, high], ALONE) == compare([low, third, high], ALONE)
    turned = replace(third, trials=third.trials[::-1])
    other = row_of(compare([turned, low, high], ALONE), "third")
    assert (other.figures, other.interval) == (row_of(first, "third").figures, row_of(first, "third").interval)


# ---------------------------------------------------------------- which cases count


def test_a_case_that_only_one_configuration_held_out_never_counts() -> None:
    high, low, _ = planted(cases=CASES[:5])
    before = compare([high, low], ALONE)
    extra = dict.fromkeys(CASES[5:], 1000.0)
    more = candidate("low", *low.trials, trial(extra, "1"))
    found = compare([high, more], ALONE)
    assert found.cases == before.cases == {case: case for case in CASES[:5]}
    assert [row.figures for row in found.rows] == [row.figures for row in before.rows]
    assert row_of(found, "low").interval == row_of(before, "low").interval
    assert {found.left_out[case] for case in extra} == {"not held out by high"}
    assert set(before.left_out.values()) == {"held out by no fold"}


def test_a_case_in_two_folds_counts_once_as_their_mean() -> None:
    twice = candidate("a", trial({"case_0": 30.0, "case_1": 10.0}, "0"), trial({"case_0": 34.0}, "1"))
    found = compare([twice, candidate("b", trial({"case_0": 31.0, "case_1": 10.0}))], ALONE)
    assert row_of(found, "a").figures.psnr == pytest.approx((32 + 10) / 2)
    assert row_of(found, "b").difference == pytest.approx(-0.5)


def test_the_average_over_folds_counts_every_fold_once_and_all_its_cases() -> None:
    own = candidate("a", trial({"case_0": 30.0, "case_1": 32.0}, "0"), trial({"case_2": 21.0}, "1"))
    found = compare([own, candidate("b", trial({"case_0": 31.0}))], ALONE)
    row = row_of(found, "a")
    assert [fold.figures.psnr for fold in row.folds] == pytest.approx([31.0, 21.0])
    assert [fold.cases for fold in row.folds] == [2, 1]
    assert row.over_folds.psnr == pytest.approx(26.0)
    assert row.figures.psnr == pytest.approx(30.0)


def test_failures_and_infinite_scores_are_left_out_with_their_reason() -> None:
    psnr = dict(DIFFICULTY)
    failed = {"case_0": "out of memory\n  remedy: buy more"}
    own = trial({case: psnr[case] for case in CASES[1:]} | {"case_1": math.inf}, failed=failed)
    found = compare([candidate("a", own), candidate("b", trial(psnr))], ALONE)
    assert found.left_out == {
        "case_0": "failed in a, fold 0: out of memory",
        "case_1": "failed in a, fold 0: the score is infinite or undefined",
    }
    assert list(found.cases) == CASES[2:]


def test_without_a_shared_case_there_is_nothing_to_compare() -> None:
    with pytest.raises(NndiffError, match="no case that all") as caught:
        compare([candidate("a", trial({"case_0": 1.0})), candidate("b", trial({"case_1": 1.0}))], ALONE)
    assert "a: case_0; b: case_1" in str(caught.value)
    assert caught.value.remedy is not None


def test_a_texture_that_cannot_be_measured_is_absent() -> None:
    some = trial({"case_0": 30.0}, texture_db=3.0)
    none = trial({"case_1": 30.0})
    found = compare(
        [candidate("a", some, replace(none, fold="1")), candidate("b", trial(dict.fromkeys(CASES, 1.0)))], ALONE
    )
    assert row_of(found, "a").figures.texture_db == 3.0
    assert row_of(found, "b").figures.texture_db is None


# ---------------------------------------------------------------- the advice


def test_an_unclear_difference_is_called_unclear() -> None:
    high, low, _ = planted(mean=0.02)
    advice = compare([high, low], ALONE).advice
    assert "but the difference is not clear (95 % interval -" in advice
    assert "8 patients" in advice


@pytest.mark.parametrize(
    ("mean", "seconds", "device", "said"),
    [
        (0.02, 0.25, "cpu", True),
        (5.0, 0.25, "cpu", False),  # clearly worse
        (0.02, 0.95, "cpu", False),  # hardly faster
        (0.02, 4.0, "cpu", False),
        (0.02, 0.25, "cuda", False),  # seconds of two devices cannot be compared
    ],
)
def test_a_faster_one_is_named_only_if_it_is_not_clearly_worse(mean, seconds, device, said) -> None:
    high, low, _ = planted(mean=mean)
    other = replace(low.trials[0], seconds=dict.fromkeys(CASES, seconds), device=device)
    advice = compare([high, candidate("low", other)], ALONE).advice
    assert ("low is not clearly worse" in advice) == said
    assert ("takes 0.25 times the seconds" in advice) == said


def test_one_configuration_alone_is_advised_without_a_difference() -> None:
    found = compare([candidate("only", trial(DIFFICULTY, "3"))], ALONE)
    assert found.advice == "Use only, the only configuration that was compared."
    assert (found.folds, found.weights, found.versions) == (("3",), {"3": "abc"}, versions())


# ---------------------------------------------------------------- metrics.csv

HEAD = "case,channel,method,kind,range_low,range_high,PSNR,SSIM,MAE,texture_dB\n"


def test_figures_of_a_table_are_means_over_channels_of_the_prediction(tmp_path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [
        "a,0,prediction,pet,0,1,30,0.9,1,2",
        "a,1,prediction,pet,0,1,40,0.7,3,",
        "a,0,input,pet,0,1,1,0.1,9,9",
        "b,0,prediction,pet,0,1,inf,1,0,",
    ]
    path.write_text(HEAD + "\n".join(rows))
    found = read(path)
    assert found["a"] == Figures(psnr=35.0, ssim=0.8, mae=2.0, texture_db=2.0)
    assert math.isinf(found["b"].psnr)


@pytest.mark.parametrize("text", ["nothing,of,the,kind\n1,2,3,4\n", HEAD + "a,0,prediction,pet,0,1,much,1,1,1\n"])
def test_another_table_is_refused_in_words(text, tmp_path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(NndiffError, match="not a table of metrics"):
        read(tmp_path / "metrics.csv")
