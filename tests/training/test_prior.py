"""Tests of the prior that a new training measures, and of what follows from it for training and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import LATEST
from nndiff.diffusion.process import PROCESSES, Trig
from nndiff.imaging import store
from nndiff.networks.prior import LEAST, TIMES, Prior, cosines
from nndiff.plans.plan import Plan
from nndiff.training.loop import Trainer, rate_of, stage_at
from nndiff.training.prior import CURVE_CASES, learn, levels, line, middle
from nndiff.training.run import train
from nndiff.words.errors import NndiffError
from tests.training.tiny import CPU, SHAPE, batch_of, prepare, request, tiny_plan, trainer_of

GENERATION = {"sources": (), "targets": ("CT",)}


def learned(root: Path, plan: Plan, **words: object) -> tuple[Trainer, Prior]:
    folder = prepare(root, plan) / "prdit"
    trainer = trainer_of(plan, "prdit", **words)
    learn(trainer, folder)
    assert isinstance(trainer.network.prior, Prior)
    return trainer, trainer.network.prior


def targets(root: Path, cases: range = range(4)) -> np.ndarray:
    folder = root / "preprocessed/Dataset001_Tiny/prdit"
    return np.stack([np.array(store.open_case(folder, f"case_{i}")["target"]) for i in cases])


def test_in_generation_the_mean_is_that_of_the_training_cases_alone_and_the_average_has_it_too(tmp_path) -> None:
    trainer, prior = learned(tmp_path, tiny_plan(("prdit",), **GENERATION))
    np.testing.assert_allclose(prior.mean[0].numpy(), targets(tmp_path).mean(0), atol=1e-6)
    for name, value in prior.state_dict().items():
        assert torch.equal(trainer.ema.values[f"prior.{name}"], value)


def test_the_spectrum_holds_the_power_of_what_differs_from_the_mean(tmp_path) -> None:
    """The logarithm is averaged over neighbours, so it is compared too; one degree of freedom is lost to the mean."""
    _, prior = learned(tmp_path, tiny_plan(("prdit",), **GENERATION))
    x = targets(tmp_path)
    power = cosines(torch.from_numpy(x - x.mean(0))).square().sum(0) / 3
    expected = power.clamp_min(LEAST).log().mean()
    assert float(prior.variance.log().mean()) == pytest.approx(float(expected), abs=0.3)
    assert prior.variance.min() >= 0.99 * LEAST


def test_in_translation_the_reference_is_the_best_line_through_the_source() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 500)) * 2 + 1
    y = np.array([[0.5], [-2.0], [0.0]]) * x + np.array([[0.2], [0.0], [3.0]])
    sums = np.stack([np.ones_like(x).sum(1), x.sum(1), y.sum(1), (x**2).sum(1), (x * y).sum(1)])
    mean, slope = line(sums)
    np.testing.assert_allclose(slope, [0.5, -2.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(mean, [0.2, 0.0, 3.0], atol=1e-9)
    flat = line(np.array([[4.0], [4.0], [8.0], [4.0], [8.0]]))
    assert [float(values[0]) for values in flat] == [2.0, 0.0], "a source that is constant says nothing"


def test_a_translating_training_follows_its_source(tmp_path) -> None:
    _, prior = learned(tmp_path, tiny_plan(("prdit",)))
    assert prior.anchors == (0,)
    assert float(prior.slope) > 0.3
    assert prior.mean.shape == (1, 1, 1, 1, 1)


def test_where_images_have_two_values_the_curves_draw_estimates_to_them(tmp_path) -> None:
    plan = tiny_plan(("prdit",), **GENERATION)
    folder = prepare(tmp_path, plan) / "prdit"
    rng = np.random.default_rng(0)
    for i in range(4):
        case = np.where(rng.random((1, *SHAPE)) < 0.5, -1.0, 1.0).astype(np.float32)
        record = store.read_record(folder, f"case_{i}")
        store.write_case(folder, f"case_{i}", {"target": case}, record)
    trainer = trainer_of(plan, "prdit")
    learn(trainer, folder)
    prior = trainer.network.prior
    half = TIMES // 2
    assert not prior.curves[[0, -1]].any()
    assert prior.curves[half].abs().max() > 0.05
    assert (prior.ratio[1:half] < 1).all()
    x0 = torch.from_numpy(targets(tmp_path)).float()
    a, sigma, _ = Trig().at(0.3)
    x_t = a * x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    t = torch.full((4,), 0.3)
    with_curves = (prior(x_t, t, None).x0 - x0).square().mean()
    prior.curves.zero_()
    assert with_curves < 0.95 * (prior(x_t, t, None).x0 - x0).square().mean()
    assert CURVE_CASES >= 4


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_the_process_is_stored_with_the_prior_and_one_from_the_source_refused(name) -> None:
    process = PROCESSES[name]()
    if process.from_source:
        with pytest.raises(NndiffError, match="end in noise"):
            levels(process)
        return
    prior = Prior(1, SHAPE)
    prior.levels.copy_(levels(process))
    for t in (0.0, 0.1234, 0.5, 1.0):
        a, _, sigma = process.at(t)
        found = [float(value) for value in prior.at(torch.tensor([t]))]
        assert found == pytest.approx([a, sigma, process.scale], abs=1e-5)


def test_a_mean_of_volumes_of_another_shape_is_refused(tmp_path) -> None:
    plan = tiny_plan(("prdit",), **GENERATION)
    folder = prepare(tmp_path, plan, shapes=((8, 8, 6),)) / "prdit"
    with pytest.raises(NndiffError, match="mean volume of the plan"):
        learn(trainer_of(plan, "prdit"), folder)


def test_the_middle_of_a_small_volume_repeats_its_border() -> None:
    x = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    assert middle(x, (2, 1, 1))[0, 0, :, 0, 0].tolist() == [1, 2]
    assert middle(x, (6, 1, 1))[0, 0, :, 0, 0].tolist() == [0, 1, 2, 3, 3, 3]


# ---------------------------------------------------------------- what follows from it


def test_before_training_the_loss_counts_every_time_alike(tmp_path) -> None:
    """In units of the errors that are expected, the loss of an untrained network is about 1 at any t."""
    plan = tiny_plan(("prdit",), **GENERATION)
    trainer, _ = learned(tmp_path, plan)
    batch = batch_of(plan, [0, 1, 2, 3])
    eps = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
    for moment in (0.1, 0.5, 0.9):
        t = torch.full((4,), moment, dtype=torch.float64)
        level = trainer.network.prior.weights(t, SHAPE)
        with torch.no_grad():
            loss = trainer.loss_at(trainer.network, trainer.objective(0), batch, t, eps, level)
            plain = trainer.loss_at(trainer.network, trainer.objective(0), batch, t, eps)
        assert 0.3 < float(loss) < 3
        assert float(plain) < 0.3


def test_the_second_stage_begins_where_the_first_ended_and_has_its_own_rate(tmp_path) -> None:
    plan = tiny_plan(("prdit",), training_steps=4, **GENERATION)
    trainer, _ = learned(tmp_path, plan)
    configuration = trainer.configuration
    list(trainer.steps([[batch_of(plan, [0, 1])]] * 2))
    x, t = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(2)), torch.tensor([0.5])
    with trainer.ema.inside(trainer.network), torch.no_grad():
        first = trainer.network(x, t)
        trainer.network.core.whole.requires_grad_(True)
        assert torch.equal(trainer.network(x, t), first)
    assert rate_of(configuration, 1) == configuration.stages[1].rate * configuration.learning_rate
    assert stage_at(configuration, trainer.run, 3)[2] <= rate_of(configuration, 1)
    assert configuration.stages[1].rate == 0.8


def test_a_checkpoint_holds_the_prior_and_a_run_of_an_older_plan_has_none(tmp_path) -> None:
    plan = tiny_plan(("prdit",), training_steps=2, **GENERATION)
    prepare(tmp_path, plan)
    folder = train(request(tmp_path, plan, "prdit"))
    found = checkpoint.load(folder / LATEST)
    np.testing.assert_allclose(found.ema["prior.mean"][0].numpy(), targets(tmp_path, range(5))[:].mean(0), atol=0.5)
    assert found.ema["prior.mean"].any()
    assert set(found.history[-1].losses) == {"0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1", "1"}
    assert found.history[-1].token_spread is not None
    words = (folder / "log.txt").read_text()
    assert "loss by t  0-0.2:" in words
    assert "losses 0-0.2" in (folder / "progress.csv").read_text()
    old = replace(plan.configurations["prdit"].network, prior_shape=None, bounded=False)
    trainer = trainer_of(
        replace(plan, configurations={"prdit": replace(plan.configurations["prdit"], network=old)}), "prdit"
    )
    before = {name: value.clone() for name, value in trainer.weights.items()}
    learn(trainer, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights.items())
    assert not any(name.startswith("prior") for name in before)
    assert trainer.device == CPU
