"""Tests of the variance that survives a walk: reference values, laws over all processes, and simulated walks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from nndiff.diffusion.prediction import Estimate, eps_of
from nndiff.diffusion.process import DDPM, I2SB, RDDM, Bridge, Process
from nndiff.diffusion.walk import Course, walk
from nndiff.walk.rules import First, Hot, Rule, Second
from nndiff.walk.starts import Draft, Noise, Shortcut, Source, Start
from nndiff.walk.survival import bias, survival
from nndiff.walk.times import Even, Sine
from tests.walks import even_times

S = 0.0075  # simulated low-count PET, normalised
FROM_SOURCE = [Bridge(0.1), Bridge(S / 2), I2SB(), RDDM()]


def time_of(process: Process, ratio: float) -> float:
    """Return the time at which sigma/a is `ratio`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if process.ratio(middle) < ratio else (low, middle)
    return low


def by_ratio(process: Process, s: float, count: int, most: float = 8.0, least: float = 0.1) -> list[float]:
    """Return `count` times at which sigma/a falls from `most` to `least` times s in equal steps of its log, then 0."""
    ratios = [most * s * (least / most) ** (i / (count - 1)) for i in range(count)]
    return [time_of(process, ratio) for ratio in ratios] + [0.0]


# ---------------------------------------------------------------- reference values


@pytest.mark.parametrize(
    ("s", "steps", "expected"),
    [
        (0.0075, 4, 0.004),
        (0.0075, 10, 0.012),
        (0.0075, 20, 0.026),
        (0.0075, 50, 0.064),
        (0.02, 4, 0.03),
        (0.02, 10, 0.08),
        (0.02, 20, 0.16),
        (0.02, 50, 0.32),
    ],
)
def test_a_noisy_bridge_at_even_times_loses_almost_all_texture(s: float, steps: int, expected: float) -> None:
    process = Bridge(0.1)
    digits = 3 if expected < 0.1 and s < 0.01 else 2
    assert round(survival(process, First(0.0), Even(1000, steps)(process, First(0.0)), s), digits) == expected


@pytest.mark.parametrize(("steps", "even", "sine"), [(4, 0.49, 0.64), (10, 0.73, 0.98), (20, 0.84, 1.00)])
def test_a_bridge_with_the_noise_of_the_open_part_keeps_it(steps: int, even: float, sine: float) -> None:
    process = Bridge(S / 2)
    assert round(survival(process, First(0.0), Even(1000, steps)(process, First(0.0)), S), 2) == even
    assert round(survival(process, Second(), Sine(1000, steps)(process, Second()), S), 2) == sine


@pytest.mark.parametrize("process", FROM_SOURCE, ids=lambda row: f"{type(row).__name__}-{row.scale:g}")
@pytest.mark.parametrize(("steps", "expected"), [(4, 0.74), (10, 1.03), (20, 0.99)])
def test_times_uniform_in_the_log_of_the_ratio_keep_it_for_every_process(
    process: Process, steps: int, expected: float
) -> None:
    """The first of the evaluations is at t = 1; the others cover 8 s to 0.1 s."""
    times = [1.0, *by_ratio(process, S, steps - 1)]
    assert survival(process, Second(), times, S) == pytest.approx(expected, abs=0.006)


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("process", FROM_SOURCE, ids=lambda row: f"{type(row).__name__}-{row.scale:g}")
def test_one_step_from_the_source_is_the_mean(process: Process) -> None:
    kept = survival(process, First(0.0), [1.0, 0.0], S)
    assert kept == pytest.approx(0.0, abs=1e-12)
    assert bias(process, First(0.0), [1.0, 0.0], S) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("process", [*FROM_SOURCE, DDPM()], ids=lambda row: f"{type(row).__name__}-{row.scale:g}")
@pytest.mark.parametrize("s", [0.0075, 0.05])
def test_many_small_steps_keep_everything(process: Process, s: float) -> None:
    times = [1.0, *by_ratio(process, s, 400, most=200, least=0.002)]
    for rule in (First(0.0), Second(), First(1.0)):
        assert survival(process, rule, times, s) == pytest.approx(1.0, abs=0.03)


def test_only_the_ratio_of_s_and_noise_counts() -> None:
    times = even_times(1.0, 10)
    few, many = (survival(Bridge(gain * 0.004), Second(), times, gain * S) for gain in (1, 7))
    assert few == pytest.approx(many)


def test_a_late_start_keeps_some_of_the_error_of_the_source() -> None:
    process = DDPM()
    shares = [bias(process, Second(), by_ratio(process, S, 20, most), S, Shortcut()) for most in (2, 8, 32)]
    assert shares == sorted(shares, reverse=True)
    assert shares[1] == pytest.approx(S / math.hypot(S, 8 * S), abs=0.02)
    draft = bias(process, Second(), by_ratio(process, S, 20), S, Draft())
    assert abs(draft) < 0.1 * shares[1]


# ---------------------------------------------------------------- simulated walks


def simulated(process: Process, rule: Rule, times: Sequence[float], s: float, start: Start) -> tuple[float, float]:
    """Return the mean and the variance of many simulated walks towards targets of mean 0 and standard deviation s."""
    generator = torch.Generator().manual_seed(1)
    y = torch.full((1, 1, 60, 60, 60), 0.4, dtype=torch.float64)

    def denoise(x_t: torch.Tensor, t: float) -> Estimate:
        a, b, sigma = process.at(t)
        x0 = torch.zeros_like(x_t) if a == 0 else (x_t - b * y) / a / (1 + (sigma / a / s) ** 2)
        return Estimate(x0, eps_of(process, x0, x_t, y, torch.tensor([t], dtype=torch.float64)))

    noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    x = start(process, y, y, times[0], denoise, noise)
    *_, (x, _, _) = walk(x, times, denoise, rule, Course(process, y, generator))
    return float(x.mean()), float(x.var())


@pytest.mark.parametrize(
    ("process", "rule", "start", "first"),
    [
        (Bridge(0.2), Second(), Source(), 1.0),
        (Bridge(0.2), First(0.7), Source(), 1.0),
        (Bridge(0.2), Hot(2), Source(), 1.0),
        (RDDM(), First(1.0), Source(), 1.0),
        (DDPM(), First(1.0), Noise(), 1.0),
        (DDPM(), Second(), Shortcut(), 0.2),
        (I2SB(), First(1.0), Draft(), 0.3),
    ],
    ids=["second", "eta", "hot", "rddm", "noise", "shortcut", "draft"],
)
def test_simulated_walks_have_the_computed_mean_and_variance(
    process: Process, rule: Rule, start: Start, first: float
) -> None:
    s, times = 0.2, even_times(first, 6)
    mean, variance = simulated(process, rule, times, s, start)
    kept = survival(process, rule, times, s, start)
    assert variance == pytest.approx(kept * s**2, rel=0.015)
    assert mean == pytest.approx(0.4 * bias(process, rule, times, s, start), abs=2e-3)
