"""Tests of a training in two stages: each is timed and drawn, and the second continues from the first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import LATEST
from nndiff.sampling.translate import arrangements, build_model, translate
from nndiff.training import journal, new_run, run
from nndiff.training.loop import Trainer
from nndiff.training.ranks import Ranks
from nndiff.training.run import train
from tests.training.tiny import CPU, prepare, request, run_of, tiny_plan
from tests.walks import walk_of


def test_a_prdit_trains_its_local_part_then_its_whole_part_and_translates(tmp_path) -> None:
    plan = tiny_plan(("prdit",), training_steps=10)
    prepare(tmp_path, plan)
    folder = train(request(tmp_path, plan, "prdit"))
    found = checkpoint.load(folder / LATEST)
    assert found.step == 10
    for name in ("core.local.head.weight", "core.whole.head.weight"):
        assert found.ema[name].any()
    model = build_model(plan, "prdit", [found.ema], CPU)
    source = torch.zeros(1, 8, 8, 8)
    shape = (8, 8, 8)
    sampler = walk_of("noise", 1000, 4, hot=2)
    draws = [
        translate(
            model,
            source,
            shape,
            sampler,
            torch.Generator().manual_seed(seed),
            arrangements(model, shape, 10**9, sampler),
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert (folder / "progress.png").exists()


def test_a_time_budget_is_shared_among_stages_by_what_each_ones_steps_take(tmp_path, monkeypatch) -> None:
    """The first stage's steps are a tenth as long as the second's."""
    plan = tiny_plan(("prdit",))
    prepare(tmp_path, plan)
    steps = Trainer.steps

    def slow(self: Trainer, batches):  # type: ignore[no-untyped-def]
        (stage,) = self.configuration.stages  # one at a time
        for step in steps(self, batches):
            yield replace(step, seconds=0.1 if stage.trains == "core.local" else 1.0)

    monkeypatch.setattr(Trainer, "steps", slow)
    monkeypatch.setattr(new_run, "within_budget", lambda settled, *words: asked.append(words) or settled)
    monkeypatch.setattr(run, "epochs", lambda *_: ())
    asked: list[tuple[float, float, float, int]] = []
    train(request(tmp_path, plan, "prdit", time_budget=1e4))
    ((seconds, step, _, world),) = asked
    assert world == 1
    assert step == pytest.approx(0.4 * 0.1 + 0.6 * 1.0)
    assert 9e3 < seconds < 9.7e3, "a little is kept back"


def test_the_picture_marks_where_a_stage_begins(tmp_path, monkeypatch) -> None:
    plan = tiny_plan(("prdit",), training_steps=10)
    prepare(tmp_path, plan)
    seen = []
    monkeypatch.setattr(journal, "curves", lambda path, panels, title: (path.touch(), seen.extend(panels)))
    train(request(tmp_path, plan, "prdit"))
    assert {panel.marks for panel in seen} == {(4,)}


def test_a_transformer_keeps_to_the_size_that_it_was_trained_on(tmp_path) -> None:
    plan = tiny_plan(("prdit",))
    trainer = Trainer(plan, "prdit", run_of(plan.configurations["prdit"]), CPU, Ranks())
    model = build_model(plan, "prdit", [trainer.weights], CPU)
    assert arrangements(model, (20, 8, 8), 10**12)[0].tiling.size == (8, 8, 8)
    assert len(arrangements(model, (8, 8, 6), 10**12)[0].tiling) == 1
