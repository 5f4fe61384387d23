"""Tests of what hears of a training: a function of the caller's, and TensorBoard."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nndiff
from nndiff.checkpoint import LATEST, Epoch, load
from nndiff.training.tensorboard import FOLDER, Board, points
from nndiff.words.errors import NndiffError
from tests.training.test_journal import EPOCH
from tests.training.tiny import NAME, prepare, tiny_plan


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: curve → step → value."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return {name: {row.step: row.value for row in found.Scalars(name)} for name in found.Tags()["scalars"]}


def test_both_hear_every_epoch_of_the_history(tmp_path: Path, roots: Any) -> None:
    pytest.importorskip("tensorboard")
    prepare(tmp_path, tiny_plan(training_steps=4))
    heard: list[Epoch] = []
    folder = nndiff.train("1", "bridge", 0, device="cpu", workers=0, on_epoch=heard.append, tensorboard=True)
    assert folder == roots.results / NAME / "bridge" / "fold_0"
    history = load(folder / LATEST).history
    assert tuple(heard) == history
    assert len(history) > 1
    shown = curves(folder / FOLDER)
    assert shown["psnr"] == pytest.approx({epoch.step: epoch.psnr for epoch in history})
    assert "step" not in shown


def test_an_epoch_that_is_trained_again_is_one_point(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for losses in ((1.0, 2.0, 3.0), (20.0, 30.0, 40.0)):  # killed after its third epoch, and resumed at the second
        board = Board(tmp_path)
        first = 1 if losses[0] == 1 else 2
        for step, loss in enumerate(losses, start=first):
            board(replace(EPOCH, step=step, loss=loss))
    assert curves(tmp_path / FOLDER)["loss"] == {1: 1, 2: 20, 3: 30, 4: 40}


def test_losses_by_time_are_curves_of_one_group() -> None:
    epoch = replace(EPOCH, psnr=None, losses={"1": 0.4, "0-0.2": 0.1}, mean_losses={"1": 0.5})
    found = dict(points(epoch))
    assert found["losses/1"] == 0.4
    assert found["mean_losses/1"] == 0.5
    assert "psnr" not in found


def test_without_tensorboard_nothing_begins(tmp_path: Path, roots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, tiny_plan(training_steps=2))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(NndiffError, match=r'pip install "nndiff\[tensorboard\]"'):
        nndiff.train("1", "bridge", 0, device="cpu", workers=0, tensorboard=True)
    assert not (roots.results / NAME / "bridge").exists()
