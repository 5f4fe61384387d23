"""Every alarm in a made case in which it must be told, and in one in which it must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nndiff.checkpoint import Epoch
from nndiff.plans.plan import Stage
from nndiff.training.alarms import ALIKE, DEAD, alarms
from nndiff.words.scheme import Scheme
from tests.training.tiny import run_of, tiny_plan

STAGES = (Stage("core.local", Scheme("squared", {}), 0.5), Stage("core.whole", Scheme("squared", {}), 0.5, rate=0.5))
PLANNED = replace(tiny_plan().configurations["bridge"], stages=STAGES, learning_rate=1e-3)
RUN = run_of(PLANNED, training_steps=1000, warmup_steps=50)
FIRSTS = (0, 500)
HEALTHY: dict[str, Any] = {
    "losses": {"0-0.2": 0.01, "1": 0.05},
    "mean_losses": {"0-0.2": 0.2, "1": 0.05},
    "token_spread": 0.5,
    "dead": 0.01,
}


def epoch(step: int, score: float, **words: Any) -> Epoch:
    own = {"psnr": None, "ssim": None, "mae": None, "baseline_psnr": None, **HEALTHY, **words}
    return Epoch(
        epoch=step // 100,
        step=step,
        loss=0.1,
        score=score,
        learning_rate=1e-4,
        gradient_norm=1,
        seconds=1,
        waiting=0,
        **own,
    )


def history(scores: list[float], **words: Any) -> list[Epoch]:
    """Epochs of 100 steps; what is said of the last one alone is in `words`."""
    past = [epoch(100 * (i + 1), score) for i, score in enumerate(scores)]
    return [*past[:-1], replace(past[-1], **words)]


def told(scores: list[float], baseline: float = -1.0, **words: Any) -> set[str]:
    return set(alarms(history(scores, **words), RUN, baseline, PLANNED, FIRSTS))


def test_a_healthy_training_raises_none() -> None:
    scores = [-0.5, -0.4, -0.3, -0.25, -0.22, -0.21, -0.18, -0.15, -0.13, -0.12]
    assert all(not told(scores[: n + 1]) for n in range(10))


@pytest.mark.parametrize(("score", "expected"), [(-1.2, True), (-1.0, True), (-0.9, False)])
def test_no_better_than_without_a_network(score, expected) -> None:
    assert ("not learning" in told([score])) == expected


def test_nothing_is_said_during_the_warm_up_or_the_first_tenth() -> None:
    for step, warm, expected in ((50, 50, False), (99, 50, False), (100, 50, True), (150, 200, False)):
        found = alarms([epoch(step, -2.0)], replace(RUN, warmup_steps=warm), -1.0, PLANNED, FIRSTS)
        assert bool(found) == expected


FIRST = [-0.5, -0.3, -0.21, -0.2, -0.2]  # a first stage that has come to rest


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([-0.2, -0.2, -0.2, -0.2, -0.2], True),
        ([-0.2, -0.2, -0.2005, -0.1995, -0.199], True),  # less than a hundredth of the loss
        ([-0.24, -0.15, -0.23, -0.16, -0.21], True),  # scatters by more than it gained
        ([-0.25, -0.24, -0.23, -0.22, -0.22], True),  # worse
        ([-0.2, -0.19, -0.18, -0.17, -0.16], False),
        ([-0.2, -0.2], False),  # too early to say: not half of the stage
    ],
)
def test_a_stage_that_is_no_better_than_the_one_before(second, expected) -> None:
    assert ("no better stage" in told(FIRST + second)) == expected
    assert "no better stage" not in told(FIRST + [-0.2] * 0)


def test_the_words_name_the_stage_its_gain_and_where_it_began() -> None:
    words = alarms(history(FIRST + [-0.2] * 5), RUN, -1.0, PLANNED, FIRSTS)["no better stage"]
    assert "core.whole" in words
    assert "began at step 500" in words


@pytest.mark.parametrize(("loss", "expected"), [(0.05, False), (0.052, False), (0.06, True), (0.2, True)])
def test_an_answer_without_signal_that_is_worse_than_the_mean_volume(loss, expected) -> None:
    assert ("worse than mean" in told([-0.5], losses={"1": loss}, mean_losses={"1": 0.05})) == expected


def test_where_losses_by_time_are_unknown_nothing_is_said_of_them() -> None:
    assert not told([-0.5], losses={}, mean_losses={}, token_spread=None, dead=None)


@pytest.mark.parametrize(("spread", "expected"), [(0.0015, True), (0.9 * ALIKE, True), (1.1 * ALIKE, False)])
def test_tokens_that_hardly_differ(spread, expected) -> None:
    assert ("tokens alike" in told([-0.5], token_spread=spread)) == expected


@pytest.mark.parametrize(("dead", "expected"), [(1.0, True), (DEAD + 0.01, True), (DEAD, False), (0.0, False)])
def test_many_dead_channels(dead, expected) -> None:
    assert ("dead channels" in told([-0.5], dead=dead)) == expected


def test_a_remedy_has_a_third_of_the_rate_of_the_stage() -> None:
    found = alarms(history([-0.5] * 10, token_spread=0.0), RUN, -1.0, PLANNED, FIRSTS)
    assert "learning_rate=0.0002" in found["tokens alike"]
