"""Law: a training that is told to stop loses no step, and goes on as if it had never been stopped, bit for bit."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nndiff import checkpoint
from nndiff.checkpoint import LATEST
from nndiff.cli.train import main
from nndiff.resources.owner import owned
from nndiff.training import checkpoints, new_run, pauses
from nndiff.training.ema import EMA
from nndiff.training.run import train
from nndiff.training.validation import Validation
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART
from nndiff.words.stopping import STOPPING
from tests.training.programs import TORCHRUN, environment, program
from tests.training.test_resume import demand_same_folders, seen_in
from tests.training.tiny import NAME, prepare, request, tiny_plan

pytestmark = pytest.mark.usefixtures("heard")
ROOT = Path(__file__).parents[2]
STEPS, EPOCH = 7, 3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of several steps."""
    monkeypatch.setattr(new_run, "epoch_steps", lambda _: EPOCH)


def told(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int, signum: int) -> None:
    """Send a signal to this process and those that load data, in the call with this number of a function."""
    function: Callable[..., Any] = getattr(where, name)
    calls = [0]

    def told_in_between(*words: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid or 0, signum)
        return function(*words, **more)

    monkeypatch.setattr(where, name, told_in_between)


MOMENTS = {  # what is called when the signal comes: (where, name, number of the call), steps that are saved
    "in the first validation": (Validation, "of", 1, 0),
    "in the first step": (EMA, "update", 1, 1),
    "in the middle of an epoch": (EMA, "update", 5, 5),
    "in the last step of an epoch": (EMA, "update", 3, 3),
    "in a validation": (Validation, "of", 3, 6),
    "while an epoch is saved": (checkpoints, "save_best", 1, 4),
    "in the last validation": (Validation, "of", 4, 7),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("loaders", ["0", "1"])
def test_told_to_stop_it_keeps_every_step_and_goes_on(moment, loaders, tmp_path, roots, run_cli, monkeypatch) -> None:
    where, name, call, saved = MOMENTS[moment]
    signum = list(STOPPING)[list(MOMENTS).index(moment) % len(STOPPING)]
    plan = tiny_plan(training_steps=STEPS)
    prepare(tmp_path, plan)
    whole = train(replace(request(tmp_path, plan, seed=5), results=tmp_path / "whole", seen=seen_in(tmp_path)))
    folder = roots.results / NAME / "bridge" / "fold_0"
    with monkeypatch.context() as patched:
        told(patched, where, name, call, signum)
        words = ("--seed", "5", "1", "bridge", "0", "--no_tune", "-device", "cpu", "-np", loaders)
        outcome = run_cli(main, *words)
    by = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
    assert outcome.code == (130 if signum == signal.SIGINT else 75), outcome.err
    assert f"Stopped by {by} after step {saved} of {STEPS}; every step is saved." in outcome.err
    assert "Traceback" not in outcome.err
    assert not any(path.name.startswith(PART) for path in folder.iterdir())
    assert checkpoint.load(folder / LATEST).step == saved

    again = shlex.split(outcome.err.splitlines()[-1])
    assert again[0] == "nndiff_train"
    assert "--seed" not in again
    assert run_cli(main, *again[1:]).code == 0
    demand_same_folders(whole, folder)


def test_stopped_before_there_is_anything_to_keep_the_same_command_is_named(
    tmp_path, roots, run_cli, monkeypatch
) -> None:
    prepare(tmp_path, tiny_plan(training_steps=STEPS))
    told(monkeypatch, importlib.import_module("nndiff.training.run").prior, "learn", 1, signal.SIGTERM)
    outcome = run_cli(main, "1", "bridge", "0", "--seed=5", "-device", "cpu", "-np", "0")
    assert outcome.code == 75
    assert outcome.err.endswith("\n  nndiff_train 1 bridge 0 --seed=5 -device cpu -np 0\n")


def test_a_fold_has_one_owner(tmp_path) -> None:
    """Two trainings of one fold that begin together: one of them is refused before it trains anything."""
    plan = tiny_plan(training_steps=2)
    prepare(tmp_path, plan)
    wanted = request(tmp_path, plan)
    with owned(wanted.folder), pytest.raises(NndiffError, match="Another program writes into this folder"):
        train(wanted)
    assert not wanted.folder.exists()
    assert not list(train(wanted).glob(".*"))


def test_within_an_epoch_the_state_is_saved_every_few_minutes(tmp_path, monkeypatch) -> None:
    plan, saved = tiny_plan(training_steps=STEPS), list[int]()
    prepare(tmp_path, plan)
    save = checkpoints.save

    def noted(job: Any, trainer: Any, history: Any, name: str, taken: Any = ()) -> None:
        saved.append(len(taken))
        save(job, trainer, history, name, taken)

    monkeypatch.setattr(checkpoints, "save", noted)
    monkeypatch.setattr(new_run, "epoch_steps", lambda _: STEPS)
    for minutes, wanted in ((0.5, [1, 2, 3, 4, 5, 6]), (1.5, [2, 4, 6]), (100.0, [])):  # a look at the clock: a minute
        saved.clear()
        clock = iter(range(0, 10**6, 60))
        monkeypatch.setattr(pauses.time, "monotonic", lambda clock=clock: float(next(clock)))
        monkeypatch.setattr(pauses, "MINUTES", minutes)
        train(request(tmp_path, plan, results=tmp_path / str(minutes)))
        assert [steps for steps in saved if steps] == wanted


def test_if_one_of_two_ranks_is_told_both_stop_after_the_same_step(tmp_path, roots) -> None:
    plan = tiny_plan(training_steps=4, batch_size=1, accumulate=2)
    prepare(tmp_path, plan)
    script = program(
        tmp_path,
        'step == 2 and os.environ["RANK"] == "1"',
        "os.kill(os.getpid(), signal.SIGUSR1)",
        *("-np", "0", "--set", "sampler.layers.shifts.places=1"),
        before="new_run.epoch_steps = lambda _: 4",
    )
    done = subprocess.run([*TORCHRUN, str(script)], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert "exitcode  : 75" in done.stderr
    assert "torchrun --nproc_per_node=2 -m nndiff.cli.train 1 bridge all" in done.stderr
    found = checkpoint.load(roots.results / NAME / "bridge" / "fold_all" / LATEST)
    assert found.step == len(found.taken) == 2


def test_where_all_its_processes_are_told_the_training_ends(tmp_path, roots) -> None:
    """Schedulers tell every process of a job; those that load data are deaf, and end with the training."""
    prepare(tmp_path, tiny_plan(training_steps=4))
    all_are_told, patch = "os.killpg(0, signal.SIGTERM)", "new_run.epoch_steps = lambda _: 4"
    script = program(tmp_path, "step == 2", all_are_told, "-np", "1", before=patch)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=ROOT, env=environment(), start_new_session=True
    )
    assert done.returncode == 75, done.stderr
    assert checkpoint.load(roots.results / NAME / "bridge" / "fold_all" / LATEST).step == 2
