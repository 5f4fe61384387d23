"""Tests of an objective with its own network: it is trained, clipped, saved, restored exactly, and shared by ranks."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import BEST, LATEST
from nndiff.diffusion.objectives import OBJECTIVES
from nndiff.plans.plan import decode_plan
from nndiff.training import journal
from nndiff.training.loop import CLIP_NORM, Trainer
from nndiff.training.run import train
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import encode
from tests.training.owning import NAME as OWNING
from tests.training.owning import Owning, owning_plan
from tests.training.test_resume import demand_same, demand_same_folders
from tests.training.tiny import NAME, batch_of, prepare, request, state_of, tiny_plan, trainer_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES.table, OWNING, Owning)


def owned(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.objectives.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def batches(plan: Any, first: int, end: int) -> Any:
    return ([batch_of(plan, [2 * i, 2 * i + 1])] for i in range(first, end))


def test_a_plan_with_such_an_objective_is_stored_and_read() -> None:
    plan = owning_plan()
    assert decode_plan(encode(plan)) == plan


def test_each_stage_trains_its_own_objectives_network_and_no_others() -> None:
    plan = owning_plan()
    trainer = trainer_of(plan)
    start = owned(trainer)
    assert set(start) == {f"{stage}.second.{name}" for stage in (0, 1) for name in ("weight", "bias")}
    assert trainer.objective(0).share == 0.25
    steps = trainer.steps(batches(plan, 0, 4))
    next(steps), next(steps)
    half = owned(trainer)
    assert moved(start, half) == {"0.second.weight", "0.second.bias"}
    next(steps), next(steps)
    assert moved(half, owned(trainer)) == {"1.second.weight", "1.second.bias"}


def test_the_seed_decides_its_first_weights() -> None:
    plan = owning_plan()
    first, same, other = (owned(trainer_of(plan, seed=seed)) for seed in (0, 0, 1))
    assert moved(first, same) == set()
    assert moved(first, other) == set(first)
    assert not torch.equal(first["0.second.weight"], first["1.second.weight"])


def test_it_changes_nothing_of_the_networks_own_first_weights() -> None:
    with_one, without = (trainer_of(plan).weights for plan in (owning_plan(), tiny_plan(prediction="x0")))
    assert moved(without, with_one) == set()


def test_its_gradients_are_clipped_together_with_the_networks() -> None:
    plan = owning_plan()
    trainer, batch = trainer_of(plan), batch_of(plan, [0, 1])
    batch.target.mul_(1000)
    (step,) = trainer.steps([[batch]])
    assert step.gradient_norm > CLIP_NORM
    every = [*trainer.network.parameters(), *trainer.objectives.parameters()]
    length = math.sqrt(sum(float(weight.grad.square().sum()) for weight in every if weight.grad is not None))
    assert length == pytest.approx(CLIP_NORM, rel=1e-4)
    own = trainer.objective(0).second.weight.grad
    assert own is not None
    assert own.any()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_it_is_put_back_bit_by_bit_within_a_stage_and_between_two(at: int, tmp_path: Path) -> None:
    plan = owning_plan()
    whole, begun, resumed = trainer_of(plan), trainer_of(plan), trainer_of(plan, seed=1)
    resumed.run = whole.run
    expected = [step.loss for step in whole.steps(batches(plan, 0, 4))]
    losses = [step.loss for step in begun.steps(batches(plan, 0, at))]
    checkpoint.save(tmp_path / LATEST, state_of(begun, plan))
    resumed.restore(checkpoint.load(tmp_path / LATEST))
    demand_same(owned(resumed), owned(begun))
    losses += [step.loss for step in resumed.steps(batches(plan, at, 4))]
    assert losses == expected
    demand_same(owned(resumed), owned(whole))
    demand_same(resumed.weights, whole.weights)
    demand_same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_was_stopped_ends_as_if_it_never_was(after: int, tmp_path: Path, monkeypatch) -> None:
    plan, line = owning_plan(), journal.line
    prepare(tmp_path, plan)
    wanted = request(tmp_path, plan)
    whole = train(replace(wanted, results=tmp_path / "whole"))
    stored = checkpoint.load(whole / LATEST).objectives
    assert set(stored) == {f"{stage}.second.{name}" for stage in (0, 1) for name in ("weight", "bias")}

    def stopped(epoch: Any, *rest: Any) -> str:
        if epoch.step == after:
            raise KeyboardInterrupt
        return line(epoch, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(journal, "line", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(wanted)
    assert checkpoint.load(wanted.folder / LATEST).step == after
    train(replace(wanted, go_on=True))
    demand_same_folders(whole, wanted.folder)
    assert moved(checkpoint.load(whole / BEST).objectives, stored) or checkpoint.load(whole / BEST).step == 4


def test_a_checkpoint_without_its_weights_is_refused_in_words(tmp_path: Path) -> None:
    plan = owning_plan()
    prepare(tmp_path, plan)
    wanted = request(tmp_path, plan, go_on=True)
    checkpoint.save(wanted.folder / LATEST, state_of(trainer_of(plan), plan, objectives={}))
    with pytest.raises(NndiffError, match=r"do not fit the network(.|\n)*0\.second\.bias"):
        train(wanted)


TWO_RANKS = """
import sys, torch
from pathlib import Path
from tests.training.owning import demand_table, owning_plan
from tests.training.tiny import request
from nndiff.training import journal
from nndiff.training.run import train
if __name__ == "__main__":
    demand_table()
    journal.curves = journal.slices = lambda path, *_: path.touch()
    train(request(Path(sys.argv[1]), owning_plan(batch_size=1, accumulate=2)))
"""


def test_two_ranks_train_it_as_one_that_accumulates(tmp_path: Path) -> None:
    plan = owning_plan(batch_size=1, accumulate=2)
    prepare(tmp_path, plan)
    (script := tmp_path / "script.py").write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    shared = checkpoint.load(request(tmp_path, plan).folder / LATEST)
    alone = checkpoint.load(train(request(tmp_path, plan, results=tmp_path / "alone" / NAME)) / LATEST)
    for part in ("weights", "ema", "objectives"):
        for name, value in getattr(shared, part).items():
            torch.testing.assert_close(value, getattr(alone, part)[name], rtol=1e-4, atol=1e-4)
