"""Cases under numbers, sources registered, masks drawn: what a converter does where it is asked to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion import any_folder
from nndiff import dataset
from nndiff.imaging import dicom, io
from nndiff.integrity import examine
from nndiff.volume import Grid, Volume
from tests.imaging.series import write_series
from tests.imaging.test_register import moved, scan


@pytest.fixture
def exams(tmp_path, phantom) -> Path:
    """Series in folders that are called by the patients, as an archive exports them."""
    grid = Grid((6, 8, 10), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    for seed, (folder, name) in enumerate((("MULLER_ANNA_1", "Muller^Anna"), ("MULLER_ANNA_2", "Muller^Anna"))):
        for kind in ("low", "full"):
            array = 1e4 * phantom(seed, grid.shape, noise=0.1)
            write_series(tmp_path / "in" / folder / kind, array, grid, "PT", PatientName=name, PatientID="4711")
    return tmp_path / "in"


def test_a_patients_name_must_be_asked_for_and_numbers_stay(exams, tmp_path, phantom, run_cli) -> None:
    pattern = "{patient}_{case}"
    words = ["-d", 7, "-n", "Named", "--raw", tmp_path / "raw", "--source", f"PET={exams}/{pattern}/low/"]
    words += ["--target", f"PET={exams}/{pattern}/full/"]
    refused = run_cli(any_folder.main, *words)
    assert refused.code == 1
    assert "--case_names numbers" in refused.err
    assert not (tmp_path / "raw").exists()
    assert run_cli(any_folder.main, *words, "--case_names", "numbers").code == 0
    found = dataset.read(tmp_path / "raw" / "Dataset007_Named")
    assert [(case.name, case.group) for case in found.cases] == [
        ("case0001", "patient0001"),
        ("case0002", "patient0001"),
    ]
    first = found.cases[0].files
    shutil.copytree(exams / "MULLER_ANNA_2", exams / "AAA_ANNA_0")
    assert run_cli(any_folder.main, *words, "--case_names", "numbers", "--overwrite").code == 0
    found = dataset.read(tmp_path / "raw" / "Dataset007_Named")
    assert found.cases[0].files == first, "a number once given stays"
    assert [case.group for case in found.cases] == ["patient0001", "patient0001", "patient0002"]
    assert run_cli(any_folder.main, *words, "--case_names", "paths", "--overwrite").code == 0
    assert "MULLER_ANNA_1" in [case.name for case in dataset.read(found.folder).cases]


@pytest.mark.parametrize(
    ("name", "number", "told"), [("LIDC-7", "LIDC-7", False), ("Anonymous", "1", False), ("x^Ole", "1", True)]
)
def test_what_de_identification_leaves_is_no_name(tmp_path, phantom, name, number, told) -> None:
    grid = Grid((3, 4, 5), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    write_series(tmp_path / "s", phantom(0, grid.shape, kind="ct"), grid, PatientName=name, PatientID=number)
    assert dicom.names_patient(tmp_path / "s", "anonymous_lidc-7_ole_1") is told


def test_sources_are_registered_and_masks_drawn_where_asked(tmp_path, run_cli) -> None:
    """The written files lie in the dataset's folder, which can then be moved; who is in doubt is left out."""
    noise = np.random.default_rng(0).normal(size=scan("ct").array.shape).astype(np.float32)
    for number in range(2):
        t1 = moved(scan("pet"), 4.0 * number, (5.0, -6.0, 3.0))
        noise = Volume(
            np.random.default_rng(0).normal(size=(1, *scan("ct").grid.shape)).astype(np.float32), scan("ct").grid
        )
        io.write(noise if number else t1, tmp_path / "in" / f"p{number}" / "t1.nii.gz")
        io.write(scan("ct"), tmp_path / "in" / f"p{number}" / "ct.nii.gz")
    start = f"{tmp_path}/in/{{case}}"
    words = ["-d", 8, "-n", "Laid", "--source", f"T1={start}/t1.nii.gz", "--target", f"MR={start}/ct.nii.gz", "-np", 0]
    words += ["--raw", tmp_path / "raw", "--register", "rigid", "--mask", "body"]
    outcome = run_cli(any_folder.main, *words)
    assert outcome.code == 0, outcome.err
    assert "left out: p1: T1: they have next to nothing in common" in outcome.out
    folder = (tmp_path / "raw" / "Dataset008_Laid").rename(tmp_path / "Dataset008_Laid")
    found = dataset.read(folder)
    assert found.findings == ()
    (case,) = found.cases
    assert [str(f) for f in examine(case, found).findings if f.severity == "error"] == []
    assert case.mask == folder / "masksTr" / "p0.nii.gz"
    inside = io.read([case.mask]).array[0] > 0
    assert 0.1 < inside.mean() < 0.9
    assert (folder / "masks" / "p0.png").exists()
    assert (folder / "registration" / "p0_0000.png").exists()
    folder.rename(tmp_path / "raw" / "Dataset008_Laid")
    other = run_cli(any_folder.main, *words[:-3], "affine")
    assert other.code == 1
    assert "made with other settings" in other.err
    assert "There is nothing to register" in run_cli(any_folder.main, *words[:4], *words[6:]).err
