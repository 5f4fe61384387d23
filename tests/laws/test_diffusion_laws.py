"""Laws that hold for every process, tested with a Gaussian whose optimal estimate has a closed form.

With x0 ~ N(m, tau²) given y the best estimate is linear,  x̂0 = m + K·(x_t - a·m - b·y),  K = a·tau²/(a²·tau² + sigma²),
so the variance of a reverse chain follows an exact recursion, and the deterministic path an exact formula.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nndiff.diffusion.prediction import ERROR_SHARE, MOST_SKIPPED, PREDICTIONS, Both, Estimate, eps_of
from nndiff.diffusion.process import DDPM, PROCESSES, Bridge, Process, Trig
from nndiff.diffusion.walk import Course, walk
from nndiff.walk.rules import First, Hot, Second
from nndiff.walk.starts import STARTS
from nndiff.walk.times import Even, Squared
from tests.walks import even_times

ROWS = sorted(PROCESSES)
M, Y = 0.3, -0.8


def row(name: str) -> Process:
    return PROCESSES[name]()


def gain(process: Process, t: float, tau: float) -> float:
    a, _, sigma = process.at(t)
    total = a**2 * tau**2 + sigma**2
    return a * tau**2 / total if total > 0 else 0.0


def oracle(process: Process, y: torch.Tensor, tau: float):
    def denoise(x_t: torch.Tensor, t: float) -> Estimate:
        a, b, _ = process.at(t)
        x0 = M + gain(process, t, tau) * (x_t - a * M - b * y)
        return Estimate(x0, eps_of(process, x0, x_t, y, torch.full((1,), t)))

    return denoise


def volume(value: float, n: int = 40) -> torch.Tensor:
    return torch.full((1, 1, n, n, n), value, dtype=torch.float64)


def begun(process: Process, y: torch.Tensor, tau: float, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    """(x_1, its variance), drawn from the marginal at t = 1."""
    a, b, sigma = process.at(1.0)
    x0 = M + tau * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    x = a * x0 + b * y + sigma * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return x, a**2 * tau**2 + sigma**2


# ---------------------------------------------------------------- the process


@pytest.mark.parametrize("name", ROWS)
def test_it_ends_at_the_target_and_begins_where_its_row_says(name) -> None:
    assert row(name).at(0.0) == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)
    beginning = {
        "ddpm": (math.sqrt(4.035830e-05), 0.0, 1.0),
        "bridge": (0.0, 1.0, 0.0),
        "i2sb": (0.0, 1.0, 0.0),
        "rddm": (0.0, 1.0, 0.1),
        "rectified": (0.0, 0.0, 1.0),
        "trig": (0.0, 0.0, 0.5),
    }[name]
    assert row(name).at(1.0) == pytest.approx(beginning, abs=1e-4)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("t", [0.03, 0.4, 0.9])
def test_samples_have_the_marginal(name, t) -> None:
    process = row(name)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(2, 1, 40, 40, 40, generator=generator, dtype=torch.float64)
    x_t = process.sample(torch.full_like(eps, M), torch.full_like(eps, Y), torch.tensor([t, t]), eps)
    a, b, sigma = process.at(t)
    assert float(x_t.mean()) == pytest.approx(a * M + b * Y, abs=5e-3)
    assert float(x_t.std()) == pytest.approx(sigma, rel=1e-2)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_an_update_keeps_the_marginal(name, eta) -> None:
    """Given the true x0: what is kept of the old noise and what is added make up sigma_s."""
    process = row(name)
    for t, s in [(0.9, 0.7), (0.5, 0.49), (0.3, 0.01), (0.999, 0.001), (0.2, 0.0)]:
        update = process.update(t, s, eta)
        a, b, sigma = process.at(s)
        assert (update.a, update.b) == (a, b)
        assert update.ratio**2 * process.at(t)[2] ** 2 + update.noise**2 == pytest.approx(sigma**2, abs=1e-14)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("t", [0.002, 0.05, 0.3, 0.5, 0.9])
def test_the_time_of_a_ratio_is_the_inverse_of_the_ratio_at_a_time(name, t) -> None:
    process = row(name)
    a, _, sigma = process.at(t)
    assert process.ratio(t) == sigma / a
    assert process.time_of_ratio(process.ratio(t)) == pytest.approx(t, rel=1e-9)
    assert process.ratio(process.time_of_ratio(t)) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_the_ratio_grows_from_nought_and_one_that_is_never_reached_is_at_the_start(name) -> None:
    process = row(name)
    ratios = [process.ratio(k / 100) for k in range(101)]
    assert ratios[0] == 0
    assert all(low < high for low, high in pairwise(ratios))
    assert process.time_of_ratio(ratios[-1] * 2) == 1.0 if math.isfinite(ratios[-1]) else process.at(1.0)[0] == 0


def test_full_eta_on_ddpm_is_the_published_ancestral_step() -> None:
    process = DDPM()
    betas = np.linspace(1e-4, 2e-2, 1000)
    abar = np.cumprod(1 - betas)
    for k in range(2, 1001):
        update = process.update(k / 1000, (k - 1) / 1000, 1.0)
        a_t, a_s, beta = abar[k - 1], abar[k - 2], betas[k - 1]
        on_x0 = math.sqrt(a_s) * beta / (1 - a_t)
        on_x_t = math.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
        assert update.ratio == pytest.approx(on_x_t, rel=1e-9)
        assert update.a - update.ratio * process.at(k / 1000)[0] == pytest.approx(on_x0, rel=1e-9)
        assert update.noise**2 == pytest.approx(beta * (1 - a_s) / (1 - a_t), rel=1e-9)


def test_full_eta_on_a_bridge_is_inversion_by_direct_iteration() -> None:
    """x_s = (s/t)·x_t + (1 - s/t)·x̂0 + noise of variance 4·gamma²·s·(t - s)/t."""
    gamma, t, s = 0.1, 0.7, 0.4
    update = Bridge(gamma).update(t, s, 1.0)
    assert update.ratio == pytest.approx(s / t)
    assert update.a - update.ratio * (1 - t) == pytest.approx(1 - s / t)
    assert update.b - update.ratio * t == pytest.approx(0.0, abs=1e-12)
    assert update.noise**2 == pytest.approx(4 * gamma**2 * s * (t - s) / t)


def test_full_eta_on_rddm_inverts_a_chain_that_only_adds() -> None:
    """x_t = x_s + (Ā_t - Ā_s)·(y - x0) + noise of variance B̄_t² - B̄_s²  (Liu et al. 2024): by Bayes' rule,

    x_s = (s/t)²·x_t + (1 - (s/t)²)·x̂0 + … and noise of variance B̄_s²·(B̄_t² - B̄_s²)/B̄_t²."""
    noise, t, s = 0.1, 0.7, 0.4
    update = PROCESSES["rddm"](noise).update(t, s, 1.0)
    assert update.ratio == pytest.approx((s / t) ** 2)
    assert update.noise**2 == pytest.approx(noise**2 * s**2 * (t**2 - s**2) / t**2)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_without_noise_a_bridges_ratio_stays_what_its_limit_is(eta) -> None:
    t, s = 0.6, 0.25
    exact = s * ((1 - s) - eta**2 * (1 - s / t)) / (t * (1 - t))
    for gamma in (1e-1, 1e-9, 0.0):
        assert Bridge(gamma).update(t, s, eta).ratio ** 2 == pytest.approx(exact)
    assert Bridge(0.0).update(t, s, eta).noise == 0.0


# ---------------------------------------------------------------- chains on the oracle


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [3, 20])
def test_a_chains_variance_is_that_of_the_exact_recursion(name, eta, steps) -> None:
    process, tau = row(name), 0.6
    generator = torch.Generator().manual_seed(1)
    y = volume(Y)
    x, variance = begun(process, y, tau, generator)
    times = even_times(1.0, steps)
    for t, s in pairwise(times):
        a_t, update, k = process.at(t)[0], process.update(t, s, eta), gain(process, t, tau)
        variance = (update.a * k + update.ratio * (1 - a_t * k)) ** 2 * variance + update.noise**2
    *_, (x, _, _) = walk(x, times, oracle(process, y, tau), First(eta), Course(process, y, generator))
    assert float(x.mean()) == pytest.approx(M, abs=1e-2)
    assert float(x.std()) == pytest.approx(math.sqrt(variance), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("name", ["ddpm", "rectified", "trig", "bridge", "i2sb", "rddm"])
def test_more_ancestral_steps_bring_the_variance_to_the_truth(name) -> None:
    process, tau = row(name), 0.6
    stds = []
    for steps in (10, 100, 1000):
        a, _, sigma = process.at(1.0)
        variance = a**2 * tau**2 + sigma**2
        for t, s in pairwise(even_times(1.0, steps)):
            update, k = process.update(t, s, 1.0), gain(process, t, tau)
            variance = (update.a * k + update.ratio * (1 - process.at(t)[0] * k)) ** 2 * variance + update.noise**2
        stds.append(math.sqrt(variance) / tau)
    # a source row carries only the noise it was given, so little of a wide posterior comes back
    assert stds == sorted(stds)
    if name in ("ddpm", "rectified", "trig"):
        assert stds[-1] > 0.95


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_point_is_recovered_exactly_in_any_number_of_steps(name, steps, eta) -> None:
    process, y = row(name), volume(Y, 4)
    generator = torch.Generator().manual_seed(0)
    x, _ = begun(process, y, 0.0, generator)
    course = Course(process, y, generator)
    *_, (x, _, _) = walk(x, even_times(1.0, steps), oracle(process, y, 0.0), First(eta), course)
    np.testing.assert_allclose(x.numpy(), M, atol=1e-12)


# ---------------------------------------------------------------- hot sampling


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("ahead", [2, 3])
@pytest.mark.parametrize("t", [1.0, 0.6, 0.4])
def test_a_hot_step_keeps_the_marginal(name, ahead, t) -> None:
    """Given the true x0 and its noise: down k steps, and up again with fresh noise, is where the chain would be."""
    process, s, y = row(name), t - 0.1, volume(Y)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (a_t, b_t, sigma_t), (a_s, b_s, sigma_s) = process.at(t), process.at(s)
    x_t = a_t * M + b_t * Y + sigma_t * eps
    estimate = Estimate(torch.full_like(eps, M), eps if sigma_t > 0 else torch.zeros_like(eps))
    x_s = Hot(ahead).step(Course(process, y, generator), x_t, estimate, None, t, s)
    assert float(x_s.mean()) == pytest.approx(a_s * M + b_s * Y, abs=1e-2)
    assert float(x_s.std()) == pytest.approx(sigma_s, rel=1e-2)
    if sigma_t > 0:
        kept = float((x_s * eps).mean() / sigma_s)
        assert kept < 0.99, "noise was exchanged"


@pytest.mark.parametrize("name", ROWS)
def test_one_step_ahead_is_cold_the_deterministic_walk_and_draws_nothing(name) -> None:
    process, tau, y = row(name), 0.6, volume(Y, 6)
    x, _ = begun(process, y, tau, torch.Generator().manual_seed(0))
    walks = []
    for rule in (Hot(1), First(0.0)):
        course = Course(process, y, torch.Generator().manual_seed(1))
        *_, (end, _, _) = walk(x, even_times(1.0, 9), oracle(process, y, tau), rule, course)
        walks.append(end)
    torch.testing.assert_close(*walks, rtol=0, atol=1e-6)  # the oracle takes t in float32


def test_near_the_end_a_hot_walk_goes_by_single_steps_and_ends_at_the_estimate() -> None:
    process, y = Trig(), volume(Y, 4)
    x, estimate = volume(0.2, 4), Estimate(volume(M, 4), volume(0.7, 4))

    def after(ahead: int, t: float, s: float) -> torch.Tensor:
        course = Course(process, y, torch.Generator().manual_seed(0))
        return Hot(ahead).step(course, x, estimate, None, t, s)

    assert torch.equal(after(4, 0.4, 0.3), after(1, 0.4, 0.3))  # to 0
    assert not torch.equal(after(4, 0.41, 0.31), after(1, 0.41, 0.31))
    assert torch.equal(after(4, 0.1, 0.0), estimate.x0)


@pytest.mark.parametrize("steps", [20, 25, 50, 60, 100])
def test_the_step_before_the_last_is_a_plain_one_however_times_are_rounded(steps) -> None:
    """Two steps from 2/N lead to 0: nothing is put back."""
    times, x = even_times(1.0, steps), volume(0.2, 4)
    estimate = Estimate(volume(M, 4), volume(0.7, 4))
    t, s = times[-3], times[-2]
    one, two = (
        Hot(ahead).step(Course(Trig(), None, torch.Generator().manual_seed(0)), x, estimate, None, t, s)
        for ahead in (1, 2)
    )
    assert torch.equal(two, one)


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("name", ROWS)
def test_a_hot_walk_recovers_a_point(name, steps) -> None:
    process, y = row(name), volume(Y, 4)
    generator = torch.Generator().manual_seed(0)
    x, _ = begun(process, y, 0.0, generator)
    course = Course(process, y, generator)
    *_, (x, _, _) = walk(x, even_times(1.0, steps), oracle(process, y, 0.0), Hot(2), course)
    np.testing.assert_allclose(x.numpy(), M, atol=1e-12)


@pytest.mark.parametrize(("tau", "kept", "evenly"), [(0.5, 0.97, 0.98), (0.1, 0.95, 0.93), (0.02, 0.90, 0.80)])
def test_a_hundred_hot_steps_by_squares_keep_the_spread_that_even_ones_lose(tau, kept, evenly) -> None:
    """Of images with the spread `tau` around M, by their own best denoiser: the std of the samples, as a share."""
    process, y, ratios = Trig(), volume(Y), []
    for grid in (Squared(1000, 100), Even(1000, 100)):
        generator = torch.Generator().manual_seed(0)
        x, _ = begun(process, y, tau, generator)
        times = grid(process, Hot(2))
        *_, (x, _, _) = walk(x, times, oracle(process, y, tau), Hot(2), Course(process, y, generator))
        ratios.append(float(x.std()) / tau)
    assert kept < ratios[0] < 1.01
    assert ratios[1] < evenly


@pytest.mark.parametrize(("steps", "error"), [(50, 6e-3), (1000, 2e-5)])
def test_the_published_way_down_errs_by_second_order_and_ours_does_not(steps, error) -> None:
    """x_t + k·dβ·(sin β·x̂0 - cos β·ε̂), four steps ahead, beside the path itself."""
    process, k = Trig(), 4
    eps = torch.randn(40, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None, None]
    worst = []
    for t in np.arange(k + 1, steps + 1) / steps:
        (a, _, sigma), u = process.at(t), t - k / steps
        x_t = a * M + sigma * eps
        euler = x_t + k / steps * math.pi / 2 * (math.sin(t * math.pi / 2) * M - math.cos(t * math.pi / 2) * 0.5 * eps)
        ours = Hot(k)._down(Course(process), x_t, Estimate(torch.full_like(eps, M), eps), t, u)
        path = process.at(u)[0] * M + process.at(u)[2] * eps
        worst.append(float((euler - path).std()))
        np.testing.assert_allclose(ours.numpy(), path.numpy(), atol=1e-12)
        if len(worst) > 60:
            break
    assert max(worst) < error * 1.2


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("rule", [First(0.0), Second()], ids=str)
def test_a_solver_has_the_order_it_declares(name, rule) -> None:
    """On interior times, uniform in log(a/sigma), against the exact deterministic path."""
    process, tau, y = row(name), 0.4, volume(Y, 1)

    grid = torch.linspace(0.9, 0.1, 20_001, dtype=torch.float64)
    a, _, sigma = process.coefficients(grid)
    levels = (a / sigma).log().numpy()
    first, last = 0.9, 0.1
    spread = [math.sqrt(process.at(t)[0] ** 2 * tau**2 + process.at(t)[2] ** 2) for t in (first, last)]
    errors = []
    for steps in (160, 320):
        times = np.interp(np.linspace(levels[0], levels[-1], steps + 1), levels, grid.numpy()).tolist()
        a, b, _ = process.at(first)
        x = volume(a * M + b * Y + spread[0], 1)
        *_, (x, _, _) = walk(x, times, oracle(process, y, tau), rule, Course(process, y))
        a, b, _ = process.at(last)
        errors.append(abs(float(x) - (a * M + b * Y + spread[1])))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(rule.order, abs=0.12)


# ---------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
def test_a_perfect_output_is_a_perfect_estimate(name, prediction) -> None:
    process, kind = row(name), PREDICTIONS[prediction]()
    generator = torch.Generator().manual_seed(3)
    x0, y, eps = (torch.randn(3, 2, 4, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    x_t = process.sample(x0, y, t, eps)
    estimate = kind.estimate(process, kind.target(process, x0, y, eps, t), x_t, y, t)
    np.testing.assert_allclose(estimate.x0.numpy(), x0.numpy(), atol=1e-8)
    np.testing.assert_allclose(estimate.eps.numpy(), eps.numpy(), atol=1e-8)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
def test_what_a_prediction_calls_undefined_at_the_start_is_no_number_there_and_all_else_is(name, prediction) -> None:
    process, guess, t = row(name), PREDICTIONS[prediction](0.3), torch.ones(1)
    y, x_t = volume(Y, 2), volume(Y, 2)
    output = torch.cat([torch.ones_like(y)] * guess.channels, dim=1)
    a, _, sigma = process.at(1.0)
    assert guess.defined(a, sigma) == bool(guess.estimate(process, output, x_t, y, t).x0.isfinite().all())


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("t", [0.005, 0.02, 0.3, 0.9, 1.0])
def test_of_two_guesses_each_is_weighted_by_the_others_error(name, t) -> None:
    """An output that is off by e, independently of x_t's noise: the error of the two is 1/(1/e² + a²/sigma²)."""
    process, distance = row(name), 0.05
    a, _, sigma = process.at(t)
    error, generator = ERROR_SHARE * distance, torch.Generator().manual_seed(0)
    x0, y = volume(M), volume(Y)
    eps, off = (torch.randn(x0.shape, generator=generator, dtype=torch.float64) for _ in "ab")
    times = torch.full((1,), t, dtype=torch.float64)
    x_t = process.sample(x0, y, times, eps)
    estimate = PREDICTIONS["x0_skip"](distance).estimate(process, x0 + error * off, x_t, y, times).x0
    weight = min(MOST_SKIPPED, error**2 * a**2 / (error**2 * a**2 + sigma**2)) if sigma > 0 else 0.0
    wanted = (weight * sigma / a) ** 2 + ((1 - weight) * error) ** 2 if weight else error**2
    if sigma > 0 and weight < MOST_SKIPPED:
        assert wanted == pytest.approx(1 / (1 / error**2 + a**2 / sigma**2))
    assert float((estimate - x0).square().mean()) == pytest.approx(wanted, rel=0.03)


def test_where_x_t_is_the_target_itself_an_output_still_counts_a_tenth() -> None:
    skip, t = PREDICTIONS["x0_skip"](0.05), torch.zeros(1)
    estimate = skip.estimate(DDPM(1000), volume(0.0), volume(1.0), None, t).x0
    assert float(estimate.mean()) == pytest.approx(MOST_SKIPPED)


def test_both_and_fused_have_two_outputs_per_target() -> None:
    assert Both.channels == 2
    assert {name for name in PREDICTIONS if PREDICTIONS[name].channels == 2} == {"both", "fused"}
    assert {name for name in PREDICTIONS if PREDICTIONS[name].tells_error} == {"fused"}


def test_the_estimate_is_clamped_to_the_range() -> None:
    process, y = DDPM(), volume(Y, 3)
    generator = torch.Generator().manual_seed(0)
    limits = torch.tensor(-0.1), torch.tensor(0.1)
    x, _ = begun(process, y, 0.0, generator)
    course = Course(process, y)
    for _, estimate, _ in walk(x, even_times(1.0, 4), oracle(process, y, 0.0), First(0.0), course, limits):
        assert float(estimate.x0.max()) == pytest.approx(0.1)


# ---------------------------------------------------------------- starts


def noise(seed: int = 5) -> torch.Tensor:
    return torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def never(x_t: torch.Tensor, t: float) -> Estimate:
    raise AssertionError("this start needs no network")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_source_and_shortcut_put_the_source_in_the_targets_place(name, t) -> None:
    process, y = row(name), volume(Y, 8)
    expected = process.sample(y, y, torch.tensor([t]), noise())
    for start in ("source", "shortcut"):
        torch.testing.assert_close(STARTS[start]()(process, y, y, t, never, noise()), expected)


@pytest.mark.parametrize("name", ["bridge", "i2sb"])
def test_a_bridge_begins_at_the_source_to_the_bit(name) -> None:
    y = volume(Y, 8)
    assert torch.equal(STARTS["source"]()(row(name), y, y, 1.0, never, noise()), y)


@pytest.mark.parametrize("name", ["ddpm", "rectified", "trig"])
def test_noise_begins_with_nothing_but_noise(name) -> None:
    process = row(name)
    x = STARTS["noise"]()(process, volume(0.0, 8), None, 1.0, never, noise())
    torch.testing.assert_close(x, process.at(1.0)[2] * noise())


@pytest.mark.parametrize("name", ROWS)
def test_a_draft_is_the_true_marginal_when_one_step_knows_the_target(name) -> None:
    process, y = row(name), volume(Y, 8)
    x = STARTS["draft"]()(process, y, y, 0.3, oracle(process, y, 0.0), noise())
    torch.testing.assert_close(x, process.sample(volume(M, 8), y, torch.tensor([0.3]), noise()))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_shortcut_with_the_noise_of_its_step_beats_twice_and_half_of_it(eta) -> None:
    """Less Is More, Table 6, as the distance of the ends' distribution from the truth's, with y a little off x0."""
    process, tau, distance, step = DDPM(1000), 0.2, 0.02, 50
    generator = torch.Generator().manual_seed(1)
    like = volume(0.0)
    x0 = M + tau * torch.randn(like.shape, generator=generator, dtype=torch.float64)
    y = x0 + distance * torch.randn(like.shape, generator=generator, dtype=torch.float64)
    eps = torch.randn(like.shape, generator=generator, dtype=torch.float64)

    def off(noised_as: int) -> float:
        x = STARTS["shortcut"]()(process, y, y, noised_as / 1000, never, eps)
        # the scale is the step's own, so that the noise alone is wrong
        a, right = process.at(noised_as / 1000)[0], process.at(step / 1000)[0]
        times, course = even_times(step / 1000, step), Course(process, None, generator)
        *_, (end, _, _) = walk(x - (a - right) * y, times, oracle(process, y, tau), First(eta), course)
        return abs(float(end.std()) - tau)

    assert off(step) < 0.02 * tau
    assert off(2 * step) > 2 * off(step)
    assert off(step // 2) > 2 * off(step)
