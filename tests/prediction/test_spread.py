"""The factor that tuning measured for the spread of draws: which sampler it belongs to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from nndiff.checkpoint import BEST
from nndiff.prediction import models
from nndiff.sampling.inference import Drawn
from tests.prediction.trained import plan_of, save_trained
from tests.walks import walk_of


def test_the_factor_belongs_to_the_measured_sampler_with_any_number_of_draws(tmp_path: Path) -> None:
    save_trained(tmp_path / "fold_0" / BEST, plan_of())
    trained = models.load(tmp_path, None, BEST, torch.device("cpu"), None)
    own = walk_of("source", 1000, 6)
    assert trained.spread_scale(own) == 1.0  # nothing was measured
    drawn = Drawn("", own, 8, 0.1, 0.2, 30.0, 31.0, 0.8, 1.25, 2)
    trained = replace(trained, drawn=drawn)
    assert trained.spread_scale(replace(own, samples=5)) == 1.25
    assert trained.spread_scale(walk_of("source", 1000, 10)) == 1.0
