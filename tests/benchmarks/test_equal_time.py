"""Tests of the benchmark at equal time: nndiff's own rows at toy size, and the laws of what other networks see."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import equal_time
from benchmarks.equal_time import ROWS, Peer, Reading, Scale, Training, as_markdown, main, rows_of, trained
from benchmarks.trials import Data, found
from nndiff.plans.plan import save
from tests.training.tiny import NAME, prepare, tiny_plan

OURS = [row for row in ROWS if not row.needs]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    plan = tiny_plan(("bridge",))
    prepare(tmp_path, plan)
    folder = tmp_path / "preprocessed" / NAME
    save(folder / "plan.json", plan)
    monkeypatch.setattr(equal_time, "LEAST", 2)
    return found(folder, 1)


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_own_rows_train_and_translate(data: Data, row: Any) -> None:
    rows = list(rows_of(data, row, 0, 1e-6, None))
    assert {cells["case"] for cells in rows} == set(data.held)
    for cells in rows:
        assert cells["steps"] == 2
        assert np.isfinite([cells["psnr"], cells["ssim"], cells["crps"], cells["hot_bias"]]).all()
    walks = [cells for cells in rows if "steps" in cells["row"] and "one step" not in cells["row"]]
    assert walks, "at least one walk with noise"
    assert all(cells["crps"] != cells["mae"] for cells in walks)


def test_the_length_of_a_training_follows_from_the_time_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(equal_time, "clock", lambda: now[0])
    lengths = []

    def begin(steps: int) -> Training:
        lengths.append(steps)
        now[0] += 3.0  # to build it

        def walk() -> Any:
            for number in range(steps):
                now[0] += 9.0 if number < equal_time.WARMED else 0.5
                yield number

        return Training(walk(), lambda: [Reading("a", lambda source, draw: source)])

    readings, steps, took = trained(begin, 103.0)
    assert lengths == [equal_time.WARMED + equal_time.TIMED, 200]
    assert steps == 200
    assert took == pytest.approx(3 + 3 * 9 + 197 * 0.5)
    assert [reading.name for reading in readings] == ["a"]


class Doubling(nn.Module):
    """Doubles what it sees, and remembers the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return self.factor * x


def test_a_peer_sees_tiles_of_its_patch_in_units_of_its_own(data: Data) -> None:
    planned = replace(data.plan.configurations["bridge"], precision="fp32")
    data = replace(data, plan=replace(data.plan, configurations={"bridge": planned}))
    network = Doubling()
    peer = Peer(data, network, (Scale(1.0, 0.5), Scale(10.0, 4.0)), (4, 4, 4), 0.5, 1e-3)
    source = np.random.default_rng(0).normal(size=(1, 9, 13, 11)).astype(np.float32)
    made = peer.volume(lambda x: peer.tiled(peer.ask, x), source)
    assert np.allclose(made, 2 * (source - 1.0) / 0.5 * 4 + 10, atol=1e-4)
    patch = [-(-p // 4) * 4 for p in planned.patch_size]
    assert set(network.seen) == {tuple(min(p, n) for p, n in zip(patch, source.shape[1:], strict=True))}


def test_a_peer_learns_what_its_loss_asks(data: Data) -> None:
    network = Doubling()
    peer = Peer(data, network, (Scale(0.0, 1.0), Scale(0.0, 1.0)), (1, 1, 1), 0.0, 0.05)
    losses = list(peer.steps(lambda source, target: (peer.ask(source) - source).square(), 60, 0))
    assert losses[-1] < 0.2 * losses[0]
    assert not network.training


def test_rows_in_the_file_are_not_trained_again(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(data.prepared), "--minutes", "1e-6", "--seeds", "0", "--held_out", "1", "--only", "nndiff"]
    path = tmp_path / "out.csv"
    assert main([*words, "-o", str(path)]) == 0
    before = path.read_bytes()
    monkeypatch.setattr(equal_time, "rows_of", None)
    assert main([*words, "-o", str(path)]) == 0
    assert path.read_bytes() == before
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["input", "best Gaussian", "nndiff, one step", "nndiff, six steps"]
    table = as_markdown(rows)
    assert table.count("\n| ") == 6
    assert f"**{NAME}: 1e-06 minutes of training, 1 held-out volumes**" in table
