"""Tests of the losses against their closed forms, and of the effect of a mask's weight on each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nndiff.diffusion.losses import LOSSES, Gradient, Squared

OUTSIDE = 0.1
SHAPE = (2, 2, 6, 7, 8)  # [B, C, Z, Y, X]
every_loss = pytest.mark.parametrize("name", list(LOSSES))


def error(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ball() -> Tensor:
    """A mask of both volumes, [B, 1, Z, Y, X]."""
    z, y, x = (torch.linspace(-1, 1, n) for n in SHAPE[2:])
    inside = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < 0.6
    return torch.stack([inside, ~inside])[:, None]


def weight_of(mask: Tensor) -> Tensor:
    return torch.full_like(mask, OUTSIDE, dtype=torch.float64).masked_fill(mask, 1.0)


def charged(name: str, residual: Tensor, weight: Tensor | None = None) -> float:
    truth = error(7)
    return float(LOSSES[name]()(truth + residual, truth, weight))


def test_the_closed_forms() -> None:
    e, w = error().numpy(), weight_of(ball()).numpy()
    assert charged("squared", error()) == pytest.approx(float(np.mean(e**2)))
    assert charged("squared", error(), weight_of(ball())) == pytest.approx(float(np.mean(w * e**2)))
    for weight, v in ((None, np.ones_like(w)), (weight_of(ball()), w)):
        expected = float(np.mean(v * np.abs(e)))
        for axis in (2, 3, 4):
            low, high = (np.delete(v, place, axis) for place in (0, -1))
            expected += 0.3 * float(np.mean(np.minimum(low, high) * np.abs(np.diff(e, axis=axis))))
        assert charged("gradient", error(), weight) == pytest.approx(expected)


def test_the_weight_of_the_gradients_is_an_option_and_an_axis_of_one_voxel_has_none() -> None:
    flat, truth = torch.randn(1, 1, 1, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 1, 4, 4, dtype=torch.float64)
    plain, steep = (float(Gradient(weight)(flat, truth)) for weight in (0.0, 2.0))
    assert plain == pytest.approx(float(flat.abs().mean()))
    assert steep - plain == pytest.approx(2 * sum(float(flat.diff(dim=axis).abs().mean()) for axis in (3, 4)))


# ---------------------------------------------------------------- a mask's weight


@every_loss
def test_a_weight_of_one_changes_nothing_and_no_error_costs_nothing(name: str) -> None:
    assert charged(name, error(), torch.ones(2, 1, *SHAPE[2:])) == pytest.approx(charged(name, error()))
    assert charged(name, torch.zeros(SHAPE, dtype=torch.float64), weight_of(ball())) == 0.0


@every_loss
def test_outside_a_mask_an_error_counts_exactly_a_tenth(name: str) -> None:
    """All of it outside, and one voxel whose neighbours are all on its own side."""
    nowhere = torch.zeros(2, 1, *SHAPE[2:], dtype=torch.bool)
    assert charged(name, error(), weight_of(nowhere)) == pytest.approx(OUTSIDE * charged(name, error()), rel=1e-12)
    mask, inside, outside = nowhere.clone(), torch.zeros(SHAPE), torch.zeros(SHAPE)
    mask[..., :4] = True
    inside[0, 0, 3, 3, 1] = outside[0, 0, 3, 3, 6] = 1.0
    found = [charged(name, one.double(), weight_of(mask)) for one in (inside, outside)]
    assert found[1] == pytest.approx(OUTSIDE * found[0], rel=1e-12)


@pytest.mark.parametrize("size", [-3.0, 1e-3, 1.0])
def test_a_constant_error_is_charged_nothing_by_the_gradients_at_the_rim_of_a_mask(size: float) -> None:
    """A weight that multiplied answer and target would make a step of the constant there."""
    weight, residual = weight_of(ball()), torch.full(SHAPE, size, dtype=torch.float64)
    assert charged("gradient", residual, weight) == pytest.approx(abs(size) * float(weight.mean()), rel=1e-9)


def test_a_difference_across_the_rim_has_the_smaller_of_both_weights() -> None:
    mask = torch.zeros(2, 1, *SHAPE[2:], dtype=torch.bool)
    mask[..., :4] = True
    for side in (mask, ~mask):  # an error of 1 on one side of the rim: one step of 1 on every line along x
        residual = side.to(torch.float64).expand(SHAPE)
        expected = float((weight_of(mask) * residual).mean()) + 0.3 * OUTSIDE / (SHAPE[-1] - 1)
        assert charged("gradient", residual, weight_of(mask)) == pytest.approx(expected)


def test_squared_errors_on_both_sides_of_a_mask_add_up() -> None:
    both = sum(charged("squared", error(), weight_of(mask)) for mask in (ball(), ~ball()))
    assert both == pytest.approx((1 + OUTSIDE) * charged("squared", error()))


# ---------------------------------------------------------------- padding, whose weight is 0


@every_loss
def test_padding_has_no_loss_and_no_gradient_and_neither_has_the_step_to_it(name: str) -> None:
    """Any content of the padding gives the same loss and, inside, the same gradient as an error of 0 there."""
    inside = torch.zeros(2, 1, *SHAPE[2:], dtype=torch.bool)
    inside[..., :4, :, :6] = True
    found = []
    for seed, size in ((0, 0.0), (1, 1.0), (2, 1e6)):
        residual = torch.where(inside, error(), size * error(seed)).requires_grad_()
        loss = LOSSES[name]()(residual, torch.zeros(SHAPE, dtype=torch.float64), inside.double())
        (gradient,) = torch.autograd.grad(loss, residual)
        assert not gradient[~inside.expand(SHAPE)].any()
        found.append((loss, gradient))
    assert all(torch.equal(loss, found[0][0]) and torch.equal(gradient, found[0][1]) for loss, gradient in found)
    assert found[0][1].any()


@every_loss
def test_a_voxel_of_a_padded_sample_counts_as_much_as_one_of_another(name: str) -> None:
    inside = torch.ones(2, 1, *SHAPE[2:], dtype=torch.bool)
    inside[0, ..., 5:] = False
    residual = torch.zeros(SHAPE, dtype=torch.float64)
    residual[:, 0, 3, 3, 2] = 1.0
    alone = [charged(name, residual * (torch.arange(2) == i)[:, None, None, None, None], inside) for i in (0, 1)]
    assert alone[0] == pytest.approx(alone[1], rel=1e-12)


@every_loss
def test_a_batch_with_padding_has_the_mean_loss_of_its_samples(name: str) -> None:
    """So the gradient does not depend on how samples are shared between batches and processes."""
    inside = torch.ones(2, 1, *SHAPE[2:], dtype=torch.float64)
    inside[0, ..., 3:] = 0.0
    truth = torch.zeros(1, *SHAPE[1:], dtype=torch.float64)
    apart = [float(LOSSES[name]()(error()[i : i + 1], truth, inside[i : i + 1])) for i in (0, 1)]
    assert charged(name, error(), inside) == pytest.approx(sum(apart) / 2)


@every_loss
def test_a_weight_is_shared_by_all_channels(name: str) -> None:
    weight = weight_of(ball())
    assert charged(name, error(), weight) == pytest.approx(charged(name, error(), weight.expand(SHAPE)))
    assert isinstance(LOSSES[name](), Gradient | Squared)
