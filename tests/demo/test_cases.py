"""Tests of the demo's datasets: their files, their integrity, and the room for learning that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nndiff.cli import demo
from nndiff.data.integrity import examine
from nndiff.demo import cases
from nndiff.demo.bodies import random_body
from nndiff.demo.scanner import Scanner, acquire, ceiling
from nndiff.imaging import io
from nndiff.metrics.image import psnr
from nndiff.metrics.pet import best_gaussian
from nndiff.words import dataset
from nndiff.words.files import read_json


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(cases, "SHAPE", (6, 32, 32))
    monkeypatch.setattr(cases, "SPACING", (20.0, 12.0, 12.0))


@pytest.fixture
def written(small, tmp_path):
    return cases.simulate(tmp_path, 2, 2, [0.1], seed=0, workers=0)


def test_both_datasets_are_read_and_found_sound(written) -> None:
    for folder in written:
        read = dataset.read(folder)
        assert read.findings == ()
        assert [case.name for case in read.cases] == ["body000", "body001"]
        assert all(examine(case, read).findings == () for case in read.cases)


def test_held_out_bodies_come_with_their_lesions_one_label_each(written) -> None:
    for folder in written:
        assert not list(folder.glob("masks*"))
        for name in ("body002", "body003"):
            regions = io.read([folder / "regionsTs" / f"{name}.nii.gz"])
            truth = io.read([folder / "targetsTs" / f"{name}_0000.nii.gz"])
            assert regions.grid == truth.grid
            body = random_body(np.random.default_rng([0, int(name[4:])]), (6, 32, 32), (20.0, 12.0, 12.0))
            np.testing.assert_array_equal(regions.array[0], body.regions)
            assert np.unique(regions.array).size > 2


def test_the_ceiling_of_every_held_out_body_is_written(written) -> None:
    for folder in written:
        ceilings = read_json(folder / "ceiling.json")
        assert list(ceilings) == ["body002", "body003"]
        for name, value in ceilings.items():
            low, full = (io.read([folder / f"{kind}Ts" / f"{name}_0000.nii.gz"]) for kind in ("images", "targets"))
            assert value > psnr(low.array[0], full.array[0], (0.0, float(full.array.max()))) + 5


def test_cases_take_the_doses_in_turn(small, tmp_path) -> None:
    """A body with a hundredth of the counts is noisier than the same body with half of them."""

    def read(folder: Path, kind: str, i: int) -> Any:
        return io.read([folder / f"{kind}Tr" / f"body00{i}_0000.nii.gz"]).array

    errors = []
    for doses in ([0.5, 0.01], [0.01, 0.5]):
        (folder, _) = cases.simulate(tmp_path / str(doses[0]), 2, 0, doses, seed=0, workers=0)
        low, full = ([read(folder, kind, i) for i in (0, 1)] for kind in ("images", "targets"))
        errors.append([float(np.std(x - y)) for x, y in zip(low, full, strict=True)])
    (much, little), (little_again, much_again) = errors
    assert little_again > 2 * much
    assert little > 2 * much_again


def test_with_nobody_held_out_there_is_no_ceiling(small, tmp_path) -> None:
    for folder in cases.simulate(tmp_path, 1, 0, [0.1], seed=0, workers=0):
        assert read_json(folder / "ceiling.json") == {}
        assert not list(folder.glob("*Ts"))


def test_the_command_can_stop_at_the_data(small, tmp_path, run_cli) -> None:
    flags = ("--training", 1, "--held_out", 1, "-np", 0, "--only_data")
    code, out, _ = run_cli(demo.main, "-o", tmp_path, *flags)
    assert code == 0
    for name in cases.DATASETS:
        assert f"Wrote {tmp_path / 'raw' / name}" in out
        assert len(dataset.read(tmp_path / "raw" / name).cases) == 1


def test_there_is_room_to_learn_between_the_best_gaussian_and_the_ceiling() -> None:
    """On the bodies that the demo holds out by default: input 28 to 34 dB, at least 3 dB above the best Gaussian."""
    rows = []
    for index in range(16, 20):
        generator = np.random.default_rng([0, index])
        body = random_body(generator)
        scanner = Scanner(body.grid.shape[2], body.grid.spacing[2])
        expected = scanner.expected(body.activity, body.attenuation, cases.TRUE_COUNTS_A_SLICE)
        low, _, full = acquire(scanner, expected, body.grid, 0.1, generator)
        bounds = (0.0, float(full.max()))
        filtered, _ = best_gaussian(low, full, body.grid.spacing, bounds)
        clean = scanner.reconstruct(expected, body.grid)
        rows.append((psnr(low, full, bounds), psnr(filtered, full, bounds), ceiling(clean, full)))
    source, gaussian, top = np.mean(rows, axis=0)
    assert 28 < source < 34
    assert gaussian > source + 3
    assert top > gaussian + 3


def test_what_was_shown_stays_where_the_second_training_fails(tmp_path, run_cli, monkeypatch):
    trained = []

    def train(arguments, number, seconds):
        trained.append((number, seconds))
        if number == 901:
            demo._call("nndiff_train", lambda words: 1)

    monkeypatch.setattr(demo, "_simulate", lambda arguments: None)
    monkeypatch.setattr(demo, "_train_and_measure", train)
    monkeypatch.setattr(demo, "_show", lambda arguments, number: {"input": {"PSNR": float(number)}})
    code, _, err = run_cli(demo.main, "-o", tmp_path, "--time_budget", "10m")
    assert code == 1
    assert [number for number, _ in trained] == [900, 901]
    assert sum(seconds for _, seconds in trained) == pytest.approx(600)
    assert "run the demo again" in err
    assert "--time_budget" in err
    assert list(read_json(tmp_path / "figures.json").values()) == [{"input": {"PSNR": 900.0}}]
