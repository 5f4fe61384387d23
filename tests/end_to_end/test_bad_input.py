"""End-to-end tests of bad input: exit code 1, an error with case, file and remedy, and no remaining files."""

import gzip
import json
import os
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from nndiff.cli.plan_and_preprocess import main
from nndiff.data import kept
from nndiff.words.dataset import read
from nndiff.words.files import PART
from tests.conftest import ORIGIN, SHAPE, SPACING, make_phantom, save_volume

FAST = ("-d", "1", "-np", "0", "-c", "bridge", "-gpu_memory_target", "8")
FILE = "case_1_0000.nii.gz"


@pytest.fixture
def refused(run_cli, roots):
    """refused(*flags) → what was said, after a check of all that holds for every refusal."""

    def check(*flags):
        code, out, err = run_cli(main, *FAST, *flags)
        assert code == 1
        assert "\nError: " in err
        assert "remedy: " in err or "expected " in err
        assert "Traceback" not in out + err
        files = (
            [path for path in roots.preprocessed.rglob("*") if path.is_file()] if roots.preprocessed.exists() else []
        )
        assert [path for path in files if path.name.startswith(PART)] == []
        assert [path.name for path in files if path.name != "fingerprint.json"] == []
        return err

    return check


@pytest.fixture
def dataset(raw_dataset, roots):
    return raw_dataset(cases=3)


def said(text, *words):
    for word in words:
        assert word in text, text


# ---------------------------------------------------------------- files


def test_a_truncated_file(dataset, refused):
    path = dataset / "imagesTr" / FILE
    path.write_bytes(path.read_bytes()[:2000])
    said(refused(), "case_1", str(path), "damaged or incomplete", "copy the file again")


def test_garbage_by_a_good_name(dataset, refused):
    path = dataset / "targetsTr" / FILE
    path.write_bytes(b"not an image at all")
    said(refused(), "case_1", str(path), "is damaged or incomplete")


def test_an_empty_file(dataset, refused):
    path = dataset / "targetsTr" / FILE
    path.write_bytes(b"")
    said(refused(), "case_1", str(path))


def test_a_target_somewhere_else(dataset, refused):
    path = dataset / "targetsTr" / FILE
    save_volume(path, make_phantom(101), SPACING, (ORIGIN[0] + 1, *ORIGIN[1:]))
    said(
        refused(),
        "case_1",
        str(path),
        "voxel grid differs",
        "(-29, 12.5, 100) instead of (-30, 12.5, 100) mm",
        "resample",
    )


def test_a_missing_channel(raw_dataset, roots, refused):
    folder = raw_dataset(cases=2, sources=("PET", "CT"))
    (folder / "imagesTr" / "case_1_0001.nii.gz").unlink()
    said(refused(), "case_1", "imagesTr/case_1_0001.nii.gz", "_0001 is missing", "add the file")


@pytest.mark.parametrize("flags", [(), ("-np", "2"), ("--no-verify_dataset_integrity",)], ids=" ".join)
def test_voxels_that_are_no_numbers(raw_dataset, roots, refused, flags):
    path = raw_dataset(cases=2, ending=".mha") / "imagesTr" / "case_1_0000.mha"
    array = make_phantom(101)
    array[5, 6, 7] = np.nan
    save_volume(path, array)
    said(refused(*flags), "case_1", str(path), "1 of 4032 voxels are NaN", "-16.0, 24.5, 110.0 mm")


def test_an_empty_source(dataset, refused):
    path = dataset / "imagesTr" / FILE
    save_volume(path, np.zeros(SHAPE))
    said(refused(), "case_1", str(path), "all voxels have the value 0")


def test_a_flat_image(dataset, refused):
    path = dataset / "imagesTr" / FILE
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((16, 18), np.float32)), str(path))
    said(refused(), "case_1", str(path), "expected 3 axes", "found 2 axes")


def test_a_voxel_size_of_zero(dataset, refused):
    path = dataset / "imagesTr" / FILE
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<f", data, 76 + 4 * 3, 0.0)  # pixdim[3]
    path.write_bytes(gzip.compress(bytes(data)))
    said(refused(), "case_1", str(path), "voxel sizes of 0.01 to 100 mm", "found (0.0, 2.0, 2.0)")


def test_every_bad_case_is_in_one_report(dataset, refused):
    (dataset / "imagesTr" / "case_0_0000.nii.gz").write_bytes(b"garbage")
    save_volume(dataset / "imagesTr" / FILE, np.zeros(SHAPE))
    (dataset / "targetsTr" / "case_2_0000.nii.gz").unlink()
    said(refused(), "3 errors", "Case case_0", "Case case_1", "Case case_2")


# ---------------------------------------------------------------- structure, words, folders


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chanel_names": {"0": "PET"}}, ("Unknown key 'chanel_names'", "did you mean 'channel_names'?")),
        ({"labels": {"tumour": 1}}, ("'labels' is a key of nnU-Net's segmentation", 'write "target_names"')),
        ({"file_ending": ".dcm"}, ("file_ending", "expected one of .nii.gz")),
        ({"numTraining": "many"}, ("numTraining", "a whole number")),
    ],
)
def test_a_wrong_word_in_dataset_json(dataset, refused, change, words):
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    said(refused(), "dataset.json", str(path), *words)


def test_a_dataset_json_that_is_none(dataset, refused):
    (dataset / "dataset.json").write_text('{"target_names": {"0": "PET"},}')
    said(refused(), "dataset.json is not valid JSON", "line 1", str(dataset))
    (dataset / "dataset.json").unlink()
    said(refused(), "dataset.json is missing", str(dataset))


def test_no_case(raw_dataset, roots, refused):
    said(refused(), "There is no dataset '1'")
    raw_dataset(cases=0)
    said(refused(), "no complete case", "imagesTr/CASE_0000.nii.gz")


def test_an_unknown_dataset(dataset, refused):
    said(refused("-d", "7"), "There is no dataset '7'", "Dataset007_Name", "found Dataset001_Tiny", str(dataset.parent))


def test_no_environment(run_cli, tmp_path):
    code, _, err = run_cli(main, *FAST)
    assert code == 1
    said(err, "folder for raw data is not set", "export nndiff_raw=", "--raw")
    code, _, err = run_cli(main, *FAST, "--raw", tmp_path)
    assert code == 1
    said(err, "There is no dataset '1'")


def test_an_output_folder_that_cannot_be_written(dataset, refused, tmp_path):
    (tmp_path / "file").write_text("")
    err = refused("--preprocessed", tmp_path / "file" / "below")
    said(err, "Cannot write", str(tmp_path / "file"), "write permission")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-c", "brigde"), ("no configuration 'brigde'", "did you mean 'bridge'?")),
        (("-gpu_memory_target", "-8"), ("-gpu_memory_target", "found -8.0")),
        (("--set", "batch_size"), ("--set needs key=value",)),
        (("--set", "configurations.bridge.batchsize=2"), ("did you mean 'batch_size'?",)),
        (("--set", "configurations.bridge.batch_size=two"), ("a whole number",)),
        (("--set", "configurations.bridge.batch_size=0"), ("at least 1",)),
    ],
)
def test_a_wrong_decision_by_hand(dataset, refused, flags, words):
    """Before the first file is opened."""
    text = refused(*flags)
    said(text, *words)
    assert "Fingerprint:" not in text


# ---------------------------------------------------------------- odd, and right


def test_two_orientations_in_one_dataset_give_what_their_canonical_twins_give(raw_dataset, roots, run_cli):
    raw_dataset(1, cases=2)
    turned = raw_dataset(2, cases=2)
    for side in ("imagesTr", "targetsTr"):
        for case, orientation in (("case_0", "LPS"), ("case_1", "SAR")):
            image = sitk.ReadImage(str(roots.raw / "Dataset001_Tiny" / side / f"{case}_0000.nii.gz"))
            image = sitk.DICOMOrient(image, orientation)
            sitk.WriteImage(image, str(turned / side / f"{case}_0000.nii.gz"))
    code, out, err = run_cli(main, *FAST, "-d", "1", "2")
    assert code == 0, err
    assert "2 cases preprocessed" in out
    for kind in ("source", "target"):
        for case in ("case_0", "case_1"):
            one, two = (
                np.load(roots.preprocessed / name / "bridge" / f"{case}_{kind}.npy")
                for name in ("Dataset001_Tiny", "Dataset002_Tiny")
            )
            np.testing.assert_array_equal(one, two)


def test_a_dry_run_writes_no_plan_and_its_fingerprint_is_used_by_the_next_run(dataset, roots, run_cli, monkeypatch):
    folder = roots.preprocessed / "Dataset001_Tiny"
    code, out, _ = run_cli(main, *FAST, "--dry-run")
    assert code == 0
    assert "no plan was written" in out
    assert {path.name for path in folder.iterdir()} == {kept.FILE, kept.ORIGIN}
    with monkeypatch.context() as patched:
        patched.setattr(kept, "extract", lambda *_: pytest.fail("the scans were read again"))
        code, out, err = run_cli(main, *FAST)
    assert code == 0, err
    assert "No file has changed" in out
    before = (folder / kept.FILE).read_bytes()
    path = next((dataset / "imagesTr").iterdir())
    os.utime(path, ns=(0, 10**9))
    code, out, _ = run_cli(main, *FAST, "--dry-run")  # of a plan that exists: its fingerprint stays
    assert code == 0
    assert "No file has changed" not in out
    assert json.loads((folder / kept.ORIGIN).read_text())["files"] != kept.digest_of(read(dataset), True)
    assert run_cli(main, *FAST).code == 0
    assert json.loads((folder / kept.ORIGIN).read_text())["files"] == kept.digest_of(read(dataset), True)
    assert (folder / kept.FILE).read_bytes() == before
