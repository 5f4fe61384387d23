"""Law: a training that is killed anywhere and resumed equals an uninterrupted one, bit for bit on a CPU."""

from __future__ import annotations

import csv
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import BEST, LATEST, Checkpoint, Seen, seen_of
from nndiff.cli.train import main
from nndiff.plans.plan import Plan, load
from nndiff.training import journal
from nndiff.training.loop import stage_ends
from nndiff.training.run import train
from nndiff.words.files import PART
from nndiff.words.fingerprint import Fingerprint
from tests.conftest import blank
from tests.training.tiny import NAME, prepare, request, run_of, tiny_plan

ROOT = Path(__file__).parents[2]
TIMED = {"seconds", "waiting"}  # what no two runs share


def words(one: Checkpoint) -> Any:
    history = [replace(epoch, **dict.fromkeys(TIMED, 0.0)) for epoch in one.history]
    return one.plan, one.configuration, one.run, one.seen, one.step, history, one.taken


def demand_same(one: Any, other: Any, where: str = "") -> None:
    """Nested dicts and lists of tensors and numbers, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            demand_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            demand_same(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


def demand_same_folders(one: Path, other: Path) -> None:
    for name in (LATEST, BEST):
        a, b = checkpoint.load(one / name), checkpoint.load(other / name)
        assert words(a) == words(b), name
        for part in ("weights", "ema", "optimizer", "objectives"):
            demand_same(getattr(a, part), getattr(b, part), f"{name}: {part}")
    assert rows(one) == rows(other)
    assert files(one) == files(other)


def rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "progress.csv"
    if not path.exists():
        return []
    with open(path, newline="") as stream:
        return [{key: value for key, value in row.items() if key not in TIMED} for row in csv.DictReader(stream)]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- before every file


@pytest.mark.parametrize("name", ["bridge", "prdit"])
def test_killed_before_any_file_takes_its_name_the_run_ends_as_if_it_never_was(name, tmp_path, monkeypatch) -> None:
    """What a kill would leave is copied before every file of a run; each copy is gone on with.

    A prdit's two steps are its two stages: it is gone on with at their boundary too.
    """
    plan: Plan = tiny_plan((name,), training_steps=2)
    planned = plan.configurations[name]
    assert stage_ends(planned, run_of(planned)) == ([2] if name == "bridge" else [1, 2])
    prepare(tmp_path, plan)
    put, order = os.replace, list[str]()
    wanted = request(tmp_path, plan, name)
    folder = wanted.folder

    def copied(source: Any, target: Any) -> None:
        if folder in Path(target).parents:
            shutil.copytree(folder, left_before(len(order)), ignore=shutil.ignore_patterns(f"{PART}*"))
            order.append(Path(target).name)
        put(source, target)

    def left_before(file: int) -> Path:
        return tmp_path / f"killed_{file}" / name / "fold_0"

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", copied)
        train(wanted)
    assert order.count(LATEST) == 3
    assert BEST in order
    for file in range(len(order)):
        train(replace(wanted, go_on=True, results=tmp_path / f"killed_{file}"))
        try:
            demand_same_folders(folder, left_before(file))
        except AssertionError as error:
            raise AssertionError(f"killed before file {file} of {order}") from error


# ---------------------------------------------------------------- by the system

STEPS = 40


def test_killed_at_random_moments_and_half_way_through_checkpoints(tmp_path, roots) -> None:
    """With processes that load data, augmentation, masks and a patch that is cut."""
    prepare(tmp_path, tiny_plan(training_steps=STEPS, patch_size=(6, 8, 5)), masked=(1, 2))
    code = f"from tests.training.test_resume import kill_again_and_again as kill; kill({str(tmp_path)!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    demand_same_folders(tmp_path / "whole" / NAME / "bridge" / "fold_0", roots.results / NAME / "bridge" / "fold_0")


def kill_again_and_again(root: str) -> None:
    """In a process of its own, whose children start with everything imported."""
    importlib.import_module("torch._dynamo")  # which the first optimiser would do
    os.fsync = lambda _: None  # type: ignore[assignment]
    journal.curves = journal.slices = blank  # type: ignore[assignment]
    folder = Path(root) / "results" / NAME / "bridge" / "fold_0"
    assert ended(begun(f"{root}/whole", "-np", "0")) == 0

    for more, loaders in ((2, "1"), (3, "0")):
        process, enough = begun(f"{root}/results", "--c", "-np", loaders), len(rows(folder)) + more
        while len(rows(folder)) < enough:
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "ended by itself"
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
    for saves in (1, 2):
        assert ended(begun(f"{root}/results", "--c", "-np", "0", dies_in_save=saves)) == -signal.SIGKILL
        assert any(path.name.startswith(PART) for path in folder.iterdir())
        for name in (LATEST, BEST):
            checkpoint.load(folder / name)  # whole
    assert 5 <= len(rows(folder)) < STEPS
    assert ended(begun(f"{root}/results", "--c", "-np", "0")) == 0


def begun(results: str, *flags: str, dies_in_save: int = 0) -> int:
    """A child that trains; the last of `dies_in_save` checkpoints is cut in half, and the child with it."""
    if process := os.fork():
        return process
    save, countdown = torch.save, [dies_in_save]

    def half(contents: Any, told: Any) -> None:
        save(contents, told)
        told.flush()
        path = Path(told.stream.name)
        countdown[0] -= 1
        if countdown[0] == 0:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half  # type: ignore[assignment]
    os._exit(main(["1", "bridge", "0", "-device", "cpu", "--results", results, *flags]))


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


# ---------------------------------------------------------------- by asking


def test_asked_to_stop_it_says_how_to_go_on_and_does(tmp_path, roots, run_cli, monkeypatch) -> None:
    plan = tiny_plan(training_steps=5)
    prepare(tmp_path, plan)
    whole = train(replace(request(tmp_path, plan), results=tmp_path / "whole", seen=seen_in(tmp_path)))
    folder = roots.results / NAME / "bridge" / "fold_0"
    before, line = signal.getsignal(signal.SIGTERM), journal.line

    def asked_to_stop(epoch: Any, *rest: Any) -> str:
        if epoch.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return line(epoch, *rest)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(journal, "line", asked_to_stop)
            outcome = run_cli(main, "1", "bridge", "0", "--no_tune", "-device", "cpu", "-np", "1")
        assert outcome.code == 75
        assert outcome.err.endswith("\n  nndiff_train 1 bridge 0 --no_tune -device cpu -np 1 --c\n")
        assert not any(path.name.startswith(PART) for path in folder.iterdir())
        assert run_cli(main, "1", "bridge", "0", "--no_tune", "-device", "cpu", "-np", "0", "--c").code == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    demand_same_folders(whole, folder)


def test_going_on_keeps_what_was_seen_at_the_start(tmp_path) -> None:
    """As it keeps the plan: the fingerprint may have been made anew since."""
    plan, seen = tiny_plan(training_steps=2), (Seen("PET", (1.0, 2.0), (0.0, 0.5)),)
    prepare(tmp_path, plan)
    folder = train(request(tmp_path, plan, seen=seen))
    begun = checkpoint.load(folder / BEST)
    checkpoint.save(folder / LATEST, replace(begun, step=1, history=begun.history[:1]))
    train(request(tmp_path, plan, go_on=True))
    assert checkpoint.load(folder / LATEST).seen == seen


def seen_in(root: Path) -> Any:
    return seen_of(load(Fingerprint, root / "preprocessed" / NAME / "fingerprint.json"))
