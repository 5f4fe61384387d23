"""Tests of the draws of one case."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from nndiff.prediction import draws as module
from nndiff.prediction.draws import Computation, Draws


def test_later_draws_do_not_try_what_ran_out_of_memory(monkeypatch):
    """An arrangement that failed may need fewer bytes on the device than the one that worked."""
    options = [SimpleNamespace(name=name, bytes=size) for name, size in (("whole", 9), ("far", 2), ("near", 5))]
    tried = []

    def translate(model, source, shape, sampler, generator, options, on_progress, on_retreat):
        tried.append([option.name for option in options])
        for option in options[1:]:
            on_retreat(option)
        return torch.zeros(1)

    monkeypatch.setattr(module, "arrangements", lambda *_: options)
    monkeypatch.setattr(module, "translate", translate)
    request = SimpleNamespace(seed=0, save_samples=False, save_expected_error=False)
    read = SimpleNamespace(prepared=SimpleNamespace(grid=SimpleNamespace(shape=(2, 2, 2)), source=None))
    sampler = SimpleNamespace(samples=3)
    compute = Computation(request, SimpleNamespace(model=None), sampler, torch.device("cpu"))
    computed = compute(SimpleNamespace(name="a"), read, lambda: None)
    assert tried == [["whole", "far", "near"], ["near"], ["near"]]
    assert computed.arrangement.name == "near"


def test_mean_and_spread_of_the_draws():
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    draws = Draws()
    for value in values:
        draws.add(value, keep=False)
    np.testing.assert_allclose(draws.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(draws.spread, values.std(0, ddof=1), rtol=1e-5)
