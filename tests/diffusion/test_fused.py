"""The fused prediction and its objective: two estimates of x0, weighted by their errors, and how both are trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nndiff.diffusion.losses import Gradient, Squared
from nndiff.diffusion.objectives import Network, Pairs, Posterior
from nndiff.diffusion.prediction import IMAGE_UNIT, LEVEL_UNIT, PREDICTIONS, Fused
from nndiff.diffusion.process import PROCESSES, Process
from nndiff.words.errors import NndiffError

OPEN, DISTANCE = 0.02, 0.07
SIZE = (2, 1, 8, 9, 10)
RATIOS = (0.1, 1.0, 8.0)


def fused() -> Fused:
    return Fused(DISTANCE, OPEN)


def drawn(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def at(process: Process, ratio: float) -> Tensor:
    """Return the time at which r is this multiple of the open part, for each volume."""
    return torch.full((SIZE[0],), process.time_of_ratio(ratio * OPEN), dtype=torch.float64)


def pairs() -> tuple[Tensor, Tensor]:
    """Return a smooth source, and a target that differs from it by white noise of the open part."""
    y = 0.3 + 0.1 * torch.linspace(-1, 1, SIZE[-1]).expand(SIZE)
    return y, y + OPEN * drawn(0)


# ---------------------------------------------------------------- the estimate


@pytest.mark.parametrize("name", ["bridge", "i2sb", "rddm", "ddpm", "trig"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_with_the_true_mean_and_error_it_is_the_posterior_of_a_gaussian(name: str, ratio: float) -> None:
    """x̂0 = m + s²/(s² + r²)·(u - m), with the variance s²·r²/(s² + r²)."""
    process, (y, x0) = PROCESSES[name](), pairs()
    y = y.expand(SIZE).clone()
    t, r = at(process, ratio), ratio * OPEN
    x_t = process.sample(x0, y, t, drawn(1))
    a, b, _ = process.at(float(t[0]))
    u = (x_t - b * y) / a
    own = fused()
    mean = own.weighed(process, torch.zeros(2, 2, *SIZE[2:]), x_t, y, t).image  # the local mean of y
    share = OPEN**2 / (OPEN**2 + r**2)
    found = own.weighed(process, torch.zeros(2, 2, *SIZE[2:]), x_t, y, t)
    torch.testing.assert_close(found.x0, mean + share * (u - mean), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variance, torch.full_like(found.variance, share * r**2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_noise_passes_where_the_error_is_large_and_stops_where_it_is_small(ratio: float) -> None:
    process, (y, x0) = PROCESSES["bridge"](0.01), pairs()
    t = at(process, ratio)
    x_t = process.sample(x0, y, t, drawn(1))
    a, b, _ = process.at(float(t[0]))
    u = (x_t - b * y) / a
    level = torch.full(SIZE, -7.0 / LEVEL_UNIT)
    level[:, :, 4:] = 4.0 / LEVEL_UNIT
    found = fused().weighed(process, torch.cat([torch.zeros(SIZE), level], dim=1), x_t, y, t)
    r = ratio * OPEN
    torch.testing.assert_close(found.x0[:, :, :4], found.image[:, :, :4], rtol=1e-4, atol=1e-3 * r)
    gain = math.exp(8) / (math.exp(8) + ratio**2)
    wanted = found.image + gain * (u - found.image)
    torch.testing.assert_close(found.x0[:, :, 4:], wanted[:, :, 4:], rtol=1e-3, atol=1e-5)


def test_three_targets_are_estimated_as_each_alone() -> None:
    """The network states all images first, then all expected errors."""
    process, (y, x0) = PROCESSES["bridge"](), pairs()
    t = at(process, 1.0)
    sources, states = ([k * volume for k in (1.0, 2.0, -1.0)] for volume in (y, process.sample(x0, y, t, drawn(1))))
    answers, levels = [drawn(k) for k in (2, 3, 4)], [drawn(k) for k in (5, 6, 7)]
    told = torch.cat([*answers, *levels], dim=1)
    found = fused().weighed(process, told, torch.cat(states, dim=1), torch.cat(sources, dim=1), t)
    for k, own in enumerate(zip(answers, levels, states, sources, strict=True)):
        alone = fused().weighed(process, torch.cat(own[:2], dim=1), own[2], own[3], t)
        torch.testing.assert_close(found.x0[:, k : k + 1], alone.x0)
        torch.testing.assert_close(found.variance[:, k : k + 1], alone.variance)


def test_one_step_from_the_source_is_the_image_with_the_expected_error_of_each_voxel() -> None:
    process, (y, _) = PROCESSES["bridge"](), pairs()
    answer, level = drawn(2), drawn(3)
    t = torch.ones(2, dtype=torch.float64)
    found = fused().weighed(process, torch.cat([answer, level], dim=1), y.expand(SIZE), y, t)
    assert torch.equal(found.x0, found.image)
    torch.testing.assert_close(found.variance, OPEN**2 * (2 * (LEVEL_UNIT * level).clamp(-7, 4)).exp())


# ---------------------------------------------------------------- where more is open, and where less

CURVE = ((0.0, 0.1), (0.5, 1.0), (1.0, 4.0))
STEPPED = torch.tensor([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0])  # levels and, by hand, the shares there
SHARES = torch.tensor([0.1, 0.1, 0.55, 1.0, 2.5, 4.0, 4.0])


def stepped() -> Tensor:
    """Return a source that is flat over three voxels, with each of the levels."""
    return STEPPED.repeat_interleave(3).expand(2, 1, 3, 3, 21).clone()


@pytest.mark.parametrize("ratio", RATIOS)
def test_before_training_each_voxel_expects_the_error_that_is_usual_where_its_source_is_so_bright(ratio: float) -> None:
    process, y = PROCESSES["bridge"](), stepped()
    t, r, own = at(process, ratio), ratio * OPEN, Fused(DISTANCE, OPEN, (CURVE,))
    found = own.weighed(process, torch.zeros(2, 2, 3, 3, 21), process.sample(y, y, t, 0 * y), y, t)
    usual = (OPEN * SHARES) ** 2
    torch.testing.assert_close(found.variance[0, 0, 1, 1, 1::3], usual * r**2 / (usual + r**2), rtol=1e-3, atol=0)


def test_an_answer_moves_the_image_by_the_error_that_is_usual_there() -> None:
    process, y, t = PROCESSES["bridge"](), stepped(), torch.ones(2, dtype=torch.float64)
    own = Fused(DISTANCE, OPEN, (CURVE,))
    nothing, something = (
        own.weighed(process, torch.full((2, 2, 3, 3, 21), value), y, y, t).image for value in (0.0, 0.3)
    )
    moved = (something - nothing)[0, 0, 1, 1, 1::3]
    torch.testing.assert_close(moved, 0.3 * IMAGE_UNIT * OPEN * SHARES.clamp(max=1), rtol=1e-3, atol=1e-6)


def test_each_target_has_its_own_curve_and_a_flat_one_is_none() -> None:
    process, t = PROCESSES["bridge"](), torch.ones(2, dtype=torch.float64)
    y = torch.cat([stepped(), stepped()], dim=1)
    output = torch.zeros(2, 4, 3, 3, 21)
    own, none = Fused(DISTANCE, OPEN, (((0.3, 1.0),), CURVE)), Fused(DISTANCE, OPEN)
    found, flat = (each.weighed(process, output, y, y, t) for each in (own, none))
    torch.testing.assert_close(found.variance[:, :1], flat.variance[:, :1], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.variance[0, 1, 1, 1, 1::3], (OPEN * SHARES) ** 2, rtol=1e-3, atol=0)
    assert torch.equal(found.image, flat.image)


@pytest.mark.parametrize("grain", [0.0, 0.3 * OPEN, 2 * OPEN])
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_wanted_output_gives_the_target_where_the_error_is_known(ratio: float, grain: float) -> None:
    process, y = PROCESSES["bridge"](), stepped()
    t, own = at(process, ratio), Fused(1.0, OPEN, (CURVE,), grain)
    x0, eps = (torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x0 = y + 0.01 * x0
    output = own.target(process, x0, y, eps, t)
    torch.testing.assert_close(own.x0(process, output, process.sample(x0, y, t, eps), y, t), x0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 1.0, 8.0, 100.0])
def test_before_training_it_errs_as_it_expects_where_the_open_part_is_coarse_with_a_grain(ratio: float) -> None:
    """The open part is even over cubes of eight voxels, but for a white grain of a fifth; the source's mean is true."""
    rng, share, edge = torch.Generator().manual_seed(0), 0.2, 8
    process, size = PROCESSES["bridge"](OPEN / 2), (2, 1, 48, 48, 48)
    coarse = torch.randn((2, 1, 6, 6, 6), generator=rng)
    for axis in (2, 3, 4):
        coarse = coarse.repeat_interleave(edge, dim=axis)
    x0 = 0.5 + OPEN * (math.sqrt(1 - share**2) * coarse + share * torch.randn(size, generator=rng))
    y, t = torch.full(size, 0.5), at(process, ratio)
    x_t, nothing = process.sample(x0, y, t, torch.randn(size, generator=rng)), torch.zeros((2, 2, *size[2:]))
    own = Fused(DISTANCE, OPEN, (), share * OPEN)
    found = own.weighed(process, nothing, x_t, y, t)
    torch.testing.assert_close(
        own.typical_variance(process, t).mean().float(), found.variance.mean(), rtol=1e-3, atol=0
    )
    one_scale = Fused(DISTANCE, OPEN).weighed(process, nothing, x_t, y, t)
    inner = torch.zeros(edge, dtype=torch.bool)
    inner[1:-1] = True  # without the faces of the cubes
    axes = inner.repeat(6)
    where = (axes[:, None, None] & axes[:, None] & axes).expand(size)
    errors = [float((each.x0 - x0)[where].square().mean().sqrt()) for each in (found, one_scale)]
    assert errors[0] == pytest.approx(float(found.variance.mean().sqrt()), rel=0.1)
    assert errors[0] < 1.02 * errors[1]
    assert errors[0] < 0.75 * errors[1] or not 0.1 < ratio < 8  # there one scale cannot tell coarse from fine


# ---------------------------------------------------------------- what the network is shown


def test_the_network_is_shown_the_same_by_every_process() -> None:
    y, x0 = pairs()
    shown = []
    for name in ("bridge", "i2sb", "rddm", "ddpm", "rectified"):
        process = PROCESSES[name]()
        t = at(process, 1.0)
        shown.append(fused().view(process, process.sample(x0, y, t, drawn(1)), y, t))
    for image, told in shown[1:]:
        torch.testing.assert_close(image, shown[0][0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(told, shown[0][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_input_and_wanted_output_have_unit_size_at_every_time(ratio: float) -> None:
    process, (y, x0) = PROCESSES["bridge"](), pairs()
    t, own = at(process, ratio), Fused(OPEN, OPEN)  # here the source is the mean, so the distance is the open part
    eps = drawn(1)
    shown, told = own.view(process, process.sample(x0, y, t, eps), y, t)
    wanted = IMAGE_UNIT * own.target(process, x0, y, eps, t)[:, :1]
    inside = (..., slice(1, -1))
    assert float(shown[inside].std()) == pytest.approx(1, abs=0.1)
    assert float(wanted[inside].std()) == pytest.approx(1, abs=0.1)
    assert told.tolist() == pytest.approx([ratio**2 / (1 + ratio**2)] * 2)


@pytest.mark.parametrize("name", list(PROCESSES))
def test_at_the_start_it_is_shown_nothing_and_told_one_whatever_noise_there_is(name: str) -> None:
    process, (y, x0), t = PROCESSES[name](), pairs(), torch.ones(2, dtype=torch.float64)
    shown, told = fused().view(process, process.sample(x0, y, t, drawn(1)), y, t)
    assert float(shown.abs().max()) == 0
    assert told.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


# ---------------------------------------------------------------- the objective


def posterior(process: Process, **options: float) -> Posterior:
    return Posterior(process, fused(), Gradient(0.3), **options)


@pytest.mark.parametrize("name", list(PROCESSES))
def test_the_stated_share_of_times_is_the_start_and_the_rest_is_even_in_the_logarithm_of_the_ratio(name: str) -> None:
    process = PROCESSES[name]()
    objective = posterior(process, at_source=0.3, high=8.0, low=0.1)
    times = [objective.time_of(i / 400) for i in range(400)]
    assert times.count(1.0) == 120
    levels = [math.log(process.ratio(t) / OPEN) for t in times if t < 1]
    gaps = torch.tensor(sorted(levels)).diff()
    assert min(levels) == pytest.approx(math.log(0.1), abs=0.05)
    assert max(levels) == pytest.approx(math.log(8), abs=0.05)
    assert float(gaps.max()) == pytest.approx(float(gaps.min()), rel=0.05)


def answering(output: Tensor) -> Network:
    return lambda x_t, t, condition: output


def test_the_expected_error_is_trained_to_the_true_one_and_leaves_the_image_alone() -> None:
    """At t = 1 the likelihood is stationary where e is the rms error of the image; its gradient reaches only e."""
    process, (y, x0) = PROCESSES["bridge"](), pairs()
    t, eps = torch.ones(2, dtype=torch.float64), drawn(1)
    batch = Pairs(x0, y.expand(SIZE).clone(), y.expand(SIZE).clone())
    image = torch.zeros(SIZE)
    error = float(
        (fused().weighed(process, torch.zeros(2, 2, *SIZE[2:]), batch.y, batch.y, t).image - x0).square().mean()
    )
    gradients = []
    for guess in (0.5, 1.0, 2.0):
        level = torch.full(SIZE, math.log(guess * math.sqrt(error) / OPEN) / LEVEL_UNIT, requires_grad=True)
        loss = posterior(process).loss(answering(torch.cat([image, level], dim=1)), batch, t, eps, None)
        gradients.append(float(torch.autograd.grad(loss, level)[0].sum()))
    assert gradients[0] < -0.1
    assert gradients[1] == pytest.approx(0, abs=1e-4)
    assert gradients[2] > 0.05
    answers = []
    for calibration in (0.0, 1.0):
        output = torch.zeros(2, 2, *SIZE[2:], requires_grad=True)
        loss = posterior(process, calibration=calibration).loss(answering(output), batch, t, eps, None)
        answers.append(torch.autograd.grad(loss, output)[0][:, :1])
    assert torch.equal(*answers)


def test_below_the_start_the_loss_is_smallest_at_the_mean_and_at_the_start_at_the_median() -> None:
    """The target is y in three voxels of four and y + 0.4 in the fourth: the median is y, the mean y + 0.1."""
    process = PROCESSES["bridge"]()
    y = torch.full(SIZE, 0.5)
    x0 = y + 0.4 * (torch.arange(SIZE[-1]) % 4 == 3)
    batch = Pairs(x0, y, y)
    best = {}
    for name, t in (("start", torch.ones(2, dtype=torch.float64)), ("middle", at(process, 100.0))):
        losses = {}
        for shift in (0.0, 0.05, 0.1, 0.2):
            level = torch.full(SIZE, -7.0 / LEVEL_UNIT)  # the image alone
            grown = math.sqrt(1 + (1 / process.ratio(float(t[0])) * OPEN) ** 2)
            output = torch.cat([torch.full(SIZE, shift / OPEN / grown / IMAGE_UNIT), level], dim=1)
            objective = Posterior(process, fused(), Gradient(0.0), calibration=0.0)
            losses[shift] = float(objective.loss(answering(output), batch, t, drawn(1), None))
        best[name] = min(losses, key=lambda shift: losses[shift])
    assert best == {"start": 0.0, "middle": 0.1}


def test_voxels_without_weight_do_not_count() -> None:
    process, (y, x0) = PROCESSES["bridge"](), pairs()
    batch = Pairs(x0, y.expand(SIZE).clone(), y.expand(SIZE).clone())
    weight = torch.ones(SIZE)
    weight[..., 5:] = 0
    output = torch.zeros(2, 2, *SIZE[2:], requires_grad=True)
    t = torch.tensor([1.0, float(at(process, 1.0)[0])], dtype=torch.float64)
    loss = posterior(process, evenness=0.5).loss(answering(output), batch, t, drawn(1), weight)
    gradient = torch.autograd.grad(loss, output)[0]
    assert float(gradient[..., 5:].abs().max()) == 0
    assert float(gradient[..., :5].abs().min()) > 0


def test_the_objective_refuses_a_prediction_without_an_expected_error() -> None:
    with pytest.raises(NndiffError, match=r"trains an image and its expected error"):
        Posterior(PROCESSES["bridge"](), PREDICTIONS["x0"](), Squared())


# ---------------------------------------------------------------- a few planes at a time


@pytest.mark.parametrize("planes", [1, 16, 17, 40])
@pytest.mark.parametrize("grain", [0.0, 0.5 * OPEN])
def test_a_few_planes_at_a_time_give_what_the_whole_volume_gives(planes: int, grain: float) -> None:
    generator, own = torch.Generator().manual_seed(3), Fused(DISTANCE, OPEN, (CURVE,), grain)
    process, t = PROCESSES["bridge"](), torch.tensor([0.4, 1.0], dtype=torch.float64)
    x_t, y = (torch.rand(2, 1, planes, 9, 10, generator=generator) for _ in range(2))
    output = torch.randn(2, 2, planes, 9, 10, generator=generator)

    def computed() -> list[Tensor]:
        estimate = own.estimate(process, output, x_t, y, t)
        return [estimate.x0, estimate.eps, own.variance(process, output, x_t, y, t), own.view(process, x_t, y, t)[0]]

    whole = computed()
    with torch.no_grad():
        for found, expected in zip(computed(), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
