"""Tests of the pictures during training: they take little time, and the last epoch is always drawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from nndiff.checkpoint import Epoch
from nndiff.pictures import Curve
from nndiff.training import journal
from nndiff.training.journal import REST, Journal
from tests.training.tiny import run_of, tiny_plan

EPOCH = Epoch(1, 1, 0.5, 20.0, 20.0, 0.9, 0.1, 19.0, 1e-3, 1.0, 1.0, 0.0)


def test_pictures_rest_as_long_as_they_took_times_a_few_and_the_last_epochs_is_drawn(tmp_path, monkeypatch) -> None:
    clock, drawn = [0.0], []
    monkeypatch.setattr(journal.time, "perf_counter", lambda: clock[0])
    book = Journal(tmp_path, quiet=False)

    def draw(history, *_) -> None:  # type: ignore[no-untyped-def]
        drawn.append(history[-1].step)
        clock[0] += 1

    monkeypatch.setattr(book, "_progress", draw)
    run = run_of(tiny_plan().configurations["bridge"], training_steps=100)
    for step in range(1, 101):
        book.write((replace(EPOCH, step=step),), run, [])
        clock[0] += 0.5
    gaps = [later - earlier for earlier, later in pairwise(drawn[:-1])]
    assert drawn[0] == 1
    assert drawn[-1] == 100
    assert gaps == [pytest.approx(REST / 0.5, abs=1)] * 2
    assert (tmp_path / "progress.csv").exists()


def test_the_picture_of_a_case_is_that_of_the_best_epoch_when_it_is_drawn(tmp_path, monkeypatch) -> None:
    book, drawn = Journal(tmp_path, quiet=False), []
    monkeypatch.setattr(book, "_progress", lambda *_: None)
    monkeypatch.setattr(book, "_case", lambda example, name, epoch: drawn.append((name, epoch.step)))
    run = run_of(tiny_plan().configurations["bridge"], training_steps=3)
    book.resting_until = float("inf")
    for step in (1, 2):
        book.show(None, "a", replace(EPOCH, step=step))  # type: ignore[arg-type]
        book.write((replace(EPOCH, step=step),), run, [])
    assert drawn == []
    book.write((replace(EPOCH, step=3),), run, [])
    assert drawn == [("a", 2)]
    silent = Journal(tmp_path / "rank1", quiet=True)
    silent.show(None, "a", EPOCH)  # type: ignore[arg-type]
    silent.write((EPOCH,), run, [])
    assert not (tmp_path / "rank1").exists()


@pytest.mark.parametrize("measured", [True, False], ids=["volumes", "losses"])
def test_every_kind_of_number_has_a_panel_over_the_steps(tmp_path, monkeypatch, measured: bool) -> None:
    drawn: list[Curve] = []
    monkeypatch.setattr(journal, "curves", lambda path, panels, title: path.touch() or drawn.extend(panels))
    first = replace(EPOCH, walk=3.0, losses={"1": 0.4}, mean_losses={"1": 0.6})
    first = first if measured else replace(first, psnr=None, ssim=None, score=-20.0)
    history = (first, replace(first, step=2, seconds=2.0, waiting=0.25))
    run = run_of(tiny_plan().configurations["bridge"], training_steps=2)
    Journal(tmp_path, quiet=False).write(history, run, [2])
    found = {panel.title: panel.y for panel in drawn}
    scores = {"PSNR, dB": [20, 20], "SSIM": [0.9, 0.9]} if measured else {"validation loss": [20, 20]}
    assert found == {
        "training loss": [0.5, 0.5],
        **scores,
        **({} if measured else {"loss at t = 1": [0.4, 0.4]}),
        "estimates on a walk, dB better than for white texture": [3, 3],
        "learning rate": [1e-3, 1e-3],
        "seconds per epoch": [1, 2],
        "share of time waiting for data": [0, 0.25],
    }
    assert all(panel.x == [1, 2] and panel.marks == (2,) for panel in drawn)
