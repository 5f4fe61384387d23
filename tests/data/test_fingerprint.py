"""Tests of the fingerprint of a dataset: values against numpy, reproducible bytes, and one report of all problems."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nndiff.data import fingerprint
from nndiff.data.prepare import CROP_MARGIN_MM, body
from nndiff.imaging.crop import foreground
from nndiff.imaging.io import read
from nndiff.words import dataset
from nndiff.words.errors import NndiffError
from nndiff.words.files import dumps
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.kind import PET
from nndiff.words.strict_json import decode, encode
from tests.conftest import SHAPE, SPACING, make_phantom, save_volume


def extracted(folder, workers=0, verify=True):
    return fingerprint.extract(dataset.read(folder), workers, verify)


def test_statistics_against_numpy(raw_dataset):
    folder = raw_dataset(cases=3, sources=("PET", "CT"), groups={"case_2": "patient"})
    found, warnings = extracted(folder)
    assert warnings == []
    assert (found.dataset, found.task, found.channel_names) == ("Dataset001_Tiny", "translation", ("PET", "CT"))
    assert [case.group for case in found.cases] == ["case_0", "case_1", "patient"]
    for case in found.cases:
        assert (case.shape, case.spacing, case.layout) == (SHAPE, SPACING, "LPS")
        path = folder / "imagesTr" / f"{case.name}_0000.nii.gz"
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        inside = array[foreground(array, PET)]
        assert case.source[0].mean == pytest.approx(inside.mean(), rel=1e-4)
        assert case.source[0].percentiles["99"] == pytest.approx(np.percentile(inside, 99), rel=1e-4)
        assert len(case.links) == 1
        assert len(case.links[0]) == 2
        assert case.links[0][0].noise_share > 0.5
        assert 0 < case.links[0][0].matched_step < case.links[0][1].matched_step <= 1000


def test_pooled_statistics_weigh_the_cases_equally(raw_dataset):
    folder = raw_dataset(cases=2)
    save_volume(folder / "targetsTr" / "case_1_0000.nii.gz", 3 * make_phantom(101, noise=0.1))
    found, _ = extracted(folder)
    (pooled,) = found.pooled_target
    cases = [case.target[0] for case in found.cases]
    assert pooled.mean == pytest.approx(np.mean([case.mean for case in cases]), rel=0.01)
    assert (pooled.minimum, pooled.maximum) == (min(c.minimum for c in cases), max(c.maximum for c in cases))
    assert pooled.peak == pytest.approx(np.median([case.peak for case in cases]))


def test_the_same_bytes_twice_and_with_any_number_of_workers(raw_dataset):
    folder = raw_dataset(cases=4, masks=True)
    texts = {dumps(encode(extracted(folder, workers)[0])) for workers in (0, 0, 2)}
    assert len(texts) == 1


def test_a_target_of_somebody_else_is_a_warning(raw_dataset):
    folder = raw_dataset(cases=5)
    noise = np.random.default_rng(0).normal(size=SHAPE) ** 2
    save_volume(folder / "targetsTr" / "case_3_0000.nii.gz", noise)
    (warning,) = extracted(folder)[1]
    assert warning.case == "case_3"
    assert "mutual information" in warning.what
    assert extracted(folder, verify=False)[1] == []


def test_the_moments_of_a_source_are_those_of_the_box_around_the_body(raw_dataset):
    folder = raw_dataset(cases=2)
    for path in (file for side in ("imagesTr", "targetsTr") for file in (folder / side).iterdir()):
        save_volume(path, np.pad(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 20))
    for case in extracted(folder)[0].cases:
        volume = read([folder / "imagesTr" / f"{case.name}_0000.nii.gz"])
        inside = volume.array[0][body(volume, [PET], CROP_MARGIN_MM).slices]
        assert inside.size < volume.array.size / 2
        assert case.moments == (pytest.approx((inside.mean(), inside.std()), rel=1e-4),)


def test_the_open_part_of_noise_that_was_added_to_the_target(raw_dataset):
    """The target is a clean phantom with white noise of a tenth, and the source the clean phantom."""
    folder = raw_dataset(cases=6, noise=0.0)
    for case in range(6):
        body = make_phantom(100 + case)
        noise = 0.1 * np.random.default_rng(case).standard_normal(SHAPE)
        save_volume(folder / "targetsTr" / f"case_{case}_0000.nii.gz", body + noise)
    found, _ = extracted(folder)
    missed = [case.open_rms[0] for case in found.cases]
    assert np.median(missed) == pytest.approx(0.1, rel=0.15)
    assert 0.1 < np.median([case.grain[0] for case in found.cases]) < 0.2  # the phantom is small and has detail itself


def test_the_open_part_needs_two_patients_and_a_source(raw_dataset):
    one = {f"case_{i}": "one" for i in range(3)}
    assert [case.open_rms for case in extracted(raw_dataset(cases=3, groups=one))[0].cases] == [None] * 3
    two = {"case_0": "one", "case_1": "one"}
    cases = extracted(raw_dataset(number=2, cases=3, sources=("PET", "CT"), targets=("PET", "PET"), groups=two))[
        0
    ].cases
    assert [len(case.open_rms) for case in cases] == [2] * 3
    assert [case.open_rms for case in extracted(raw_dataset(number=3, sources=()))[0].cases] == [None] * 3


def test_a_fingerprint_from_before_the_open_part_was_estimated_is_read(raw_dataset):
    found, _ = extracted(raw_dataset(cases=2))
    stored = encode(found)
    for case in stored["cases"]:
        assert case.pop("open_rms")
        assert case.pop("grain")
        assert case.pop("moments")
    read = decode(Fingerprint, stored)
    assert [(case.open_rms, case.grain, case.moments) for case in read.cases] == [(None, None, None)] * 2
    assert decode(Fingerprint, encode(found)) == found


def test_generation_has_no_links(raw_dataset):
    found, _ = extracted(raw_dataset(cases=2, sources=()))
    assert found.task == "generation"
    assert found.cases[0].links == ()
    assert found.pooled_source == ()
    assert found.cases[0].moments is None


def test_layout_and_shape_of_a_turned_file(raw_dataset):
    """The shape is canonical (S, P, L), the layout the file's own."""
    folder = raw_dataset(cases=2)
    for side in ("imagesTr", "targetsTr"):
        path = str(folder / side / "case_0_0000.nii.gz")
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(path), "SAR"), path)
    found, _ = extracted(folder)
    assert [case.shape for case in found.cases] == [SHAPE, SHAPE]
    assert [case.layout for case in found.cases] == ["SAR", "LPS"]


def test_all_that_is_wrong_comes_in_one_report(raw_dataset):
    folder = raw_dataset(cases=4, ending=".mha")
    (folder / "imagesTr" / "case_0_0000.mha").write_bytes(b"garbage")
    array = make_phantom(101)
    array[0, 0, 0] = np.nan
    save_volume(folder / "targetsTr" / "case_1_0000.mha", array)
    (folder / "imagesTr" / "case_2_0000.mha").unlink()
    with pytest.raises(NndiffError) as raised:
        extracted(folder)
    text = str(raised.value)
    assert "3 errors and 0 warnings in Dataset001_Tiny" in text
    for words in ("Case case_0", "Case case_1", "NaN", "Case case_2", "no file in imagesTr"):
        assert words in text
    assert "same command again" in text


def test_one_error_is_spoken_of_in_the_singular(raw_dataset):
    folder = raw_dataset(cases=2)
    (folder / "imagesTr" / "case_0_0000.nii.gz").write_bytes(b"garbage")
    with pytest.raises(NndiffError, match="1 error and 0 warnings"):
        extracted(folder)


def bodies(folder, **changes):
    """case_0 with a body that fills the volume in every image; `changes`: folder → a function of its array."""
    for side in ("imagesTr", "targetsTr"):
        for path in sorted((folder / side).glob("case_0*")):
            array = 1 + np.random.default_rng(0).random(SHAPE).astype(np.float32)
            save_volume(path, changes.get(path.name.partition(".")[0][-4:] + side[0], lambda a: a)(array))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("planes", [1, 3])
def test_border_planes_that_only_one_image_lacks_are_a_warning(raw_dataset, axis, planes):
    def filled(array):
        np.moveaxis(array, axis, 0)[-planes:] = -7.0
        return array

    folder = raw_dataset(cases=1, sources=("PET", "PET"), targets=("PET",))
    bodies(folder)
    assert extracted(folder)[1] == []
    bodies(folder, **{"0001i": filled})
    (warning,) = extracted(folder)[1]
    assert (warning.case, warning.severity) == ("case_0", "warning")
    assert f"the last {planes} along {'zyx'[axis]}" in warning.what
    assert warning.what.startswith("source PET")
    assert extracted(folder, verify=False)[1] == []


def test_a_plane_that_is_filled_in_every_image_or_where_there_is_no_body_is_no_finding(raw_dataset):
    def filled(array):
        array[:, 0] = 0.0
        return array

    folder = raw_dataset(cases=1, sources=("PET", "PET"), targets=("PET",))
    bodies(folder, **{"0000i": filled, "0001i": filled, "0000t": filled})
    assert extracted(folder)[1] == []

    def air(array):
        array[:, :3] *= 1e-3
        return array

    bodies(folder, **{"0000i": lambda array: filled(air(array)), "0001i": air, "0000t": air})
    assert extracted(folder)[1] == []


def test_warnings_come_back_with_the_fingerprint(raw_dataset):
    found, warnings = extracted(raw_dataset(cases=2, numTraining=7))
    assert len(found.cases) == 2
    assert "numTraining is 7" in str(warnings[0])


def test_a_double_across_patients_stops_unless_told_otherwise(raw_dataset):
    folder = raw_dataset(cases=2)
    for side in ("imagesTr", "targetsTr"):
        (folder / side / "case_1_0000.nii.gz").write_bytes((folder / side / "case_0_0000.nii.gz").read_bytes())
    with pytest.raises(NndiffError, match="voxel for voxel"):
        extracted(folder)
    assert len(extracted(folder, verify=False)[0].cases) == 2


def test_unverified_is_still_structurally_sound(raw_dataset):
    folder = raw_dataset(cases=2)
    (folder / "imagesTr" / "case_1_0000.nii.gz").unlink()
    with pytest.raises(NndiffError, match="no file in imagesTr"):
        extracted(folder, verify=False)


def test_unverified_an_empty_scan_passes_but_nan_does_not(raw_dataset):
    folder = raw_dataset(cases=3, ending=".mha")
    path = folder / "imagesTr" / "case_1_0000.mha"
    save_volume(path, np.zeros(SHAPE))
    found, _ = extracted(folder, verify=False)
    json.loads(dumps(encode(found)))
    save_volume(path, np.full(SHAPE, np.nan))
    with pytest.raises(NndiffError, match="NaN") as raised:
        extracted(folder, verify=False)
    assert "--no-verify_dataset_integrity" not in str(raised.value)  # it is on already


def test_no_case_at_all(raw_dataset):
    with pytest.raises(NndiffError, match="no complete case"):
        extracted(raw_dataset(cases=0))
