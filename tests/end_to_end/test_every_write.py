"""Law: whichever write fails, a command ends in words and leaves nothing half; the next run ends as if it had not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nndiff.checkpoint import LATEST
from nndiff.cli import evaluate, predict, train
from nndiff.words.files import PART
from tests.end_to_end.test_resume import planned  # noqa: F401 – a fixture
from tests.prediction.trained import model_folder, scans
from tests.training.test_resume import demand_same_folders
from tests.training.tiny import NAME, prepare, tiny_plan

CALLS = ("replace", "fsync")  # of every file: its bytes are written, then it takes its name


class Failing:
    """Stands in for a call of the system; the n-th call fails as on a full disk."""

    def __init__(self, call: Callable[..., Any], fails: int):
        self.call, self.left, self.count = call, fails, 0

    def __call__(self, *words: Any) -> Any:
        self.count += 1
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.call(*words)


def each_failure(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[[], Any], run: Callable[[], Any], then: Callable[[str], None]
) -> int:
    """Run with each call failing in turn, always on fresh folders, and then `then`. Return how many calls there are."""
    total = 0
    for name in CALLS:
        fails = 0
        while True:
            fails += 1
            fresh()
            with monkeypatch.context() as patched:
                failing = Failing(getattr(os, name), fails)
                patched.setattr(os, name, failing)
                outcome = run()
            if failing.left > 0:
                assert outcome.code == 0, outcome.err
                break
            total += 1
            assert outcome.code == 1, (name, fails, outcome.err)
            assert "The disk is full" in outcome.err, (name, fails, outcome.err)
            assert "Traceback" not in outcome.err
            then(f"{name} {fails}")
    return total


def halves(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith((PART, ".lock"))]


def files(folder: Path, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def test_every_write_of_a_training(tmp_path, roots, run_cli, monkeypatch) -> None:
    prepare(tmp_path, tiny_plan(training_steps=2))
    words = ("1", "bridge", "0", "-device", "cpu", "-np", "0", "--no_tune")
    assert run_cli(train.main, *words, "--results", tmp_path / "whole").code == 0
    whole = tmp_path / "whole" / NAME / "bridge" / "fold_0"
    folder = roots.results / NAME / "bridge" / "fold_0"

    def then(where: str) -> None:
        assert not halves(folder), where
        again = ("--c",) if (folder / LATEST).exists() else ()
        outcome = run_cli(train.main, *words, *again)
        assert outcome.code == 0, (where, outcome.err)
        demand_same_folders(whole, folder)

    fresh = lambda: shutil.rmtree(roots.results, ignore_errors=True)  # noqa: E731
    assert each_failure(monkeypatch, fresh, lambda: run_cli(train.main, *words), then) >= 12


def test_every_write_of_a_preprocessing(planned, monkeypatch) -> None:  # noqa: F811
    _, folder, run = planned(cases=2)
    plan = (folder / "plan.json").read_bytes()
    assert run().code == 0
    whole = files(folder)

    def fresh() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "plan.json").write_bytes(plan)

    def then(where: str) -> None:
        assert not halves(folder), where
        outcome = run()
        assert outcome.code == 0, (where, outcome.err)
        assert files(folder) == whole, where

    assert each_failure(monkeypatch, fresh, run, then) >= 12


def test_every_write_of_a_prediction_and_its_evaluation(tmp_path, run_cli, monkeypatch) -> None:
    scans(tmp_path / "in", 2)
    model, out = model_folder(tmp_path), tmp_path / "out"
    words = ("-i", tmp_path / "in", "-o", out, "-m", model, "-device", "cpu")
    assert run_cli(predict.main, *words).code == 0
    whole = files(out, but=("predict.json",))

    def then(where: str) -> None:
        assert not halves(out), where
        outcome = run_cli(predict.main, *words, "--continue_prediction")
        assert outcome.code == 0, (where, outcome.err)
        assert files(out, but=("predict.json",)) == whole, where

    fresh = lambda: shutil.rmtree(out, ignore_errors=True)  # noqa: E731
    assert each_failure(monkeypatch, fresh, lambda: run_cli(predict.main, *words), then) >= 6

    measured = tmp_path / "measured"
    words = (tmp_path / "in", out, "-o", measured, "-np", "0")
    assert run_cli(evaluate.main, *words).code == 0
    tables = files(measured)

    def then_again(where: str) -> None:
        assert not halves(measured), where
        assert run_cli(evaluate.main, *words).code == 0, where
        assert files(measured) == tables, where

    fresh = lambda: shutil.rmtree(measured, ignore_errors=True)  # noqa: E731
    assert each_failure(monkeypatch, fresh, lambda: run_cli(evaluate.main, *words), then_again) >= 4
