"""Tests of the converters that leave files in place: small trees with the true layout become sound raw datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataset_conversion import any_folder, bids, brats, nnunet, synthrad, udpet
from nndiff.data.integrity import examine
from nndiff.words import dataset
from nndiff.words.files import read_json
from nndiff.words.volume import Grid
from tests.imaging.series import write_series


@pytest.fixture
def plant(tmp_path, save, phantom) -> Any:
    """Volumes below tmp_path/in, each of its own body and kind."""

    def planted(kind: str, *names: str) -> Path:
        for name in names:
            seed = sum(map(ord, Path(name).parent.name + Path(name).stem[-3:]))
            save(tmp_path / "in" / name, phantom(seed, kind=kind, noise=0.1))
        return tmp_path / "in"

    return planted


@pytest.fixture
def converted(tmp_path, run_cli, plant) -> Any:
    """Run a converter; the dataset, read and found sound."""

    def run(main: Any, *flags: object) -> dataset.Dataset:
        before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
        outcome = run_cli(main, *flags, "--raw", tmp_path / "raw")
        assert outcome.code == 0, outcome.err
        assert {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()} == before
        (folder,) = (tmp_path / "raw").iterdir()
        found = dataset.read(folder)
        assert found.findings == ()
        for case in found.cases:
            assert [str(f) for f in examine(case, found).findings if f.severity == "error"] == []
        return found

    return run


# ---------------------------------------------------------------- collections


@pytest.mark.parametrize(
    ("year", "ending", "folders"),
    [
        (2023, ".nii.gz", ("Task1/brain/1BA001", "Task1/brain/1BB002", "Task1/pelvis/1PC003")),
        (2025, ".mha", ("Task1/AB/1ABA001", "Task1/HN/1HNB002", "Task1/TH/1THC003")),
    ],
)
def test_synthrad(plant, converted, save, phantom, tmp_path, year, ending, folders) -> None:
    for folder in (*folders, folders[0].replace("Task1", "Task2").replace("/1", "/2")):
        source = plant("mr", f"{folder}/{'mr' if '/1' in folder else 'cbct'}{ending}")
        plant("ct", f"{folder}/ct{ending}")
        save(source / f"{folder}/mask{ending}", phantom(1, kind="pet") > 0.5)
    (source / folders[0]).parent.joinpath("overview").mkdir()
    (source / folders[0]).parent.joinpath("overview", "1BA001_train.png").touch()
    found = converted(synthrad.main, "-i", source, "--task", 1, "--year", year)
    assert [case.name for case in found.cases] == [Path(folder).name for folder in folders]
    assert (found.channel_names, found.target_names) == (("MR",), ("CT",))
    assert [case.mask.name for case in found.cases if case.mask] == [f"mask{ending}"] * 3
    one = converted(
        synthrad.main, "-i", source, "--task", 1, "--year", year, "--overwrite", "--region", Path(folders[0]).name[1:-4]
    )
    assert len(one.cases) == (2 if year == 2023 else 1)


@pytest.mark.parametrize(
    ("names", "ending", "groups"),
    [
        (("BraTS2021_00000", "BraTS2021_00002"), "_t1ce.nii.gz _flair.nii.gz _seg.nii.gz", 2),
        (("BraTS20_Training_001", "BraTS20_Training_002"), "_t1ce.nii _flair.nii _seg.nii", 2),
        (("BraTS-GLI-00005-000", "BraTS-GLI-00005-001"), "-t1c.nii.gz -t2f.nii.gz -t1n.nii.gz", 1),
    ],
)
def test_brats(plant, converted, names, ending, groups) -> None:
    source = plant("mr", *(f"train/{name}/{name}{last}" for name in names for last in ending.split()))
    found = converted(brats.main, "-i", source, "--source", "T1c", "--target", "FLAIR")
    assert [case.name for case in found.cases] == list(names)
    assert len({case.group for case in found.cases}) == groups
    assert found.cases[0].source[0].name.endswith(ending.split()[0])
    assert found.cases[0].target[0].name.endswith(ending.split()[1])


def test_nnunet(plant, converted, run_cli, tmp_path) -> None:
    names = [f"imagesTr/la_{case:03d}_{channel:04d}.nii.gz" for case in (3, 4) for channel in (0, 1, 2)]
    source = plant("mr", *names)
    words = {"channel_names": {"0": "T1", "1": "T2", "2": "ADC"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (source / "dataset.json").write_text(json.dumps(words))
    flags = ("-i", source, "-d", 40, "-n", "Prostate")
    found = converted(nnunet.main, *flags, "--source", "ADC", "T1", "--target", "T2")
    assert [[path.name[-11:-7] for path in case.files] for case in found.cases] == [["0002", "0000", "0001"]] * 2
    outcome = run_cli(nnunet.main, *flags, "--target", "T3", "--raw", tmp_path / "raw")
    assert outcome.code == 1
    assert "did you mean 'T2'" in outcome.err or "use one of" in outcome.err


def test_bids_with_and_without_sessions(plant, converted, tmp_path) -> None:
    anat = "sub-{0}/ses-{1}/anat/sub-{0}_ses-{1}_{2}.nii.gz"
    kinds = ("acq-iso_T1w", "acq-low_T1w", "acq-x_notFLAIR", "FLAIR")
    source = plant("mr", *(anat.format("01", session, kind) for session in "12" for kind in kinds))
    plant("mr", anat.format("02", "1", "FLAIR"), "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_acq-iso_T1w.nii.gz")
    flags = ("-d", 5, "-n", "Bids", "--overwrite")
    found = converted(bids.main, "-i", source, *flags, "--source", "acq-iso_T1w", "--target", "FLAIR")
    assert [(case.name, case.group) for case in found.cases] == [("sub-01_ses-1", "sub-01"), ("sub-01_ses-2", "sub-01")]
    assert list(read_json(found.folder / "conversion.json")["left_out"]) == ["sub-02_ses-1"]
    plant("pet", *(f"flat/sub-{i}/pet/sub-{i}_trc-{t}_pet.nii.gz" for i in "12" for t in ("FDG", "PSMA")))
    kinds = ("--source", "trc-FDG_pet", "--target", "trc-PSMA_pet")
    found = converted(bids.main, "-i", source / "flat", *flags, *kinds)
    assert [(case.name, case.group) for case in found.cases] == [("sub-1", "sub-1"), ("sub-2", "sub-2")]
    assert found.channel_names == found.target_names == ("PET",)


def test_udpet_of_both_scanners(tmp_path, phantom, converted, run_cli) -> None:
    grid = Grid((6, 8, 10), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    names = {
        "Subject_1-6/070722_2_20220707_163946": ("Full_dose", "1-4 dose", "1-10 dose"),
        "uEx/Anonymous_ANO_20220224": ("2.886 x 600 WB NORMAL", "2.886 x 600 WB D4", "2.886 x 600 WB DRF_100"),
        "uEx/lonely": ("2.886 x 600 WB D4",),
    }
    for scan, series in names.items():
        for seed, name in enumerate(series):
            array = phantom(len(scan), grid.shape, noise=0.1 * seed) * 1e4
            write_series(tmp_path / "in" / scan / name, array, grid, "PT")
    found = converted(udpet.main, "-i", tmp_path / "in", "--drf", 4, 10, 100)
    first, second = (name.rpartition("/")[2] for name in list(names)[:2])
    assert [(case.name, case.group) for case in found.cases] == [
        (f"{first}_DRF10", first),
        (f"{first}_DRF4", first),
        (f"{second}_DRF100", second),
        (f"{second}_DRF4", second),
    ]
    assert found.cases[1].source[0].name == "1-4 dose"
    assert found.cases[3].source[0].name.endswith("D4")
    assert {case.target[0].name[-6:] for case in found.cases} == {"l_dose", "NORMAL"}
    left_out = read_json(found.folder / "conversion.json")["left_out"]
    assert "no full-count series" in left_out["lonely_DRF4"]
    nothing = run_cli(udpet.main, "-i", tmp_path / "in" / "uEx" / "lonely", "--raw", tmp_path / "other")
    assert nothing.code == 1
    assert "contains no pair" in nothing.err


# ---------------------------------------------------------------- any folder


def test_any_folder_by_patterns(plant, converted) -> None:
    source = plant("pet", *(f"low/{p}_{scan}_x.nii.gz" for p in ("anna", "bert") for scan in "12"))
    plant("pet", *(f"full/{p}/{p}_{scan}.mha" for p in ("anna", "bert") for scan in "12"))
    low, full = f"NAC PET={source}/low/{{patient}}_*_x.nii.gz", f"PET={source}/full/{{patient}}/{{patient}}_*.mha"
    found = converted(any_folder.main, "-d", 7, "-n", "Low", "--source", low, "--target", full)
    assert [(case.name, case.group) for case in found.cases] == [
        ("anna_1", "anna"),
        ("anna_2", "anna"),
        ("bert_1", "bert"),
        ("bert_2", "bert"),
    ]
    assert (found.channel_names, found.target_names) == (("NAC PET",), ("PET",))


def test_without_a_source_it_generates_and_a_kind_is_told_by_the_name(plant, converted, run_cli, tmp_path) -> None:
    source = plant("ct", "a/1/chest_ct.nrrd", "b/c/2/chest_ct.nrrd", "b/c/2/notes.txt.nrrd")
    found = converted(any_folder.main, "-d", 8, "-n", "Chests", "--target", f"{source}/**/{{case}}/chest_ct.nrrd")
    assert (found.task, found.target_names) == ("generation", ("CT",))
    assert [case.name for case in found.cases] == ["1", "2"]
    outcome = run_cli(any_folder.main, "-d", 9, "-n", "X", "--target", f"{source}/*", "--raw", tmp_path / "raw")
    assert outcome.code == 1
    assert "NAME=PATTERN" in outcome.err


def test_series_of_dicom_stay_where_they_are_too(converted, tmp_path, phantom) -> None:
    grid = Grid((6, 8, 10), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    for seed, name in enumerate(("anna", "bert")):
        for kind, modality, scale in (("pet", "PT", 1e4), ("ct", "CT", 1.0)):
            folder = tmp_path / "in" / name / modality / "1.2.3"
            write_series(folder, scale * phantom(seed, grid.shape, kind=kind, noise=0.1), grid, modality)
    start = tmp_path / "in" / "{case}"
    found = converted(
        any_folder.main, "-d", 6, "-n", "Dicom", "--source", f"PET={start}/PT/*/", "--target", f"CT={start}/CT/*/"
    )
    assert [case.name for case in found.cases] == ["anna", "bert"]
    assert found.file_ending == ".nii.gz"


# ---------------------------------------------------------------- what goes wrong


@pytest.fixture
def pairs(plant) -> Path:
    plant("mr", *(f"{case}/t1.nii.gz" for case in "abc"))
    return plant("mr", *(f"{case}/t2.nii.gz" for case in "abc"))


def flags(folder: Path, raw: Path, target: str = "{case}/t2.nii.gz") -> list[str]:
    words = ["-d", "3", "-n", "Pairs", "--raw", str(raw)]
    return [*words, "--source", f"{folder}/{{case}}/t1.nii.gz", "--target", f"T2={folder}/{target}"]


def test_who_is_left_out_is_told_with_the_reason(pairs, tmp_path, run_cli) -> None:
    (pairs / "b" / "t2.nii.gz").unlink()
    outcome = run_cli(any_folder.main, *flags(pairs, tmp_path / "raw"))
    assert outcome.code == 0
    assert "2 cases of 2 patients" in outcome.out
    assert "mark {patient}" in outcome.out, "or scans of one patient stand on both sides of a split"
    assert "left out: b: no T2" in outcome.out
    report = read_json(tmp_path / "raw" / "Dataset003_Pairs" / "conversion.json")
    assert list(report["left_out"]) == ["b"]


def test_what_names_a_case_twice_must_say_the_same_and_what_no_file_can_be_called_goes(plant, converted) -> None:
    source = plant("mr", "anna b/anna b_t1.nii.gz", "anna b/bert_t1.nii.gz", "bert/bert_t1.nii.gz")
    found = converted(any_folder.main, "-d", 9, "-n", "Twice", "--target", f"T1={source}/{{case}}/{{case}}_t1.nii.gz")
    assert [case.name for case in found.cases] == ["anna_b", "bert"]


def test_a_patient_is_as_short_as_can_be_so_that_visits_share_one(plant, converted, tmp_path) -> None:
    source = plant(
        "pet", *(f"x[1]/{k}_p0{i}_{year}_a.nii.gz" for k in ("low", "full") for i in "12" for year in (2020, 2021))
    )
    start = f"{source}/x[1]"
    flags = ("--source", f"PET={start}/low_{{patient}}_*.nii.gz", "--target", f"PET={start}/full_{{patient}}_*.nii.gz")
    found = converted(any_folder.main, "-d", 9, "-n", "Visits", *flags)
    assert [case.group for case in found.cases] == ["p01", "p01", "p02", "p02"]
    assert len({case.name for case in found.cases}) == 4


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{Case}/t1.nii.gz", "replace {Case}, which is not known"),
        ("{case}/series", "with /, because it matches folders of DICOM"),
        ("{case}/x.mha", "No file matches the patterns"),
        ("{case}/x.mha", "quotes"),
        ("a/t1.nii.gz", "one of them is the path of a file"),
        ("a/t1.nii.gz", "quotes"),
    ],
)
def test_what_a_pattern_lacks_is_said(pairs, tmp_path, phantom, run_cli, pattern, words) -> None:
    grid = Grid((3, 4, 5), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    write_series(pairs / "a" / "series", phantom(0, grid.shape, kind="ct"), grid)
    outcome = run_cli(any_folder.main, "-d", 4, "-n", "No", "--target", f"CT={pairs}/{pattern}", "--raw", tmp_path)
    assert outcome.code == 1
    assert words in outcome.err


def test_two_files_for_one_thing_are_not_chosen_from(pairs, plant, tmp_path, run_cli) -> None:
    plant("mr", "a/t2b.nii.gz")
    outcome = run_cli(any_folder.main, *flags(pairs, tmp_path / "raw", "{case}/t2*.nii.gz"))
    assert outcome.code == 0
    assert "left out: a: two files match the same channel" in outcome.out


def test_what_cannot_be_converted_leaves_nothing(pairs, tmp_path, run_cli) -> None:
    for target, words in (("{case}/t9.nii.gz", "has a file for every channel"), ("*/t2.nii.gz", None)):
        outcome = run_cli(any_folder.main, *flags(pairs, tmp_path / "raw", target))
        assert (outcome.code == 1) == (words is not None)
        assert words is None or words in outcome.err
        assert words is None or not (tmp_path / "raw").exists()
    nowhere = run_cli(any_folder.main, "-d", 4, "-n", "No", "--target", f"CT={pairs}/x/*.nii.gz", "--raw", tmp_path)
    assert nowhere.code == 1
    assert "a/, b/, c/" in nowhere.err, "what does lie there"
    for number, name in ((0, "Zero"), (1000, "Big"), (4, "a b")):
        bad = run_cli(
            any_folder.main, "-d", number, "-n", name, "--target", f"CT={pairs}/*/t1.nii.gz", "--raw", tmp_path
        )
        assert bad.code == 1


def test_another_dataset_json_is_not_replaced_unasked(pairs, tmp_path, run_cli) -> None:
    words = flags(pairs, tmp_path / "raw")
    assert run_cli(any_folder.main, *words).code == 0
    first = (tmp_path / "raw" / "Dataset003_Pairs" / "dataset.json").read_bytes()
    assert run_cli(any_folder.main, *words).code == 0, "the same again"
    (pairs / "c" / "t1.nii.gz").unlink()
    refused = run_cli(any_folder.main, *words)
    assert refused.code == 1
    assert "--overwrite" in refused.err
    assert (tmp_path / "raw" / "Dataset003_Pairs" / "dataset.json").read_bytes() == first
    assert run_cli(any_folder.main, *words, "--overwrite").code == 0
    assert len(dataset.read(tmp_path / "raw" / "Dataset003_Pairs").cases) == 2
    taken = run_cli(any_folder.main, *words, "-n", "Other")
    assert taken.code == 1
    assert "Another dataset has the number 003" in taken.err
