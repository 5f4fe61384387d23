"""Tests of the CBCT simulation: exact without artefacts, and each artefact behaves as physics predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataset_conversion.cbct import main
from dataset_conversion.cbct_simulation import Beam, expected, per_bin, ramp, simulate
from nndiff.data.integrity import examine
from nndiff.imaging import io
from nndiff.words import dataset
from nndiff.words.volume import Grid, Volume

SIDE, PIXEL = 90, 3.0
GRID = Grid((3, SIDE, SIDE), (3.0, PIXEL, PIXEL), (0.0, 0.0, 0.0))
AXIS = (np.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
Y, X = np.meshgrid(AXIS, AXIS, indexing="ij")
PERFECT = Beam(photons=1e12, scatter=0.0, angles=150)


def round_at(x: float, y: float, radius: float) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 < radius**2


def body(radius: float = 110.0) -> Volume:
    """Water with bone and lung in it."""
    hu = np.where(round_at(0, 0, radius), 0.0, -1000.0)
    hu[round_at(50, 0, 24)], hu[round_at(-50, 0, 24)] = 600.0, -700.0
    return Volume(np.repeat(hu[None, None], GRID.shape[0], axis=1).astype(np.float32), GRID)


def taken(beam: Beam, ct: Volume | None = None, seed: int = 0) -> np.ndarray:
    return simulate(ct or body(), beam, np.random.default_rng(seed))


@pytest.mark.parametrize(("x", "hu"), [(0, 0), (50, 600), (-50, -700), (125, -1000)])
def test_without_faults_the_numbers_are_those_of_the_ct(x, hu) -> None:
    assert taken(PERFECT)[1][round_at(x, 0, 10)].mean() == pytest.approx(hu, abs=12)


def test_scatter_darkens_the_middle_and_weakens_bone_the_more_there_is() -> None:
    clean, some, much = (taken(replace(PERFECT, scatter=share))[1] for share in (0.0, 0.02, 0.04))
    middle, rim, bone = round_at(0, 0, 12), round_at(0, 98, 6), round_at(50, 0, 10)
    lost = [[float((clean - image)[where].mean()) for where in (middle, rim, bone)] for image in (some, much)]
    assert lost[0][0] > 10 + 3 * max(0.0, lost[0][1]), "cupping"
    assert lost[0][2] > lost[0][0], "contrast"
    assert all(b > 1.5 * a for a, b in zip(lost[0][::2], lost[1][::2], strict=True))
    assert taken(replace(PERFECT, scatter=0.04), body(70.0))[1][round_at(0, 0, 12)].mean() > much[middle].mean()


def test_noise_falls_with_the_root_of_the_photons() -> None:
    where = round_at(0, 0, 20)
    spread = [
        np.std([taken(replace(PERFECT, photons=n), seed=i)[1][where] for i in range(3)], axis=0).mean()
        for n in (1e5, 4e5)
    ]
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.15)


def test_what_is_expected_is_counted_and_scatter_comes_on_top() -> None:
    """Beer's law without scatter; the generator is Poisson's, so variance is mean there."""
    paths = np.linspace(0, 5, 40, dtype=np.float32)[:, None].repeat(3, axis=1)
    direct = expected(paths, GRID, PERFECT)
    np.testing.assert_allclose(direct, per_bin(GRID, PERFECT) * np.exp(-paths), rtol=1e-6)
    assert (expected(paths, GRID, replace(PERFECT, scatter=0.1)) > direct)[paths > 0].all()
    assert per_bin(GRID, Beam(photons=7.0)) == 7.0 * 3.0 * PIXEL


def test_the_counts_are_poisson(monkeypatch) -> None:
    seen: list[np.ndarray] = []

    class Watched:
        def __init__(self) -> None:
            self.generator = np.random.default_rng(0)

        def poisson(self, mean):
            counts = self.generator.poisson(mean)
            seen.append((counts - mean) / np.sqrt(mean))
            return counts

    simulate(body(), replace(PERFECT, photons=500.0), Watched())  # type: ignore[arg-type]
    standard = np.concatenate([part.ravel() for part in seen])
    assert standard.mean() == pytest.approx(0, abs=0.01)
    assert standard.var() == pytest.approx(1, abs=0.02)


def test_where_nothing_arrives_there_is_still_a_number() -> None:
    assert np.isfinite(taken(replace(PERFECT, photons=0.2))).all()


@pytest.mark.parametrize("bins", [100, 129, 300])
def test_the_filter_is_long_enough_for_no_wrap_around_and_takes_away_the_mean(bins) -> None:
    response = ramp(bins, 2.0, 1.0)
    assert 2 * len(response) - 2 >= 2 * bins
    assert response[0] == pytest.approx(0, abs=0.002)
    slope = np.diff(response[: len(response) // 8])
    np.testing.assert_allclose(slope, 1 / (2 * len(response) - 2) / 2.0, rtol=0.25)  # |frequency|, per mm


def test_a_small_detector_leaves_air_around_its_field_and_errs_most_at_its_rim() -> None:
    cut = taken(replace(PERFECT, field_mm=150.0))[1]
    assert (cut[np.hypot(X, Y) > 75] == -1000).all()
    whole = taken(PERFECT)[1]
    error = np.abs(cut - whole)
    assert error[(np.hypot(X, Y) > 66) & (np.hypot(X, Y) < 74)].mean() > error[round_at(0, 0, 20)].mean()
    assert error[round_at(0, 0, 20)].mean() < 150


def test_slices_are_independent_but_for_scatter() -> None:
    """So the price is linear in them."""
    ct = body()
    other = Volume(np.concatenate([ct.array, ct.array[:, :2] * 0 - 1000], axis=1), Grid((5, *GRID.shape[1:]), *rest()))
    np.testing.assert_allclose(taken(PERFECT, other)[:3], taken(PERFECT), atol=1.5)
    assert (taken(PERFECT, other)[3:] < -995).all()


def rest() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    return GRID.spacing, GRID.origin


def test_pairs_on_one_grid_the_ct_untouched(tmp_path, run_cli) -> None:
    ct = body()
    tall = Volume(ct.array[:, :, 8:-8], Grid((3, SIDE - 16, SIDE), *rest()))
    for name, volume in (("p1_a", ct), ("p2_a", tall), ("p3_a", Volume(ct.array + 1024, GRID))):
        io.write(volume, tmp_path / "in" / f"{name}.nii.gz")
    flat = Grid(GRID.shape, (3.0, 3.0, 4.0), GRID.origin)
    io.write(Volume(ct.array, flat), tmp_path / "in" / "p4_a.nii.gz")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    flags = ("--ct", tmp_path / "in" / "{patient}_{case}.nii.gz", "--raw", tmp_path / "raw", "-np", 0, "--angles", 60)
    outcome = run_cli(main, *flags)
    assert outcome.code == 0, outcome.err
    assert "p3_a: the CT seems not to be in HU: values from 24 to 1624" in outcome.out
    assert "p4_a: The scanner's pixels are square" in outcome.out
    found = dataset.read(tmp_path / "raw" / "Dataset970_CBCT")
    assert found.findings == ()
    assert [case.name for case in found.cases] == ["p1_a", "p2_a"]
    for case in found.cases:
        assert [str(f) for f in examine(case, found).findings if f.severity == "error"] == []
        assert io.read(case.source).grid.difference(io.read(case.target).grid) is None
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert "simulated CBCT is out of range" in run_cli(main, *flags, "--photons", -1).err
    assert "made with other settings" in run_cli(main, *flags, "--photons", 5).err
