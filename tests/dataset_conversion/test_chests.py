"""Tests of the converters of chest CTs: one grid as published (HU, voxels, centre), and the patient of each scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_conversion import lidc, rad_chestct
from dataset_conversion.chests import field, middle
from nndiff.data.integrity import examine
from nndiff.imaging import io
from nndiff.words import dataset
from nndiff.words.files import read_json
from nndiff.words.volume import Grid, Volume
from tests.imaging.series import write_series

SHAPE = (30, 44, 50)
SPACING = (2.5, 1.6, 1.6)


def chest(z: float = 0.0) -> np.ndarray:
    """Air, a body, a brighter heart off its middle on every axis."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = grid[1] ** 2 + grid[2] ** 2 < 0.8
    heart = (grid[0] - 0.4 + z) ** 2 + (grid[1] + 0.3) ** 2 + (grid[2] - 0.35) ** 2 < 0.06
    return np.where(heart, 300.0, np.where(body, 40.0, -1000.0)).astype(np.float32)


def converted(main: Any, folder: Path, raw: Path, run_cli: Any, *flags: object) -> tuple[dataset.Dataset, str]:
    grid = ("--spacing", 2, "--size", 40, "-np", 0)
    outcome = run_cli(main, "-i", folder, "--raw", raw, *grid, *flags)
    assert outcome.code == 0, outcome.err
    (made,) = raw.iterdir()
    found = dataset.read(made)
    assert found.findings == ()
    assert found.task == "generation"
    for case in found.cases:
        assert [str(f) for f in examine(case, found).findings if f.severity == "error"] == []
        volume = io.read(case.target)
        assert volume.grid.shape == (40, 40, 40)
        np.testing.assert_allclose(volume.grid.spacing, 2.0, rtol=1e-6)
        assert volume.array.min() >= -1000
        assert volume.array.max() <= 1000
    return found, outcome.out


def heart_mm(path: Path) -> np.ndarray:
    """Where it is, L P S."""
    volume = io.read([path])
    hot = np.argwhere(volume.array[0] > 170).mean(axis=0)
    return volume.grid.position(tuple(hot))


@pytest.fixture
def lidc_tree(tmp_path) -> Path:
    """As the archive's own program leaves it: studies and series by date and number, XML beside the slices."""
    grid = Grid(SHAPE, SPACING, (-39.0, -34.0, 110.0))
    start = tmp_path / "in" / "manifest-1600709154662" / "LIDC-IDRI"
    first = start / "LIDC-IDRI-0001" / "01-01-2000-NA-NA-30178" / "3000566.000000-NA-03192"
    write_series(first, np.where(chest() <= -1000, -1000, chest()), grid)
    (first / "069.xml").write_text("<LidcReadMessage/>")
    write_series(start / "LIDC-IDRI-0001" / "01-01-2000-NA-NA-35511" / "3000923-NA-62357", chest(), grid, Modality="DX")
    for series in ("30001-NA-1", "30002-NA-2"):
        write_series(start / "LIDC-IDRI-0132" / "01-01-2000-NA-NA-1" / series, chest(), grid)
    short = Grid((5, 44, 50), SPACING, grid.origin)
    write_series(start / "LIDC-IDRI-0200" / "01-01-2000-NA-NA-2" / "3-NA-3", chest()[18:23], short)
    dx = start / "LIDC-IDRI-0300" / "01-01-2000-NA-NA-3" / "4-NA-4"
    write_series(dx, chest()[:3], Grid((3, 44, 50), SPACING, grid.origin), Modality="DX")
    (start / "LICENSE").touch()
    return tmp_path / "in"


def test_lidc(lidc_tree, tmp_path, run_cli) -> None:
    found, out = converted(lidc.main, lidc_tree, tmp_path / "raw", run_cli)
    assert [(case.name, case.group) for case in found.cases] == [
        ("LIDC-IDRI-0001", "LIDC-IDRI-0001"),
        ("LIDC-IDRI-0132", "LIDC-IDRI-0132"),
        ("LIDC-IDRI-0132_2", "LIDC-IDRI-0132"),
    ]
    assert "LIDC-IDRI-0200: the scan measures 12 mm, too little for a field of 80 mm" in out
    assert "LIDC-IDRI-0300: no CT series" in out
    (series,) = [path for path in lidc_tree.rglob("3000566*") if path.is_dir()]
    np.testing.assert_allclose(heart_mm(found.cases[0].target[0]), heart_mm(series), atol=1.0)
    assert (found.folder / "chests" / "LIDC-IDRI-0001.png").exists()


def test_rad_chestct(tmp_path, run_cli) -> None:
    """Slices from the neck down: turned over, the heart lies on the same side as in a file that says where it lies."""
    folder = tmp_path / "in"
    folder.mkdir()
    cube = np.repeat(np.repeat(np.repeat(chest(), 3, 0), 2, 1), 2, 2).astype(np.int16)
    for name in ("trn00001", "trn00002", "val00001"):
        np.savez_compressed(folder / f"{name}.npz", ct=cube[::-1])
    np.savez_compressed(folder / "tst00001.npz", image=cube)
    (folder / "tst00002.npz").write_bytes((folder / "trn00001.npz").read_bytes()[:2000])
    np.savez_compressed(folder / "tst00003.npz", ct=np.clip(cube, 0, 255))
    found, out = converted(rad_chestct.main, folder, tmp_path / "raw", run_cli)
    assert "each scan counts as a separate patient" in out
    assert [case.name for case in found.cases] == ["trn00001", "trn00002", "val00001"]
    left_out = read_json(found.folder / "conversion.json")["left_out"]
    assert "an array called ct" in left_out["tst00001"]
    assert "cannot be read" in left_out["tst00002"]
    assert "not to be in HU" in left_out["tst00003"]
    volume = io.read(found.cases[0].target)
    hot = np.argwhere(volume.array[0] > 170).mean(axis=0) - 19.5
    assert hot[0] > 2, "towards the head"
    assert hot[1] < -2, "towards the front"
    assert hot[2] > 2, "towards the left"
    (folder / "CT_Scan_Metadata_Complete_35747.csv").write_text(
        "NoteAcc_DEID,MRN_DEID,age\ntrn00001,mrn7,50\ntrn00002,mrn7,51\nval00001,mrn8,60\n"
    )
    found, out = converted(rad_chestct.main, folder, tmp_path / "raw", run_cli, "--overwrite")
    assert [case.group for case in found.cases] == ["mrn7", "mrn7", "mrn8"]


def test_the_middle_stays_and_no_edge_rings() -> None:
    grid = Grid(SHAPE, SPACING, (-39.0, -34.0, 110.0))
    volume = Volume(chest()[None], grid)
    found = Volume(middle(volume, 2.0, 40)[None], field(grid, 2.0, 40))
    np.testing.assert_allclose(found.grid.position((19.5,) * 3), grid.position(tuple((n - 1) / 2 for n in SHAPE)))
    assert found.array.min() == -1000
    assert found.array.max() <= 300
    assert (found.array[0][:, 0] == -1000).all(), "air where the scan does not reach"
    padded = Volume(np.where(volume.array == -1000, -3024, volume.array), grid)
    np.testing.assert_array_equal(middle(padded, 2.0, 40), found.array[0])
    wave = np.cos(np.pi * np.arange(SHAPE[2]))[None, None, None] * np.ones((1, *SHAPE)) * 500  # finer than 2 mm hold
    assert np.abs(middle(Volume(wave.astype(np.float32), grid), 4.0, 8)).max() < 0.05 * 500


def test_what_is_no_collection_is_refused(tmp_path, run_cli) -> None:
    (tmp_path / "in" / "LIDC-IDRI-0001").mkdir(parents=True)
    flags = ("-i", tmp_path / "in", "--raw", tmp_path / "raw")
    assert "contains no CT series" in run_cli(lidc.main, *flags).err
    assert "contains no scan" in run_cli(rad_chestct.main, *flags).err
    np.savez(tmp_path / "in" / "trn1.npz", ct=chest())
    (tmp_path / "in" / "CT_Scan_Metadata_Complete_1.csv").write_text("a,b\n1,2\n")
    assert "does not assign the scans to patients" in run_cli(rad_chestct.main, *flags).err
    (tmp_path / "in" / "CT_Scan_Metadata_Complete_1.csv").unlink()
    assert "The grid is out of range" in run_cli(rad_chestct.main, *flags, "--size", 0).err
    assert not (tmp_path / "raw").exists()
