"""What tuning says of the texture's end: several draws, and estimates from an x_t that was made from the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nndiff.assemble import build_formulation
from nndiff.imaging import store
from nndiff.sampling import dial
from nndiff.sampling.translate import build_model
from nndiff.tuning.draws import drawn
from nndiff.tuning.measure import Bench
from nndiff.tuning.teacher import RATIOS, forced, table
from tests.training.tiny import CPU, NAME, prepare, tiny_plan, trainer_of

CASES = ("case_0", "case_1", "case_2")


@pytest.fixture
def bench(tmp_path) -> Bench:
    """A network that answers zero: its image is the local mean of the source, and it expects the open part."""
    plan = tiny_plan(["bridge"], open_curve=(), grain=0.0)
    prepare(tmp_path, plan, 3)
    weights = {name: torch.zeros_like(v) for name, v in trainer_of(plan, "bridge").network.state_dict().items()}
    return Bench(build_model(plan, "bridge", [weights], CPU), plan, tmp_path / "preprocessed" / NAME / "bridge", seed=7)


def test_forced_estimates_have_the_errors_of_two_estimates_weighed_by_their_errors(bench) -> None:
    configuration = bench.model.configuration
    s, sampler = configuration.open_part, dial.planned(configuration)[-1].sampler
    rows = forced(bench, sampler, CASES)
    assert [row.ratio for row in rows] == list(RATIOS)
    for row in rows:
        r = row.ratio * s
        expected = s if math.isinf(r) else s * r / math.hypot(s, r)
        assert row.expected == pytest.approx(expected, rel=1e-4)
        assert row.white == pytest.approx(row.expected, rel=1e-4)  # it expects the same of every voxel
    prior = rows[0].error  # of the local mean
    for row in rows[1:]:  # an error of the image weighs r², the noise weighs s²
        r = row.ratio * s
        wanted = math.hypot(r**2 * prior, s**2 * r) / (s**2 + r**2)
        assert row.error == pytest.approx(wanted, rel=0.05)
    assert len(table(rows).splitlines()) >= len(rows) + 1


def test_a_model_without_an_expected_error_has_no_such_table(bench) -> None:
    configuration = bench.model.configuration
    model = replace(bench.model, formulation=build_formulation(configuration.process, "x0", 0.1, 0.03))
    assert forced(replace(bench, model=model), configuration.sampler, CASES) == []


def test_spread_and_error_of_draws_are_those_of_the_draws_that_prediction_makes(bench) -> None:
    stops = dial.planned(bench.model.configuration)
    several = replace(stops[-1].sampler, samples=3)
    found = drawn(bench, several, stops[0].sampler, CASES[:1], CASES[1:])
    spread, error = [], []
    for case in CASES[1:]:
        arrays = store.open_case(bench.folder, case)
        draws = [bench.draw(several, case, np.array(arrays["source"]), k) for k in range(3)]
        spread.append(np.var(draws, axis=0, ddof=1).mean() * 4 / 3)
        error.append(np.square(np.mean(draws, axis=0) - arrays["target"]).mean())
    assert found.spread_over_error == pytest.approx(math.sqrt(np.mean(spread) / np.mean(error)), rel=1e-5)
    assert found.sampler == stops[-1].sampler
    assert (found.draws, found.cases) == (3, 2)
    assert found.mean_psnr > found.psnr  # a mean of draws is nearer to the truth than one of them


def test_the_factor_makes_spread_and_error_equal_on_the_cases_of_the_choice(bench) -> None:
    stops = dial.planned(bench.model.configuration)
    several = replace(stops[-1].sampler, samples=3)
    same = drawn(bench, several, stops[0].sampler, CASES[:2], ())
    assert same.spread_over_error * same.scale == pytest.approx(1)
