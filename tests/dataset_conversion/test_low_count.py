"""Tests of the conversion of PET and CT to low-count, uncorrected and full-count PET, on small simulated patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion import autopet, low_count
from dataset_conversion.base import Role, gather
from dataset_conversion.low_count import Patient, patients_of
from dataset_conversion.making import records_of
from dataset_conversion.pet_simulation import Protocol, attenuation, covered, scanner_for, simulate, surviving_ml
from dataset_conversion.sarcoma_petct import CT, PET, main
from nndiff.data.integrity import examine
from nndiff.demo.scanner import Scanner, Subset, ceiling
from nndiff.imaging import io
from nndiff.imaging.register import laid
from nndiff.metrics.image import psnr
from nndiff.words import dataset
from nndiff.words.files import read_json
from nndiff.words.volume import Box, Grid, Volume

DATASETS = ("Dataset910_SarcomaPET", "Dataset911_SarcomaNAC")
SHAPE = (7, 20, 16)
GRID = Grid(SHAPE, (3.27, 5.47, 5.47), (-40.0, 25.0, 310.0))


def made_patient(seed: int = 0) -> Volume:
    """[PET in SUV, CT in HU]: an elliptic limb with a bone in it and a hot tumour."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    limb = (y / 0.85) ** 2 + (x / 0.8) ** 2 < 1
    bone = y**2 + (x - 0.1) ** 2 < 0.03
    cy, cx = np.random.default_rng(seed).uniform(-0.35, 0.35, 2)
    tumour = (y - cy) ** 2 + (x - cx) ** 2 + (z / 2) ** 2 < 0.06
    suv = limb * 0.7 + tumour * 6.0
    hu = np.where(bone, 900.0, np.where(limb, 40.0, -1000.0))
    return Volume(np.stack([suv, hu]).astype(np.float32), GRID)


def parts(patient: Volume) -> tuple[Volume, Volume]:
    return Volume(patient.array[:1], patient.grid), Volume(patient.array[1:], patient.grid)


def everybody(folder: Path, held_out: int) -> list[Patient]:
    roles = [Role("images", "PET", f"{folder}/{{case}}{PET}"), Role("images", "CT", f"{folder}/{{case}}{CT}")]
    return patients_of(gather(roles), roles, held_out, 0, (), Protocol())


def save(folder: Path, name: str, patient: Volume) -> None:
    for array, ending in zip(patient.array, (PET, CT), strict=True):
        io.write(Volume(array[None], patient.grid), folder / f"{name}{ending}")


@pytest.fixture
def patients(tmp_path) -> Path:
    for index in range(3):
        save(tmp_path / "in", f"STS_{index:03d}", made_patient(index))
    return tmp_path / "in"


def converted(patients: Path, raw: Path, *flags: object) -> list[Path]:
    words = ["-i", patients, "--raw", raw, "--held_out", 1, "-np", 0, *flags]
    assert main([str(word) for word in words]) == 0
    return [raw / name for name in DATASETS]


def voxels(folder: Path, side: str, case: str) -> np.ndarray:
    return io.read([folder / side / f"{case}_0000.nii.gz"]).array[0]


@pytest.mark.parametrize(
    ("hu", "per_mm"), [(-1000, 0.0), (-1024, 0.0), (-500, 0.0048), (0, 0.0096), (1000, 0.01491), (1500, 0.01746)]
)
def test_attenuation_at_511_kev(hu, per_mm) -> None:
    assert attenuation(np.array([hu], dtype=np.float32))[0] == pytest.approx(per_mm, abs=1e-7)


def test_attenuation_has_no_step_where_its_two_lines_meet() -> None:
    hu = np.arange(-1000, 2000, dtype=np.float32)
    steps = np.diff(attenuation(hu))
    assert (steps > 0).all()
    assert steps.max() < 0.0000102  # that of soft tissue and a rest of the rounding in the two published lines


def test_counts_follow_activity_and_volume() -> None:
    """A litre at SUV 2 with nothing around it: SUV · mL."""
    grid = Grid((10, 20, 20), (5.0, 10.0, 10.0), (0.0, 0.0, 0.0))
    activity = np.zeros(grid.shape, dtype=np.float32)
    activity[:, 5:15, 5:15] = 2.0  # 50 x 100 x 100 mm
    scanner, nothing = Scanner(20, 10.0), np.zeros_like(activity)
    assert surviving_ml(scanner, activity, nothing, grid) == pytest.approx(1000, rel=1e-6)
    behind_water = surviving_ml(scanner, activity, np.full_like(activity, 0.0096), grid)
    assert np.exp(-0.0096 * 200 * 1.42) < behind_water / 1000 < np.exp(-0.0096 * 200 * 0.9)


def test_low_counts_are_noisier_than_full_by_the_dose() -> None:
    exam = simulate(*parts(made_patient()), Protocol(counts=5000), np.random.default_rng(0))
    low, full = (np.var(image - exam.noiseless) for image in (exam.low, exam.full))
    assert low / full == pytest.approx(10, rel=0.25)
    assert ceiling(exam.noiseless, exam.full) > ceiling(exam.low, exam.full) + 6


def test_corrected_the_level_is_right_and_uncorrected_the_middle_is_dark() -> None:
    patient = made_patient()
    exam = simulate(*parts(patient), Protocol(counts=1e5), np.random.default_rng(0))
    assert exam.full.shape == SHAPE
    assert exam.full.sum() == pytest.approx(patient.array[0].sum(), rel=0.02)
    middle, rim = (slice(None), slice(8, 12), slice(6, 10)), (slice(None), slice(2, 4), slice(6, 10))
    dark, bright = (exam.uncorrected[at].mean() / exam.low[at].mean() for at in (middle, rim))
    assert dark < 0.7
    assert bright > 1.2 * dark


def test_both_datasets_are_read_and_found_sound(patients, tmp_path) -> None:
    for folder in converted(patients, tmp_path / "raw"):
        read = dataset.read(folder)
        assert read.findings == ()
        assert [case.name for case in read.cases] == ["STS_000", "STS_001"]
        assert all(examine(case, read).findings == () for case in read.cases)
        assert [path.name for path in (folder / "imagesTs").iterdir()] == ["STS_002_0000.nii.gz"]
        assert [path.name for path in (folder / "targetsTs").iterdir()] == ["STS_002_0000.nii.gz"]
        assert list(read_json(folder / "ceiling.json")) == ["STS_002"]
    records = dict(records_of("simulation", tmp_path / "raw" / DATASETS[0]))
    assert list(records) == ["STS_000", "STS_001", "STS_002"]


def test_what_is_written_is_low_then_uncorrected_then_full(patients, tmp_path) -> None:
    first, *_ = everybody(patients, 1)
    exam = simulate(*parts(io.read([first.files[0], patients / f"STS_000{CT}"])), Protocol(), first.generator)
    for folder, source in zip(converted(patients, tmp_path / "raw"), (exam.low, exam.uncorrected), strict=True):
        np.testing.assert_array_equal(voxels(folder, "imagesTr", "STS_000"), source)
        np.testing.assert_array_equal(voxels(folder, "targetsTr", "STS_000"), exam.full)


def test_a_case_depends_on_the_seed_and_its_name_alone(patients, tmp_path) -> None:
    first, again, other = (converted(patients, tmp_path / str(i), "--seed", int(i == 2))[0] for i in range(3))
    (patients / f"STS_000{PET}").unlink()
    alone = converted(patients, tmp_path / "alone")[0]
    for side in ("imagesTr", "targetsTr"):
        one = voxels(first, side, "STS_001")
        np.testing.assert_array_equal(one, voxels(again, side, "STS_001"))
        np.testing.assert_array_equal(one, voxels(alone, side, "STS_001"))
        assert not np.array_equal(one, voxels(other, side, "STS_001"))


def test_two_patients_do_not_share_their_noise(patients) -> None:
    one, two, _ = everybody(patients, 0)
    assert one.generator.random() != two.generator.random()


def test_the_grid_of_the_pet_is_kept_whatever_its_orientation(patients, tmp_path) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    for path in patients.iterdir():
        image = sitk.Flip(sitk.PermuteAxes(sitk.ReadImage(str(path)), [2, 0, 1]), [True, False, True])
        sitk.WriteImage(image, str(turned / path.name))
    straight, folder = (converted(source, tmp_path / source.name)[0] for source in (patients, turned))
    for side in ("imagesTr", "targetsTr"):
        path = folder / side / "STS_000_0000.nii.gz"
        image, pet = (sitk.ReadImage(str(p)) for p in (path, turned / f"STS_000{PET}"))
        assert image.GetSize() == pet.GetSize() != SHAPE[::-1]
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(image, get)(), getattr(pet, get)(), atol=1e-4)
        np.testing.assert_array_equal(io.read([path]).array[0], voxels(straight, side, "STS_000"))


def test_what_cannot_be_converted_is_said(patients, tmp_path, run_cli) -> None:
    (patients / f"STS_001{CT}").unlink()
    outcome = run_cli(main, "-i", patients, "--raw", tmp_path / "raw", "--held_out", 1, "-np", 0)
    assert outcome.code == 0
    assert "left out: STS_001: no CT" in outcome.out
    for flags, words in (
        (("--held_out", 3), "No patient is left to train on"),
        (("--held_out", 1, "--dose", 1.5), "0 < dose < 1"),
        (("--held_out", 1, "--dose", 0.5), "made with other settings"),
    ):
        code, _, err = run_cli(main, "-i", patients, "--raw", tmp_path / "raw", "-np", 0, *flags)
        assert code == 1
        assert words in err
    before = voxels(tmp_path / "raw" / DATASETS[0], "imagesTr", "STS_000")
    flags = ("--held_out", 1, "--dose", 0.5, "--overwrite")
    assert run_cli(main, "-i", patients, "--raw", tmp_path / "raw", "-np", 0, *flags).code == 0
    assert not np.array_equal(before, voxels(tmp_path / "raw" / DATASETS[0], "imagesTr", "STS_000"))


def test_who_is_held_out_no_more_is_gone_from_the_test_folder(patients, tmp_path) -> None:
    first = converted(patients, tmp_path / "raw", "--held_out", 2)[0]
    assert len(list((first / "imagesTs").iterdir())) == 2
    converted(patients, tmp_path / "raw", "--overwrite")
    for folder in (tmp_path / "raw").iterdir():
        assert [path.name for path in (folder / "imagesTs").iterdir()] == ["STS_002_0000.nii.gz"]
        assert len(list((folder / "targetsTr").iterdir())) == 2


@pytest.mark.parametrize(
    ("pet", "ct", "words"),
    [
        (lambda suv: suv * 5000, lambda hu: hu, "not to be in SUV"),
        (lambda suv: suv - 2, lambda hu: hu, "not to be in SUV"),
        (lambda suv: suv * 40, lambda hu: hu, "not to be in SUV"),
        (lambda suv: suv, lambda hu: hu + 1024, "not to be in HU"),
        (lambda suv: suv, lambda hu: hu - 1024, "not to be in HU"),
        (lambda suv: suv, lambda hu: 900 - hu, "not to be in HU"),
        (
            lambda suv: suv,
            lambda hu: np.where(hu > 800, np.nan, hu),
            "STS_009_CT.nii.gz contains NaN or infinite values",
        ),
    ],
)
def test_other_units_are_doubted_and_left_out(patients, tmp_path, run_cli, pet, ct, words) -> None:
    suv, hu = made_patient(9).array
    save(patients, "STS_009", Volume(np.stack([pet(suv), ct(hu)]).astype(np.float32), GRID))
    outcome = run_cli(main, "-i", patients, "--raw", tmp_path / "raw", "--held_out", 1, "-np", 0)
    assert outcome.code == 0
    assert "left out: STS_009" in outcome.out
    assert words in outcome.out
    assert not list((tmp_path / "raw").rglob("STS_009*.nii.gz"))


def test_a_ct_of_its_own_grid_serves_as_well_if_it_reaches(tmp_path, run_cli) -> None:
    """A finer CT, cut elsewhere, gives the images of a CT on the PET's grid; one that is too short is doubted."""
    pet, ct = parts(made_patient())
    fine = Grid((16, 60, 50), (1.6, 2.0, 2.0), (-44.0, 21.0, 308.0))
    other = Volume(laid(ct, fine, -1000.0)[None], fine)
    one, two = (simulate(pet, held, Protocol(counts=1e9), np.random.default_rng(0)) for held in (ct, other))
    assert psnr(two.uncorrected, one.uncorrected, (0, float(one.uncorrected.max()))) > 33
    io.write(pet, tmp_path / "in" / "a" / "pet.nii.gz")
    io.write(pet, tmp_path / "in" / "b" / "pet.nii.gz")
    io.write(other, tmp_path / "in" / "a" / "ct.nii.gz")
    short = Volume(other.array[:, :8], Grid((8, 60, 50), fine.spacing, fine.origin))
    io.write(short, tmp_path / "in" / "b" / "ct.nii.gz")
    flags = ("--pet", tmp_path / "in/{case}/pet.nii.gz", "--ct", tmp_path / "in/{case}/ct.nii.gz", "-np", 0)
    outcome = run_cli(low_count.main, *flags, "--raw", tmp_path / "raw", "--pixel_mm", 0)
    assert outcome.code == 0, outcome.err
    assert "left out: b: the CT covers only" in outcome.out
    assert [case.name for case in dataset.read(tmp_path / "raw" / "Dataset941_ClinicNAC").cases] == ["a"]


def cut_limb() -> Volume:
    """A limb that is cut on all four sides of its slices; the CT has noise."""
    patient, box = made_patient(), Box((0, 3, 3), (7, 17, 13))
    patient.array[1] += np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32)
    return Volume(patient.array[(..., *box.slices)], patient.grid.cropped(box))


def filled(ct: Volume, box: Box) -> Volume:
    """The CT with one fill value outside a box, as a resampled CT that does not reach the border of the PET."""
    array = np.full_like(ct.array, -1000.0)
    array[(..., *box.slices)] = ct.array[(..., *box.slices)]
    return Volume(array, ct.grid)


def test_planes_of_the_pet_that_the_ct_does_not_cover_are_cut_off() -> None:
    """On the PET's grid, filled, and on a grid of its own, which ends earlier."""
    pet, ct = parts(cut_limb())
    shape = pet.grid.shape
    assert covered(pet, ct) == Box((0, 0, 0), shape), "the limb reaches beyond the volume, and so does its CT"
    inner = Box((0, 1, 0), (shape[0], shape[1], shape[2] - 2))
    assert covered(pet, filled(ct, inner)) == inner
    own = ct.grid.moved((0, 1, -0.25), (shape[0], shape[1] - 1, shape[2] - 2))
    assert covered(pet, Volume(laid(ct, own, -1000.0)[None], own)) == inner
    between = ct.array.copy()
    between[..., 5] = -1000.0
    assert covered(pet, Volume(between, ct.grid)) == Box((0, 0, 0), shape), "only planes at the border are cut"


def test_planes_without_activity_stay_whether_or_not_the_ct_covers_them() -> None:
    pet, ct = parts(made_patient())
    assert covered(pet, ct) == Box((0, 0, 0), SHAPE)
    far = filled(ct, Box((0, 4, 0), SHAPE))  # of the four planes that are cut off the CT, two hold activity
    assert covered(pet, far) == Box((0, 4, 0), SHAPE)


def test_a_plane_that_the_ct_does_not_cover_is_in_neither_image_nor_are_two_at_each_cut(tmp_path, run_cli) -> None:
    """The limb is cut on all four sides of the slices; one plane has no CT."""
    pet, ct = parts(cut_limb())
    ct = filled(ct, Box((0, 0, 1), (7, 14, 10)))
    save(tmp_path / "in", "STS_000", Volume(np.concatenate([pet.array, ct.array]), pet.grid))
    raw = tmp_path / "raw"
    assert run_cli(main, "-i", tmp_path / "in", "--raw", raw, "--held_out", 0, "-np", 0).code == 0
    for name in DATASETS:
        image, target = (io.read([raw / name / side / "STS_000_0000.nii.gz"]) for side in ("imagesTr", "targetsTr"))
        assert image.grid.difference(target.grid) is None
        assert image.grid.difference(pet.grid.cropped(Box((0, 2, 3), (7, 12, 8)))) is None
    assert dict(records_of("simulation", raw / DATASETS[0]))["STS_000"]["planes_without_ct"] == 1


@pytest.mark.parametrize("axis", [1, 2])
def test_an_image_is_cut_on_the_sides_where_the_body_is_cut_and_there_alone(axis: int) -> None:
    patient = made_patient()
    assert simulate(*parts(patient), Protocol(), np.random.default_rng(0)).within_the_cut().grid == GRID
    start, stop = [0, 0, 0], list(SHAPE)
    start[axis] = 7
    box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    half = Volume(patient.array[(..., *box.slices)], patient.grid.cropped(box))
    exam = simulate(*parts(half), Protocol(counts=1e6), np.random.default_rng(0))
    inner = exam.within_the_cut()
    kept = tuple(slice(2 if i == axis else 0, None) for i in range(3))
    assert inner.grid.shape == tuple(n - 2 * (i == axis) for i, n in enumerate(half.grid.shape))
    for name in ("low", "uncorrected", "full", "noiseless"):
        np.testing.assert_array_equal(getattr(inner, name), getattr(exam, name)[kept])


def test_without_a_ct_the_body_is_water_and_there_is_no_uncorrected_set(tmp_path, run_cli) -> None:
    pet, ct = parts(made_patient())
    water = Volume(np.where(ct.array > -500, 0.0, -1000.0).astype(np.float32), GRID)
    one, two = (simulate(pet, held, Protocol(counts=1e9), np.random.default_rng(0)) for held in (water, None))
    assert psnr(two.uncorrected, one.uncorrected, (0, float(one.uncorrected.max()))) > 30
    io.write(pet, tmp_path / "in" / "a.nii.gz")
    flags = ("--pet", tmp_path / "in/{case}.nii.gz", "--raw", tmp_path / "raw", "-np", 0)
    assert run_cli(low_count.main, *flags).code == 0
    assert [folder.name for folder in (tmp_path / "raw").iterdir()] == ["Dataset940_ClinicPET"]


def test_finer_pixels_become_as_large_as_asked_around_the_same_middle() -> None:
    pet, ct = parts(made_patient())
    fine = Grid((7, 100, 80), (3.27, 1.094, 1.094), (-42.188, 22.812, 310.0))
    sharp = [Volume(laid(volume, fine, outside)[None], fine) for volume, outside in ((pet, 0.0), (ct, -1000.0))]
    exam = simulate(sharp[0], sharp[1], Protocol(counts=1e5, pixel_mm=5.47), np.random.default_rng(0))
    assert exam.grid.difference(GRID) is None
    same = simulate(pet, ct, Protocol(counts=1e5), np.random.default_rng(0))
    assert psnr(exam.noiseless, same.noiseless, (0, float(same.noiseless.max()))) > 30
    coarse = simulate(pet, ct, Protocol(pixel_mm=2.0), np.random.default_rng(0))
    assert coarse.grid == GRID, "what is coarser stays"


def test_a_ct_finer_than_the_pixels_counts_by_its_mean() -> None:
    """Stripes of a voxel's width would else be all that is seen."""
    pet, ct = parts(made_patient())
    fine = Grid((7, 100, 80), (3.27, 1.094, 1.094), (-42.188, 22.812, 310.0))
    suv, hu = laid(pet, fine), np.where(laid(ct, fine, -1000.0) > -500, -480.0, -1000.0).astype(np.float32)
    stripes = np.where(np.arange(80) % 5 == 2, 480.0, -120.0) * (hu > -500)
    images = []
    for array in (hu, (hu + stripes).astype(np.float32)):
        held = (Volume(part[None], fine) for part in (suv, array))
        images.append(simulate(*held, Protocol(counts=1e9, pixel_mm=5.47), np.random.default_rng(0)).uncorrected)
    assert np.median(np.abs(images[1] / images[0] - 1)[images[0] > 0.3]) < 0.02


@pytest.mark.parametrize(("pixels", "angles"), [(40, 60), (64, 60), (204, 192)])
def test_there_are_about_as_many_angles_as_pixels(pixels, angles) -> None:
    scanner = scanner_for(pixels, 4.0, Protocol())
    assert scanner.angles == angles
    assert angles % scanner.subsets == 0


@pytest.mark.parametrize("names", [("PETCT_0a/08-13-NA/SUV", "PETCT_0a/08-13-NA/CTres"), None])
def test_autopet(tmp_path, run_cli, names) -> None:
    """Its own tree, and nnU-Net's; scans of one patient stay together."""
    for number, (patient, study) in enumerate((("0a", "08-13"), ("0a", "09-14"), ("1b", "02-03"))):
        tree = tmp_path / "in" / f"PETCT_{patient}" / f"{study}-NA"
        pet, ct = parts(made_patient(number))
        flat = tmp_path / "in" / "imagesTr" / f"fdg_{patient}_{study}"
        io.write(pet, tree / "SUV.nii.gz" if names else Path(f"{flat}_0001.nii.gz"))
        io.write(ct, tree / "CTres.nii.gz" if names else Path(f"{flat}_0000.nii.gz"))
        if names:
            (tree / "SEG.nii.gz").touch()
    outcome = run_cli(autopet.main, "-i", tmp_path / "in", "--raw", tmp_path / "raw", "--held_out", 1, "-np", 0)
    assert outcome.code == 0, outcome.err
    for name in ("Dataset950_AutoPET", "Dataset951_AutoNAC"):
        found = dataset.read(tmp_path / "raw" / name)
        assert found.findings == ()
        assert len(found.cases) == 2
        assert len({case.group for case in found.cases}) == 1
        assert all(examine(case, found).findings == () for case in found.cases)
        assert len(list((found.folder / "imagesTs").iterdir())) == 1


def test_the_price_is_linear_in_slices(monkeypatch) -> None:
    """What is projected and back is counted, not timed."""
    seen, update = [], Subset.update
    monkeypatch.setattr(Subset, "update", lambda self, image: seen.append(image.size) or update(self, image))
    pet, ct = parts(made_patient())
    for slices in (3, 6):
        grid = Grid((slices, *SHAPE[1:]), GRID.spacing, GRID.origin)
        held = (Volume(volume.array[:, :slices], grid) for volume in (pet, ct))
        simulate(*held, Protocol(), np.random.default_rng(0))
    half = len(seen) // 2
    assert sum(seen[half:]) == 2 * sum(seen[:half])
    assert len(seen) == 2 * half
