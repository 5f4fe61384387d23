"""Tests of the integrity check: each problem of a file is created and found, and correct files pass."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from nndiff.data.integrity import Content, across_cases, examine, other_units, strangers, tells
from nndiff.words import dataset
from nndiff.words.volume import POSITION_TOLERANCE, Grid, Volume
from tests.conftest import ORIGIN, SPACING, make_phantom, save_volume

GRID = Grid((20, 24, 28), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))


@pytest.fixture
def spoilt(raw_dataset):
    """spoilt(sources=…, spoil=…) → the findings of case_0 after `spoil(folder)` has done its worst."""

    def make(spoil=lambda folder: None, verify=True, **words):
        folder = raw_dataset(cases=1, **words)
        spoil(folder)
        read = dataset.read(folder)
        examined = examine(read.cases[0], read, verify)
        assert examined.sound == all(finding.severity != "error" for finding in examined.findings)
        if examined.sound:
            assert examined.target.channels == len(read.target_names)
        else:
            assert (examined.source, examined.target, examined.mask, examined.content) == (None, None, None, None)
        return examined.findings

    return make


def replaced(change, side="imagesTr", channel=0, dtype=np.float32, ending=".nii.gz"):
    """A spoil: one file's voxels through `change`."""

    def spoil(folder):
        path = folder / side / f"case_0_{channel:04d}{ending}"
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        save_volume(path, change(array), dtype=dtype)

    return spoil


def with_voxel(value):
    def change(array):
        array[3, 4, 5] = value
        return array

    return change


def test_a_sound_case_has_no_finding(spoilt):
    assert spoilt(sources=("PET", "CT"), targets=("PET",), masks=True) == ()


ENDINGS = [".mha", ".nrrd", ".nii.gz", ".nii"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["imagesTr", "targetsTr"])
@pytest.mark.parametrize("verify", [True, False])
def test_voxels_that_are_no_numbers(spoilt, value, side, verify, ending):
    """Even unverified: no statistic, and no plan, can be made of them."""
    (finding,) = spoilt(replaced(with_voxel(value), side, ending=ending), verify, ending=ending)
    assert finding.severity == "error"
    assert finding.case == "case_0"
    assert finding.file.endswith(f"{side}/case_0_0000{ending}")
    assert "1 of 4032 voxels are NaN or infinite" in finding.what
    assert "-20.0, 20.5, 106.0 mm" in finding.what


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_scan(spoilt, value):
    (finding,) = spoilt(replaced(lambda array: np.full_like(array, value)))
    assert finding.severity == "error"
    assert f"all voxels have the value {value:g}" in finding.what
    assert spoilt(replaced(lambda array: np.full_like(array, value)), verify=False) == ()


def moved(**change):
    def spoil(folder):
        path = folder / "targetsTr" / "case_0_0000.nii.gz"
        save_volume(path, make_phantom(100), **change)

    return spoil


NEAR = tuple(value + 0.9 * POSITION_TOLERANCE * min(SPACING) for value in (ORIGIN[0],)) + ORIGIN[1:]
FAR = tuple(value + 1.5 * POSITION_TOLERANCE * min(SPACING) for value in (ORIGIN[0],)) + ORIGIN[1:]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"origin": FAR}, "origin"),
        ({"spacing": (2.0, 2.0, 2.1)}, "spacing"),
        ({"spacing": (2.0019, 2.0, 2.0)}, "spacing"),
    ],
)
def test_a_target_on_another_grid(spoilt, change, word, verify):
    (finding,) = spoilt(moved(**change), verify)
    assert finding.severity == "error"
    assert finding.file.endswith("targetsTr/case_0_0000.nii.gz")
    assert "the voxel grid differs" in finding.what
    assert word in finding.what


def test_a_target_within_the_tolerance(spoilt):
    assert spoilt(moved(origin=NEAR)) == ()


def test_another_shape(spoilt):
    (finding,) = spoilt(replaced(lambda array: array[1:], "targetsTr"))
    assert "shape (13, 16, 18) instead of (14, 16, 18)" in finding.what


def test_a_mask_on_another_grid(spoilt):
    def spoil(folder):
        save_volume(folder / "masksTr" / "case_0.nii.gz", make_phantom(0)[1:] > 0.5, dtype=np.uint8)

    (finding,) = spoilt(spoil, masks=True)
    assert finding.file.endswith("masksTr/case_0.nii.gz")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("keep", [0, 100, -20])
def test_a_file_cut_short(spoilt, keep, verify):
    def spoil(folder):
        path = folder / "imagesTr" / "case_0_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:keep])

    (finding,) = spoilt(spoil, verify)
    assert finding.severity == "error"
    assert "case_0_0000.nii.gz" in finding.what
    assert finding.remedy


def test_every_file_of_a_case_is_reported(spoilt):
    def spoil(folder):
        replaced(lambda array: 0 * array)(folder)
        (folder / "targetsTr" / "case_0_0000.nii.gz").write_bytes(b"garbage")

    assert len(spoilt(spoil)) == 2


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(("dtype", "value"), [(np.int16, 32767), (np.int16, -32768), (np.uint16, 65535)])
def test_integers_at_their_limit(spoilt, dtype, value):
    (finding,) = spoilt(replaced(lambda array: with_voxel(value)(100 * array), dtype=dtype))
    assert finding.severity == "warning"
    assert "1 of 4032 voxels are at the limit" in finding.what


@pytest.mark.parametrize(("dtype", "value"), [(np.int16, 32766), (np.uint16, 0), (np.uint8, 255), (np.float32, 32767)])
def test_values_that_only_look_like_a_limit(spoilt, dtype, value):
    assert spoilt(replaced(lambda array: with_voxel(value)(10 * array), dtype=dtype)) == ()


def test_negative_numbers_that_wrapped_around(spoilt):
    def wrap(array):
        return np.where(array < 0.5, 65400, 1000 * array)

    findings = spoilt(replaced(wrap, dtype=np.uint16))
    assert [finding.severity for finding in findings] == ["error"]
    assert "wrapped around" in findings[0].what


def test_integers_too_large_for_float32(spoilt):
    (finding,) = spoilt(replaced(lambda array: with_voxel(2**25)(100 * array), dtype=np.int32))
    assert "float32 cannot hold integers" in finding.what


def test_a_ct_without_air(spoilt):
    (finding,) = spoilt(replaced(lambda array: array + 1024, channel=1), sources=("PET", "CT"))
    assert finding.severity == "warning"
    assert "Hounsfield" in finding.what
    assert finding.file.endswith("case_0_0001.nii.gz")


def test_only_a_ct_must_have_air(spoilt):
    assert spoilt(replaced(lambda array: array + 1024), sources=("T1",)) == ()


# ---------------------------------------------------------------- masks and roles


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        (lambda mask: 0 * mask, "error", "empty"),
        (lambda mask: mask * np.nan, "error", "NaN or infinite"),
        (lambda mask: mask + (make_phantom(100) > 2), "warning", "more than two values"),
    ],
    ids=["empty", "nan", "labels"],
)
def test_masks(spoilt, change, severity, words):
    def spoil(folder):
        path = folder / "masksTr" / "case_0.nii.gz"
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
        save_volume(path, change(mask))

    (finding,) = spoilt(spoil, masks=True)
    assert (finding.severity, finding.file[-14:]) == (severity, "/case_0.nii.gz")
    assert words in finding.what


@pytest.mark.parametrize("masks", [False, True])
def test_one_file_as_source_and_target(raw_dataset, masks):
    folder = raw_dataset(cases=1, in_place=True, masks=masks)
    (folder / "elsewhere/case_0_targets_0000.nii.gz").unlink()
    (folder / "elsewhere/case_0_targets_0000.nii.gz").symlink_to(folder / "elsewhere/case_0_images_0000.nii.gz")
    read = dataset.read(folder)
    (finding,) = examine(read.cases[0], read).findings
    assert "the same file is listed for two channels" in finding.what
    assert finding.severity == "error"


def test_a_compressed_file_named_nii_is_told(spoilt):
    def spoil(folder):
        path = folder / "imagesTr" / "case_0_0000.nii.gz"
        path.write_bytes(gzip.decompress(path.read_bytes()))

    for finding in spoilt(spoil):  # readable or not, it must be said in words
        assert "case_0_0000.nii.gz" in finding.what + finding.file


# ---------------------------------------------------------------- across cases


def contents(folder):
    read = dataset.read(folder)
    return {case.name: examine(case, read).content for case in read.cases}


@pytest.mark.parametrize(("groups", "severity"), [({}, "error"), ({"case_0": "p", "case_1": "p"}, "warning")])
def test_the_same_voxels_twice(raw_dataset, groups, severity):
    folder = raw_dataset(cases=3, groups=groups)
    for side in ("imagesTr", "targetsTr"):
        twin = (folder / side / "case_0_0000.nii.gz").read_bytes()
        (folder / side / "case_1_0000.nii.gz").write_bytes(twin)
    read = dataset.read(folder)
    (finding,) = across_cases(contents(folder), {case.name: case.group for case in read.cases})
    assert (finding.case, finding.severity) == ("case_1", severity)
    assert "case_0" in finding.what


def test_a_mask_does_not_hide_a_double(raw_dataset):
    folder = raw_dataset(cases=2)
    for side in ("imagesTr", "targetsTr"):
        (folder / side / "case_1_0000.nii.gz").write_bytes((folder / side / "case_0_0000.nii.gz").read_bytes())
    save_volume(folder / "masksTr" / "case_1.nii.gz", make_phantom(100) > 0.5, dtype=np.uint8)
    found = contents(folder)
    assert found["case_0"] == found["case_1"]


def test_three_times_the_same_is_said_of_two():
    same, other = Content("s", "x"), Content("s", "y")
    findings = across_cases({"a": same, "b": same, "c": same, "d": other}, dict.fromkeys("abcd", "p"))
    assert [finding.case for finding in findings] == ["b", "c"]


def test_two_doses_of_one_scan_leak_between_patients_but_not_within_one():
    doses = {"a": Content("tenth", "full"), "b": Content("half", "full")}
    (finding,) = across_cases(doses, {"a": "p", "b": "q"})
    assert (finding.case, finding.severity) == ("b", "error")
    assert "target" in finding.what
    assert across_cases(doses, {"a": "p", "b": "p"}) == []


def test_other_units_among_the_cases():
    bright = {f"case_{i}": [8.0 + i, 1000.0] for i in range(4)} | {"odd": [8000.0, 1000.0]}
    (finding,) = other_units(bright, ["PET", "CT"])
    assert (finding.case, finding.severity) == ("odd", "warning")
    assert "PET" in finding.what
    assert other_units({"a": [1.0], "b": [1000.0]}, ["PET"]) == []  # of two, none is the odd one
    assert other_units({}, ["PET"]) == []


def test_a_pair_that_tells_far_less_than_the_others_is_doubted():
    """As when two patients' targets were swapped."""
    shapes = [make_phantom(seed, (20, 24, 28), "mr", noise=0.05) for seed in range(5)]
    pairs = [Volume(np.stack([array]).astype(np.float32), GRID) for array in shapes]
    other = [Volume(np.stack([np.exp(-array / 40), array]).astype(np.float32), GRID) for array in shapes]
    noise = Volume(np.random.default_rng(0).normal(size=other[0].array.shape).astype(np.float32), GRID)
    shares = {f"case_{i}": tells(*pair) for i, pair in enumerate(zip(pairs, [*other[:4], noise], strict=True))}
    found = strangers(shares, ["MR and T1", "MR and T2"])
    assert [(finding.case, finding.severity) for finding in found] == [("case_4", "warning")] * 2
    assert "MR and T2" in found[1].what
    assert "same patient" in found[0].remedy
    assert strangers({case: shares[case] for case in list(shares)[:4]}, ["MR and T1", "MR and T2"]) == []
    assert strangers({"a": [0.5], "b": [0.5], "c": [0.0]}, ["MR and T1"]) == [], "of three, who is the odd one?"
    assert tells(None, pairs[0]) == []


def test_pairs_that_are_all_of_strangers_are_doubted_if_they_are_of_one_kind():
    shares = {f"case_{i}": [0.02 + i / 1000] for i in range(4)}
    (finding,) = strangers(shares, ["PET and PET"])
    assert (finding.case, finding.severity) == ("", "warning")
    assert "in all cases" in finding.what
    assert strangers(shares, ["MR and CT"]) == []
    assert strangers({case: [row[0] + 0.1] for case, row in shares.items()}, ["PET and PET"]) == []


def test_what_a_pair_tells_does_not_depend_on_grey_values_or_rows():
    array = make_phantom(0, (64, 64, 64), "mr", noise=0.05)
    grid = Grid((64, 64, 64), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    source = Volume(array[None].astype(np.float32), grid)
    (bright,), (dark,) = (tells(source, Volume(scale * source.array, grid)) for scale in (1000, -1))
    assert bright == pytest.approx(1)
    assert dark == pytest.approx(1, abs=0.05)
