"""Laws of a prediction's geometry: every output lies on the grid of its source, in the target's units."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

import nndiff
from nndiff.prediction import draws
from nndiff.sampling import translate
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json
from tests.conftest import make_phantom
from tests.prediction.trained import copying_model, model_folder

TRAINED = (2.0, 2.0, 2.0)


def oblique(degrees=20.0):
    """A rotation about an axis that is none of the patient's, row by row."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross).ravel().tolist()


def turned(letters):
    """The directions of a file whose axes run to `letters`."""
    columns = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    return np.array([columns[letter] for letter in letters], dtype=float).T.ravel().tolist()


DIRECTIONS = {"upright": turned("LPS"), "RAS": turned("RAS"), "SAR": turned("SAR"), "PIL": turned("PIL")}
DIRECTIONS |= {"oblique": oblique(), "oblique and turned": oblique(200.0)}


def save_scan(path, array, direction=DIRECTIONS["upright"], spacing=TRAINED):
    """With SimpleITK alone; `spacing` is x, y, z of the file's own axes."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-31.7, 12.503, 98.1001))
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return sitk.ReadImage(str(path))


def translated(tmp_path, model, name, **options):
    nndiff.predict(tmp_path / "in", tmp_path / "out", model, quiet=True, device="cpu", **options)
    return sitk.ReadImage(str(tmp_path / "out" / name))


def geometry(image):
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("spacing", [TRAINED, (3.1, 2.3, 1.7)], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_mha_output_has_its_sources_grid_to_the_last_bit(tmp_path, direction, spacing):
    model = model_folder(tmp_path)
    source = save_scan(tmp_path / "in" / "a_0000.mha", make_phantom(1), DIRECTIONS[direction], spacing)
    output = translated(tmp_path, model, "a_0000.mha")
    assert geometry(output) == geometry(source)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_nifti_output_has_its_sources_grid_within_its_headers_float32(tmp_path, direction):
    model = model_folder(tmp_path)
    source = save_scan(tmp_path / "in" / "a_0000.nii.gz", make_phantom(1), DIRECTIONS[direction], (3.1, 2.3, 1.7))
    output = translated(tmp_path, model, "a_0000.nii.gz")
    for own, other, tolerance in zip(geometry(output), geometry(source), (0, 1e-4, 1e-4, 1e-6), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_an_output_has_its_sources_file_ending_not_the_trainings(tmp_path, ending):
    model = model_folder(tmp_path, ending=".nii.gz")
    save_scan(tmp_path / "in" / f"a_0000{ending}", make_phantom(1))
    translated(tmp_path, model, f"a_0000{ending}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"a_0000{ending}", "predict.json"}


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("direction", ["RAS", "PIL", "oblique and turned"])
@pytest.mark.parametrize("spacing", [TRAINED, (2.5, 3.5, 3.0)], ids=["as trained", "coarser"])
def test_a_model_that_copies_its_source_gives_it_back_in_its_own_units(tmp_path, direction, spacing, crop):
    """Coarse → fine → coarse is the identity, so nothing but rounding is lost; 5000 is a scale never seen."""
    model = copying_model(tmp_path, crop)
    array = 5000 * make_phantom(1, (20, 24, 22), noise=0.3)
    array[make_phantom(1, (20, 24, 22)) < 0.05] = 0  # what a crop may lay aside
    source = save_scan(tmp_path / "in" / "a_0000.mha", array, DIRECTIONS[direction], spacing)
    output = translated(tmp_path, model, "a_0000.mha")
    assert output.GetPixelID() == sitk.sitkFloat32
    expected = sitk.GetArrayFromImage(source)
    np.testing.assert_allclose(sitk.GetArrayFromImage(output), expected, rtol=0, atol=1e-5 * expected.max())


def test_of_a_finer_source_only_what_the_trained_spacing_cannot_hold_is_lost(tmp_path):
    model = copying_model(tmp_path)
    array = make_phantom(1, (28, 32, 36))
    save_scan(tmp_path / "in" / "a_0000.mha", array, DIRECTIONS["SAR"], (1.1, 1.0, 1.2))
    output = sitk.GetArrayFromImage(translated(tmp_path, model, "a_0000.mha"))
    error = output - array
    assert 0 < np.sqrt(np.mean(error**2)) < 0.005 * array.max()
    assert abs(error.mean()) < 1e-3 * array.max()


def test_ct_comes_as_whole_hounsfield_units(tmp_path):
    model = copying_model(tmp_path, sources=("CT",), targets=("CT",))
    array = make_phantom(1, kind="ct", noise=0.3)
    save_scan(tmp_path / "in" / "a_0000.nii.gz", array, DIRECTIONS["RAS"])
    output = translated(tmp_path, model, "a_0000.nii.gz")
    assert output.GetPixelID() == sitk.sitkInt16
    assert np.abs(sitk.GetArrayFromImage(output) - array).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("kind", "floor", "lowest"), [("ct", -1024.0, -1.0), ("pet", 0.0, 0.0)])
def test_splines_do_not_carry_a_volume_below_what_is_physical(tmp_path, kind, floor, lowest):
    """A body's edge overshoots where it is brought to another grid and back; above, nothing is cut."""
    model = copying_model(tmp_path, sources=(kind.upper(),), targets=(kind.upper(),), lowest=lowest)
    array = np.full((20, 24, 22), floor, np.float32)
    array[6:14, 7:17, 6:16] = floor + 1000
    save_scan(tmp_path / "in" / "a_0000.nii.gz", array, spacing=(1.1, 1.0, 1.2))
    found = sitk.GetArrayFromImage(translated(tmp_path, model, "a_0000.nii.gz", save_samples=True))
    (sample,) = (tmp_path / "out" / "samples").glob("a_*")
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(sample))).min() == pytest.approx(floor, abs=1e-3)
    assert found.min() == pytest.approx(floor, abs=1e-3)
    assert found.max() > floor + 1010


def test_an_estimate_is_as_low_as_training_targets_were(tmp_path):
    """Some scanners store less than -1024 HU outside of what they see."""
    model = copying_model(tmp_path, sources=("CT",), targets=("CT",), lowest=-2.0)
    array = make_phantom(1, kind="ct")
    array[:2] = -3000
    save_scan(tmp_path / "in" / "a_0000.nii.gz", array)
    assert sitk.GetArrayFromImage(translated(tmp_path, model, "a_0000.nii.gz")).min() == -3000


def test_each_target_channel_is_a_file_in_its_anchors_units(tmp_path):
    model = copying_model(tmp_path, sources=("CT", "PET"), targets=("PET", "CT"))
    ct, pet = 1.5 * make_phantom(1, kind="ct"), 3 * make_phantom(1)
    save_scan(tmp_path / "in" / "a_0000.nii.gz", ct)
    save_scan(tmp_path / "in" / "a_0001.nii.gz", pet)
    first, second = translated(tmp_path, model, "a_0000.nii.gz"), sitk.ReadImage(str(tmp_path / "out/a_0001.nii.gz"))
    assert (first.GetPixelID(), second.GetPixelID()) == (sitk.sitkFloat32, sitk.sitkInt16)
    np.testing.assert_allclose(sitk.GetArrayFromImage(first), pet, atol=1e-4)
    np.testing.assert_allclose(sitk.GetArrayFromImage(second), ct, atol=0.51)


def test_outside_the_crop_is_the_targets_background(tmp_path):
    model = copying_model(tmp_path, crop=True)
    array = np.zeros((40, 40, 40), np.float32)
    array[16:24, 14:24, 12:26] = 1 + make_phantom(1, (8, 10, 14))
    array[2, 2, 2] = 1  # a speck that is no body
    save_scan(tmp_path / "in" / "a_0000.mha", array)
    output = sitk.GetArrayFromImage(translated(tmp_path, model, "a_0000.mha"))
    assert output[2, 2, 2] == 0
    np.testing.assert_allclose(output[16:24, 14:24, 12:26], array[16:24, 14:24, 12:26], atol=1e-5)


@pytest.mark.parametrize("step_size", [None, 0.5, 1.0])
def test_a_volume_in_tiles_comes_back_as_whole(tmp_path, monkeypatch, step_size):
    """With next to no free memory the tiles are small; a network that answers with its source still copies it."""
    monkeypatch.setattr(draws, "free_memory", lambda _: 10**6)
    monkeypatch.setattr(translate, "averaged", lambda networks, precision: lambda x_t, t, condition, where: condition)
    model = copying_model(tmp_path, prediction="x0")
    array = make_phantom(1, (18, 20, 40), noise=0.3)
    save_scan(tmp_path / "in" / "a_0000.mha", array)
    output = translated(tmp_path, model, "a_0000.mha", step_size=step_size)
    record = read_json(tmp_path / "out" / "predict.json")["cases"]["a"]
    assert record["tiles"] > 1
    assert np.prod(record["tile"]) < np.prod(record["shape"])
    np.testing.assert_allclose(sitk.GetArrayFromImage(output), array, atol=1e-5)


def test_the_smaller_the_step_the_more_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(draws, "free_memory", lambda _: 10**6)
    model = copying_model(tmp_path)
    save_scan(tmp_path / "in" / "a_0000.mha", make_phantom(1, (18, 20, 60)))
    tiles = []
    for step_size in (1.0, 0.5, 0.25):
        translated(tmp_path, model, "a_0000.mha", step_size=step_size)
        tiles.append(read_json(tmp_path / "out" / "predict.json")["cases"]["a"]["tiles"])
    assert tiles[0] < tiles[1] < tiles[2]


def test_a_single_scan_is_translated_as_in_its_folder_but_not_over_itself(tmp_path):
    model = copying_model(tmp_path)
    save_scan(tmp_path / "in" / "a_0000.mha", make_phantom(1, noise=0.3))
    whole = sitk.GetArrayFromImage(translated(tmp_path, model, "a_0000.mha"))
    scan, out = tmp_path / "in" / "a_0000.mha", tmp_path / "alone"
    nndiff.predict(scan, out, model, quiet=True, device="cpu")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / "a_0000.mha"))), whole)
    with pytest.raises(NndiffError, match="would replace the scans"):
        nndiff.predict(scan, scan.parent, model, quiet=True, device="cpu")
