"""Tests of the optional parts of a conversion: cases named by numbers, registration of sources, masks, resuming."""

from __future__ import annotations

import gzip
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion import any_folder, low_count
from nndiff.data.integrity import examine
from nndiff.imaging import dicom, io
from nndiff.imaging.register import register
from nndiff.words import dataset
from nndiff.words.files import read_json
from nndiff.words.volume import Grid, Volume
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
    shutil.copytree(exams / "MULLER_ANNA_2" / "low", exams / "NEW_ANNA_3" / "low")  # and nothing else: left out
    assert run_cli(any_folder.main, *words, "--case_names", "numbers", "--overwrite").code == 0
    assert "NEW" not in "".join(read_json(tmp_path / "raw" / "Dataset007_Named" / "conversion.json")["left_out"])
    found = dataset.read(tmp_path / "raw" / "Dataset007_Named")
    assert found.cases[0].files == first, "a number once given stays"
    assert [case.group for case in found.cases] == ["patient0001", "patient0001", "patient0002"]
    assert run_cli(any_folder.main, *words, "--case_names", "paths", "--overwrite").code == 0
    assert "MULLER_ANNA_1" in [case.name for case in dataset.read(found.folder).cases]


def test_visits_of_one_patient_are_one_group_and_the_number_is_not_stored(tmp_path, phantom, run_cli) -> None:
    """The paths do not say who is who; the headers do."""
    grid = Grid((6, 8, 10), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    numbers = {"v1": "778899", "v2": "554433", "v3": "778899", "v4": "unknown", "v5": "unknown"}
    for seed, (folder, number) in enumerate(numbers.items()):
        for kind in ("low", "full"):
            array = 1e4 * phantom(seed, grid.shape, noise=0.1)
            who = {"PatientName": "Doe^J", "PatientID": number}
            write_series(tmp_path / "in" / folder / kind, array, grid, "PT", **who)
    words = ["-d", 7, "-n", "Visits", "--raw", tmp_path / "raw", "--source", f"PET={tmp_path}/in/{{case}}/low/"]
    assert run_cli(any_folder.main, *words, "--target", f"PET={tmp_path}/in/{{case}}/full/").code == 0
    found = dataset.read(tmp_path / "raw" / "Dataset007_Visits")
    groups = {case.name: case.group for case in found.cases}
    assert groups == {"v1": "v1", "v2": "v2", "v3": "v1", "v4": "v4", "v5": "v5"}, "a placeholder is nobody's number"
    for path in (tmp_path / "raw").rglob("*.json"):
        assert not any(number in path.read_text() for number in ("778899", "554433"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("x^Ole", "anonymous_ole", True),
        ("Anonymous", "anonymous_1", False),
        ("4711", "4711", False),
        ("Müller^Hans", "muller_1", True),
        ("Müller^Hans", "MUELLER-1", True),
        ("Li^Wu", "li_1", True),
        ("Li^Wu", "clinic_1", False),
        ("Smith^A", "a_1", False),
        ("Smith^A", "scan_4711_b", True),
        ("Anonymous", "47-11", True),
        ("Smith^A", "471", False),
        ("Abel^Ann", "xabelx", True),
        ("Test^Ann", "latest", False),
        ("Anne^B", "joanne", True),
    ],
)
def test_a_name_is_known_however_it_is_spelt(tmp_path, phantom, name, text, told) -> None:
    grid = Grid((3, 4, 5), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    words = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": name, "PatientID": "4711"}
    write_series(tmp_path / "s", phantom(0, grid.shape, kind="ct"), grid, **words)
    assert dicom.names_patient(tmp_path / "s", text) is told


@pytest.mark.parametrize(("number", "text", "told"), [("Unknown", "unknown_1", False), ("12", "a12b", False)])
def test_a_placeholder_or_a_short_number_is_nobodys(tmp_path, phantom, number, text, told) -> None:
    grid = Grid((3, 4, 5), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    words = {"PatientName": "Smith^A", "PatientID": number}
    write_series(tmp_path / "s", phantom(0, grid.shape, kind="ct"), grid, **words)
    assert dicom.names_patient(tmp_path / "s", text) is told
    assert dicom.patient_number(tmp_path / "s") == ("12" if number == "12" else "")


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
    assert "left out: p1: T1: source and target hardly correspond" in outcome.out
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
    assert "--register needs a source channel" in run_cli(any_folder.main, *words[:4], *words[6:]).err


def test_what_is_done_stays_what_is_lost_is_made_again_and_halves_are_swept(tmp_path, run_cli) -> None:
    for name in "ab":
        io.write(scan("ct"), tmp_path / "in" / f"{name}.nii.gz")
    words = ["-d", 9, "-n", "M", "--target", f"MR={tmp_path}/in/{{case}}.nii.gz", "--mask", "body", "-np", 0]
    words += ["--raw", tmp_path / "raw"]
    assert run_cli(any_folder.main, *words).code == 0
    made = [tmp_path / "raw" / "Dataset009_M" / "masksTr" / f"{name}.nii.gz" for name in "ab"]
    before = [path.stat().st_mtime_ns for path in made]
    half = made[0].with_name(f".part-{platform.node()}_999999+c.nii.gz")  # of a process that is no more
    half.touch()
    made[1].unlink()
    assert run_cli(any_folder.main, *words).code == 0
    assert made[0].stat().st_mtime_ns == before[0]
    assert made[1].exists()
    assert not half.exists()
    io.write(Volume(scan("ct").array[..., ::-1].copy(), scan("ct").grid), tmp_path / "in" / "a.nii.gz")
    inside = io.read([made[0]]).array
    assert run_cli(any_folder.main, *words).code == 0
    assert not np.array_equal(io.read([made[0]]).array, inside), "another image of that name has another mask"


def test_the_image_that_shows_best_where_the_body_ends_draws_its_mask(tmp_path, run_cli) -> None:
    for kind in ("ct", "pet"):
        io.write(scan(kind), tmp_path / "in" / "a" / f"{kind}.nii.gz")
    start = f"{tmp_path}/in/{{case}}"
    words = ["-d", 9, "-n", "M", "--source", f"MR={start}/ct.nii.gz", "--target", f"PET={start}/pet.nii.gz"]
    assert run_cli(any_folder.main, *words, "--mask", "body", "-np", 0, "--raw", tmp_path / "raw").code == 0
    assert read_json(tmp_path / "raw" / "Dataset009_M" / "masks" / "_settings.json")["by"] == "MR"


@pytest.mark.parametrize(("name", "motion", "outside"), [("CT", "rigid", -1024.0), ("T1", "affine", 0.0)])
def test_a_source_is_registered_as_asked_with_its_own_air(
    tmp_path, run_cli, monkeypatch, name, motion, outside
) -> None:
    seen = []

    def watched(fixed, moving, *words):
        seen.append(words)
        return register(fixed, moving, *words)

    monkeypatch.setattr("dataset_conversion.registration.register", watched)
    for kind in ("ct", "pet"):
        io.write(scan(kind), tmp_path / "in" / "a" / f"{kind}.nii.gz")
    start = f"{tmp_path}/in/{{case}}"
    words = ["-d", 9, "-n", "M", "--source", f"{name}={start}/ct.nii.gz", "--target", f"MR={start}/pet.nii.gz"]
    outcome = run_cli(any_folder.main, *words, "--register", motion, "-np", 0, "--raw", tmp_path / "raw")
    assert outcome.code == 0, outcome.err
    assert seen == [(outside, motion == "affine")]


def test_nothing_of_the_patient_enters_what_is_written(tmp_path, run_cli) -> None:
    """Names, numbers and dates of DICOM headers: only the list that says which case is which has the path."""
    grid = Grid((6, 12, 12), (3.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij")
    body = (y**2 + x**2 < 0.7).astype(np.float32) + (z**2 + y**2 + x**2 < 0.2)
    who = {"PatientName": "Muller^Anna", "PatientID": "4711", "PatientBirthDate": "19500203", "StudyDate": "20240506"}
    for case in ("MULLER_1", "MULLER_2"):
        write_series(tmp_path / "in" / case / "pt", 1e4 * body, grid, "PT", **who)
    words = ["--pet", tmp_path / "in" / "{patient}_{case}" / "pt/", "--raw", tmp_path / "raw", "-np", 0]
    words[1] = f"{words[1]}/"
    assert "name of a patient" in run_cli(low_count.main, *words).err
    outcome = run_cli(low_count.main, *words, "--case_names", "numbers")
    assert outcome.code == 0, outcome.err
    written = [path for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        text = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        for word in (b"MULLER", b"Muller", b"4711", b"19500203", b"20240506"):
            assert path.name == "case_numbers.json" or word not in text, (path, word)


def test_a_refused_command_leaves_the_images_as_they_were(tmp_path, run_cli) -> None:
    """Other sources under the same names: --overwrite must be asked for before anything is written."""
    for kind in ("ct", "pet"):
        io.write(scan(kind), tmp_path / "in" / "a" / f"{kind}.nii.gz")
    start = f"{tmp_path}/in/{{case}}"

    def words(source: str) -> list[object]:
        flags = ["-d", 9, "-n", "M", "--source", f"T1={start}/{source}.nii.gz", "--target", f"MR={start}/ct.nii.gz"]
        return [*flags, "--register", "rigid", "-np", 0, "--raw", tmp_path / "raw"]

    assert run_cli(any_folder.main, *words("pet")).code == 0
    made = tmp_path / "raw" / "Dataset009_M" / "imagesTr" / "a_0000.nii.gz"
    before = made.read_bytes()
    refused = run_cli(any_folder.main, *words("ct"))
    assert refused.code == 1
    assert "made with other settings" in refused.err
    assert made.read_bytes() == before
    assert run_cli(any_folder.main, *words("ct"), "--overwrite").code == 0
    assert made.read_bytes() != before
