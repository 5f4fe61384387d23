"""Tests that tuning measures what prediction would make: the same noise for the same case, seed and draw."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nndiff.imaging import store
from nndiff.sampling.scoring import TrueTexture, bounds_of, compare
from nndiff.sampling.translate import Model, arrangements, build_model, translate
from nndiff.tuning import measure
from nndiff.tuning.measure import Bench
from nndiff.walk.caches import Deep
from nndiff.words.seeds import draw_seed
from tests.training.tiny import CPU, NAME, prepare, tiny_plan, trainer_of
from tests.walks import changed, walk_of

WALK = walk_of("shortcut", 6, 6, eta=1.0)


@pytest.fixture
def bench(tmp_path) -> Bench:
    plan = tiny_plan(["ddpm"])
    prepare(tmp_path, plan, 3)
    torch.manual_seed(0)
    weights = {
        name: torch.randn_like(value) / 10 for name, value in trainer_of(plan, "ddpm").network.state_dict().items()
    }
    model = build_model(plan, "ddpm", [weights], CPU)
    return Bench(model, plan, tmp_path / "preprocessed" / NAME / "ddpm", seed=7)


def drawn(model: Model, source: torch.Tensor, name: str, draw: int) -> torch.Tensor:
    shape = source.shape[1:]
    generator = torch.Generator().manual_seed(draw_seed(7, name, draw))
    return translate(model, source, shape, WALK, generator, arrangements(model, shape, 10**9))


@pytest.mark.parametrize("samples", [1, 3])
def test_a_case_is_measured_on_the_draws_that_prediction_makes_of_it(bench: Bench, samples: int) -> None:
    sampler = changed(WALK, samples=samples)
    for case in ("case_0", "case_2"):
        arrays = store.open_case(bench.folder, case)
        source, target = torch.from_numpy(arrays["source"].copy()), arrays["target"]
        mean = sum(drawn(bench.model, source, case, k) for k in range(samples)) / samples
        bounds = [bounds_of(c, t) for c, t in zip(bench.plan.target_channels, target, strict=True)]
        expected = compare(mean.numpy(), target, bounds, None, texture=True)
        found = bench.measure(sampler, [case]).figures[case]
        assert found.psnr == pytest.approx(expected.psnr, abs=1e-4)
        assert found.ssim == pytest.approx(expected.ssim, abs=1e-5)


def test_what_is_known_of_a_target_is_made_once_for_all_samplers(bench: Bench, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(measure, "TrueTexture", SimpleNamespace(of=lambda t, m: made.append(t) or TrueTexture.of(t, m)))
    found = [bench.measure(WALK, ["case_0", "case_1"]).figures for _ in range(2)]
    assert str(found[0]) == str(found[1])
    assert len(made) == 2


def test_every_shift_is_as_much_work_again_and_the_label_says_so(bench) -> None:
    assert bench.work(changed(WALK, shifts=2)) == 2 * bench.work(WALK)
    assert changed(WALK, shifts=2).label() == f"{WALK.label()}, 2 shifts"


def test_a_kept_feature_saves_what_a_shallow_step_does_not_compute(bench) -> None:
    """Of six steps every third is full; the others cost a share, which the network's FLOPs say."""
    shares = [bench.share(depth) for depth in (1, 2)]
    assert 0 < shares[0] < shares[1] < 1
    for depth, share in enumerate(shares, start=1):
        assert bench.work(changed(WALK, reuse=Deep(3, depth))) == pytest.approx(2 + 4 * share)
    assert bench.work(changed(WALK, start="draft")) == 7
