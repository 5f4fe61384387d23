"""Tests that a metric is one row: it is measured, written, summarised and shown without a change of another file."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nndiff.cli import evaluate as command
from nndiff.metrics import image
from nndiff.metrics.table import METRICS, Comparison, Metric, measured, near_one_is_good
from tests.conftest import make_phantom, save_volume

PAGE = Path(__file__).parents[2] / "documentation" / "reference" / "metrics.md"
LOCAL = ["HF_body", "HF_air", "HF_hot", "band_middle", "band_coarse", "neighbour_correlation_bias", "texture_dB"]
ALWAYS = ["PSNR", "SSIM", "MS_SSIM", "MAE", "NRMSE", "HF", *LOCAL, "grid_bias", "grid_imbalance", "grid_excess"]
SHAPE = (30, 32, 34)  # large enough for every band of the texture in the body

every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)


pytestmark = pytest.mark.usefixtures("small_scales")


def comparison(shift: float = 0.1, **more) -> Comparison:
    truth = make_phantom(0, SHAPE, noise=0.1)
    return Comparison(truth + np.float32(shift), truth, (2.0, 2.0, 2.0), (0.0, float(truth.max())), **more)


@every_metric
def test_law_every_row_is_documented_and_explained(metric) -> None:
    assert f"`{metric.name}`" in PAGE.read_text(encoding="utf-8"), f"say in {PAGE.name} what {metric.name} means"
    assert METRICS[metric.name] is metric
    assert len(metric.meaning.split()) > 2


def test_what_does_not_apply_is_absent() -> None:
    assert list(measured(comparison())) == ALWAYS
    samples = tuple(make_phantom(seed, SHAPE) for seed in (1, 2))
    assert "CRPS" not in measured(comparison(samples=samples[:1]))
    labels = np.zeros(SHAPE, np.int32)
    labels[5:9, 5:9, 5:9] = 3
    full = comparison(samples=samples, deviation=samples[0], labels=labels, fwhm=3.0)
    assert list(measured(full)) == list(METRICS)
    assert full.regions[0].label == 3


def test_a_row_is_the_function_of_its_room() -> None:
    mask = make_phantom(0, SHAPE) > 0.5
    c = comparison(0.3, mask=mask)
    found = measured(c)
    assert found["PSNR"] == image.psnr(c.estimate, c.truth, c.bounds, mask)
    assert found["MAE"] == pytest.approx(0.3, rel=1e-5)


def test_a_grid_is_not_sought_outside_the_mask() -> None:
    mask = make_phantom(0, SHAPE) > 0.5
    inside = comparison(0.0, mask=mask, puzzle_factor=(2, 2, 2))
    inside.estimate[~mask] += 5
    assert inside.grid.phase_bias == pytest.approx(0.0, abs=1e-6)


def test_what_is_known_of_the_truth_changes_no_figure_and_belongs_to_it() -> None:
    first = comparison(0.2, puzzle_factor=(2, 2, 2))
    measured(first)
    estimate = make_phantom(1, SHAPE)
    again = replace(first, estimate=estimate)
    assert again.known is first.known
    alone = Comparison(estimate, first.truth, first.spacing, first.bounds, puzzle_factor=(2, 2, 2))
    assert measured(again) == measured(alone)
    for other in ({"truth": estimate}, {"mask": first.truth > 0.5}, {"puzzle_factor": (3, 3, 3)}):
        assert replace(first, **other).known is not first.known


def test_ratios_are_as_bad_either_way() -> None:
    assert near_one_is_good(0.5) == pytest.approx(near_one_is_good(2.0))
    assert near_one_is_good(0.0) == math.inf


def test_a_new_metric_is_one_row(offer, tmp_path, run_cli) -> None:
    """Offered by another package, it is a column, an entry of the summary and a column of the terminal's table."""
    bias = Metric(
        "bias", lambda c: float((c.estimate - c.truth).mean()), "mean error", badness=abs, heading="mean x̂ - x"
    )
    share = Metric("share", lambda c: 0.125, "a share of something", None, heading="share", percent=True)
    offer("metric", bias=bias, share=share)
    for case, error in (("a", 0.1), ("b", -0.25)):
        save_volume(tmp_path / "truth" / f"{case}_0000.nii.gz", make_phantom(0))
        save_volume(tmp_path / "made" / f"{case}_0000.nii.gz", make_phantom(0) + error)
    folders = tmp_path / "truth", tmp_path / "made"
    done = run_cli(command.main, *folders, "-o", tmp_path / "out", "-np", 0)
    assert done.code == 0
    with open(tmp_path / "out" / "metrics.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[-3:] == ["FWHM_mm", "bias", "share"]
    assert [float(row["bias"]) for row in rows] == pytest.approx([0.1, -0.25], abs=1e-5)
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"]["prediction"]["0"]
    figure = figures["bias"]
    assert figure["mean"] == pytest.approx(-0.075, abs=1e-5)
    assert (figure["worst_case"], figure["cases"]) == ("b", 2)
    heading, line = done.out.splitlines()[1:3]
    place = heading.index("mean x̂ - x")
    assert line[place:].startswith(f"{figure['mean']:.4g} ± {figure['std']:.4g}  +12.5% ± 0.0%")
    assert "worst" not in figures["share"]
