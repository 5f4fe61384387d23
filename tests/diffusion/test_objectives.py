"""Tests of the objectives: their distribution of times, their loss, and their calls of a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nndiff.diffusion.losses import Squared
from nndiff.diffusion.objectives import AT_THE_SOURCE, OBJECTIVES, Denoising, Objective, Pairs
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.diffusion.process import PROCESSES, Process

FROM_SOURCE = ("bridge", "i2sb", "rddm")
FROM_NOISE = ("rectified", "trig")


def denoising(process: Process, prediction: str = "x0") -> Denoising:
    return Denoising(process, PREDICTIONS[prediction](), Squared())


# ---------------------------------------------------------------- times


def test_the_rows_are_all_known_here() -> None:
    assert {*FROM_SOURCE, *FROM_NOISE, "ddpm"} == set(PROCESSES)


@pytest.mark.parametrize("name", FROM_SOURCE)
def test_a_quarter_of_the_draws_starts_exactly_at_the_source_and_the_rest_is_even(name) -> None:
    process = PROCESSES[name]()
    drawn = [denoising(process).time_of(share) for share in np.linspace(0, 1, 1000, endpoint=False)]
    assert drawn.count(1.0) == pytest.approx(1000 * AT_THE_SOURCE, abs=2)
    rest = [t for t in drawn if t < 1]
    assert 0 < min(rest) < 2e-3
    assert np.histogram(rest, 10, (0, 1))[0] == pytest.approx(75, abs=2)


@pytest.mark.parametrize("name", FROM_NOISE)
def test_without_a_source_times_are_even_and_never_zero(name) -> None:
    process = PROCESSES[name]()
    drawn = [denoising(process).time_of(share) for share in np.linspace(0, 1, 1000, endpoint=False)]
    assert min(drawn) > 0
    assert max(drawn) == 1.0
    assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(100, abs=1)


def test_a_process_of_steps_is_trained_on_each_of_its_steps_alike() -> None:
    process = PROCESSES["ddpm"](steps=10)
    drawn = [denoising(process).time_of(share) for share in np.linspace(0, 1, 1000, endpoint=False)]
    assert sorted(set(drawn)) == [k / 10 for k in range(1, 11)]
    assert [drawn.count(k / 10) for k in range(1, 11)] == [100] * 10
    assert denoising(process).time_of(math.nextafter(1, 0)) == 1.0


# ---------------------------------------------------------------- the loss


def volumes(seed: int, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_stands_in_the_table_as_a_class_of_objectives(name: str) -> None:
    assert issubclass(OBJECTIVES[name], Objective)


@pytest.mark.parametrize("prediction", ["x0", "residual", "both", "x0_skip"])
@pytest.mark.parametrize("process", ["bridge", "trig", "ddpm"])
def test_denoising_asks_once_and_charges_nothing_for_what_the_prediction_wants(process: str, prediction: str) -> None:
    objective = denoising(PROCESSES[process](), prediction)
    x0, y, eps = (volumes(seed) for seed in range(3))
    t, asked = torch.tensor([0.3, 0.8], dtype=torch.float64), []

    def knowing(x_t: Tensor, t_seen: Tensor, condition: Tensor | None) -> Tensor:
        asked.append((x_t, t_seen, condition))
        return objective.prediction.target(objective.process, x0, y, eps, t)

    assert float(objective.loss(knowing, Pairs(x0, y, y), t, eps, None)) == 0.0
    ((x_t, t_seen, condition),) = asked
    assert torch.equal(x_t, objective.process.sample(x0, y, t, eps))
    assert t_seen.dtype == torch.float32
    assert t_seen.tolist() == pytest.approx([0.3, 0.8])
    assert condition is y

    def wrong(*words: Any) -> Tensor:
        return knowing(*words) + 2

    weight = torch.full((2, 1, 4, 5, 6), 0.1)
    assert float(objective.loss(wrong, Pairs(x0, y, y), t, eps, None)) == pytest.approx(4.0, rel=1e-5)
    assert float(objective.loss(wrong, Pairs(x0, y, y), t, eps, weight)) == pytest.approx(0.4, rel=1e-5)


def test_without_a_source_there_is_no_condition() -> None:
    objective = denoising(PROCESSES["rectified"](), "eps")
    eps, t = volumes(0), torch.tensor([0.5, 0.5], dtype=torch.float64)

    def unconditioned(x_t: Tensor, t_seen: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is None
        return eps

    assert float(objective.loss(unconditioned, Pairs(volumes(1), None, None), t, eps, None)) == 0.0
