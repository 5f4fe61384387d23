"""Laws of the prior: at t = 1 it answers the mean, its linear part is the best one, and its errors are those told."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from nndiff.assemble import build_network
from nndiff.networks.prior import LEAST, TIMES, VALUES, Prior, cosines, resized, spread
from tests.walks import prdit

SHAPE = (6, 5, 4)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prior(seed: int = 0, variance: float | None = None) -> Prior:
    """A prior with a mean volume and, unless one variance is given, a spectrum."""
    found = Prior(1, SHAPE)
    found.mean.copy_(volume(*found.mean.shape, seed=seed))
    found.variance.copy_(volume(*found.variance.shape, seed=seed + 1).exp() if variance is None else variance)
    return found


def bent(found: Prior) -> Prior:
    """With curves, which are 0 at both ends of the path."""
    found.curves[1:-1] = 0.1 * volume(TIMES - 2, 1, VALUES, seed=5)
    return found


def t_of(t: float) -> Tensor:
    return torch.tensor([t])


def test_the_cosine_transform_is_that_of_scipy_and_orthonormal() -> None:
    x = volume(2, 3, *SHAPE).double()
    np.testing.assert_allclose(cosines(x).numpy(), scipy.fft.dctn(x.numpy(), axes=(2, 3, 4), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(cosines(cosines(x), inverse=True), x)


@pytest.mark.parametrize("condition", [None, volume(2, 1, *SHAPE, seed=9)])
def test_without_signal_the_untrained_network_answers_the_mean_and_all_of_x_t_is_noise(condition) -> None:
    """At t = 1 x_t = 0.5·eps, whatever the image; in generation the reference is the mean volume, else the source's."""
    spec = prdit(bounded=True, prior_shape=SHAPE, anchors=() if condition is None else (0,))
    spec = replace(spec, in_channels=1 if condition is None else 2)
    network = build_network(spec, (1, 1, 1))
    for name, value in bent(prior()).named_buffers():
        if getattr(network.prior, name).shape == value.shape:
            getattr(network.prior, name).copy_(value)
    network.prior.slope.fill_(0.7)
    x = volume(2, 1, *SHAPE, seed=3)
    x0, eps = network(x, torch.ones(2), condition).chunk(2, dim=1)
    torch.testing.assert_close(x0, network.prior.reference(x, condition).expand_as(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(eps, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
def test_for_white_images_the_estimate_is_the_closed_form_and_its_error_as_told(t) -> None:
    """x̂0 = r + a·s²/v²·(x_t - a·r), whose error has the variance s²·sigma²/v²."""
    s, found = 0.3, Prior(1, (16, 16, 16))
    found.mean.fill_(-0.4)
    found.variance.fill_(s**2)
    a, sigma = math.cos(math.pi / 2 * t), 0.5 * math.sin(math.pi / 2 * t)
    x0 = -0.4 + s * volume(4, 1, 16, 16, 16)
    eps = volume(4, 1, 16, 16, 16, seed=1)
    x_t = a * x0 + sigma * eps
    known = found(x_t, torch.full((4,), t), None)
    v2 = (a * s) ** 2 + sigma**2
    torch.testing.assert_close(known.x0, -0.4 + a * s**2 / v2 * (x_t + 0.4 * a), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a * known.x0 + 2 * sigma * known.eps, x_t, rtol=1e-4, atol=1e-5)
    assert float(known.error_x0[0]) == pytest.approx(s * sigma / math.sqrt(v2), rel=1e-4)
    assert float((known.x0 - x0).std()) == pytest.approx(float(known.error_x0[0]), rel=0.03)
    assert float((known.eps - 0.5 * eps).std()) == pytest.approx(float(known.error_eps[0]), rel=0.03)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_no_other_gain_of_any_frequency_errs_less(t) -> None:
    found = prior()
    found.mean.zero_()
    x0 = cosines(found.variance.sqrt() * volume(4000, 1, *SHAPE), inverse=True)
    a, sigma = math.cos(math.pi / 2 * t), 0.5 * math.sin(math.pi / 2 * t)
    x_t = a * x0 + sigma * volume(4000, 1, *SHAPE, seed=1)
    own = cosines(found(x_t, torch.full((4000,), t), None).x0)
    least = (own - cosines(x0)).square().mean(0)
    for gain in (0.7, 1.3):
        assert ((gain * own - cosines(x0)).square().mean(0) >= 0.999 * least).all()


@pytest.mark.parametrize("t", [0.0, 1e-4, 0.02, 0.4, 0.999, 1.0])
def test_both_estimates_agree_on_x_t_at_every_time_and_are_finite(t) -> None:
    """x_t = a·x̂0 + sigma·ε̂, with the curves too."""
    found, x_t = bent(prior()), volume(2, 1, *SHAPE, seed=3)
    known = found(x_t, torch.full((2,), t), None)
    a, sigma, scale = found.at(t_of(t))
    torch.testing.assert_close(a * known.x0 + sigma / scale * known.eps, x_t, rtol=1e-3, atol=2e-4)
    assert all(value.isfinite().all() for value in vars(known).values())
    assert found.weights(t_of(t), SHAPE).isfinite().all()


def test_the_weights_bring_the_errors_to_unit_variance() -> None:
    found = prior()
    known = found(volume(1, 1, *SHAPE), t_of(0.4), None)
    errors = torch.cat([known.error_x0, known.error_eps], dim=1).square()
    torch.testing.assert_close(found.weights(t_of(0.4), SHAPE) * errors, torch.ones(1, 2, 1, 1, 1))


def test_an_output_adds_to_the_estimates_in_units_of_their_errors_with_opposite_signs() -> None:
    """One F is wanted for both: x_t = a·x̂0 + sigma·ε̂ still holds if F = F'."""
    known = prior()(volume(1, 1, *SHAPE), t_of(0.4), None)
    f = volume(1, 1, *SHAPE, seed=4)
    x0, eps = known.completed(torch.cat([f, f], dim=1)).chunk(2, dim=1)
    torch.testing.assert_close(x0, known.x0 + known.error_x0 * f)
    a, sigma, scale = prior().at(t_of(0.4))
    torch.testing.assert_close(a * x0 + sigma / scale * eps, volume(1, 1, *SHAPE), rtol=1e-4, atol=1e-5)


def test_curves_are_read_between_their_nodes_and_held_beyond_their_limits() -> None:
    found = Prior(1, SHAPE)
    found.limits.copy_(torch.tensor([[-2.0], [2.0]]))
    found.curves.copy_(torch.linspace(-2, 2, VALUES).expand(TIMES, 1, VALUES))  # m(u) = u
    u = torch.linspace(-3, 3, 120).reshape(1, 1, *SHAPE)
    torch.testing.assert_close(found.mended(u, t_of(0.33)), u.clamp(-2, 2), rtol=1e-4, atol=1e-5)
    table = torch.arange(5.0)[:, None]
    assert spread(torch.tensor([0.0, 0.375, 1.0]), table)[:, 0].tolist() == [0.0, 1.5, 4.0]


def test_a_source_of_another_size_is_followed_and_a_spectrum_fits_any_patch() -> None:
    found = Prior(1, SHAPE, anchors=(1,))
    found.mean.fill_(0.2)
    found.slope.fill_(0.5)
    condition = torch.stack([volume(9, 8, 7), torch.full((9, 8, 7), 3.0)])[None]
    known = found(torch.zeros(1, 1, 9, 8, 7), t_of(1.0), condition)
    torch.testing.assert_close(known.x0, torch.full((1, 1, 9, 8, 7), 1.7), rtol=1e-4, atol=1e-4)
    assert resized(found.variance, (9, 8, 7)).shape == (1, 1, 9, 8, 7)
    assert found.spectrum((3, 3, 3)).min() >= LEAST
