"""Tests of registration: a known motion is recovered, and unreliable results carry a doubt."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nndiff.demo.bodies import random_body
from nndiff.imaging.register import _doubt, _image, laid, register, shared
from nndiff.words.volume import Grid, Volume

SHAPE = (28, 36, 40)
BODY = random_body(np.random.default_rng(3), SHAPE, (9.0, 10.0, 10.0))
GRID = BODY.grid


def scan(kind: str) -> Volume:
    """What attenuates, and the same body's activity: lungs are dark in one, the liver is bright in the other."""
    array = BODY.attenuation if kind == "ct" else BODY.activity
    grain = np.random.default_rng(1).normal(0, 0.02 * float(array.max()), SHAPE)
    return Volume((array + grain)[None].astype(np.float32), GRID)


def moved(volume: Volume, degrees: float, shift: tuple[float, float, float]) -> Volume:
    """As if the patient had moved before this scan, which has a grid of its own."""
    motion = sitk.Euler3DTransform()
    motion.SetCenter(_image(volume).TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in SHAPE[::-1]]))
    motion.SetRotation(0.0, np.radians(degrees), 0.0)
    motion.SetTranslation(shift)
    other = Grid((32, 34, 38), (8.5, 11.0, 10.5), tuple(value - 5 for value in GRID.origin))
    like = _image(Volume(np.zeros((1, *other.shape), np.float32), other))
    laid = sitk.Resample(_image(volume), like, motion.GetInverse(), sitk.sitkBSpline, 0.0)
    return Volume(sitk.GetArrayFromImage(laid)[None], other)


@pytest.mark.parametrize(
    ("degrees", "shift"), [(0.0, (0.0, 0.0, 0.0)), (6.0, (9.0, -7.0, 5.0)), (-9.0, (0.0, 20.0, 0.0))]
)
def test_a_motion_is_found_again_across_kinds(degrees, shift) -> None:
    still = scan("pet")
    found = register(scan("ct"), moved(still, degrees, shift))
    assert found.doubt == ""
    assert found.degrees == pytest.approx(abs(degrees), abs=0.7)
    assert found.shift_mm == pytest.approx(np.linalg.norm(shift), abs=2.0)  # a fifth of a voxel
    assert found.volume.grid == GRID
    inner = (slice(6, -6),) * 3
    after = np.corrcoef(found.volume.array[0][inner].ravel(), still.array[0][inner].ravel())[0, 1]
    assert after > 0.97
    assert found.after >= found.before


def test_the_same_pair_gives_the_same_motion() -> None:
    moving = moved(scan("pet"), 5.0, (2.0, 1.0, 0.0))
    first, again = register(scan("ct"), moving), register(scan("ct"), moving)
    np.testing.assert_array_equal(first.volume.array, again.volume.array)


def test_what_has_nothing_in_common_is_doubted() -> None:
    noise = Volume(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32), GRID)
    assert register(scan("ct"), noise).doubt
    assert "empty" in register(scan("ct"), Volume(np.zeros_like(noise.array), GRID)).doubt


def test_headers_of_two_scanners_begin_with_the_middles_on_one_another() -> None:
    far = Volume(scan("ct").array, Grid(SHAPE, GRID.spacing, (500.0, 500.0, 500.0)))
    found = register(scan("ct"), far)
    assert (found.doubt, found.shift_mm) == ("", 0)
    np.testing.assert_allclose(found.volume.array, scan("ct").array, atol=1e-5)


def test_what_lies_beyond_the_source_is_not_made_up() -> None:
    half = Volume(scan("pet").array[:, :14], Grid((14, *SHAPE[1:]), GRID.spacing, GRID.origin))
    found = register(scan("ct"), half)
    assert "less than 80%" in found.doubt
    assert found.overlap < 0.7


def test_no_value_is_made_that_the_source_has_not() -> None:
    still, sharp = scan("ct"), np.zeros((1, *SHAPE), np.float32)
    sharp[:, ::3, ::3, ::3] = 100.0
    array = register(still, Volume(sharp, Grid(SHAPE, GRID.spacing, tuple(v + 3.0 for v in GRID.origin)))).volume.array
    assert array.min() >= 0
    assert array.max() <= 100


def test_what_is_shared_is_1_for_strangers_and_2_for_twins() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 10**5))
    assert shared(first, first) == pytest.approx(2)
    assert shared(first, -(first**3)) > 1.3, "whatever the scale of the grey values"
    assert shared(first, second) == pytest.approx(1, abs=0.02)


def brains(stretch: float) -> tuple[Volume, Volume]:
    """Folds in a skull, and their inverse in a header that lies about its voxels along x."""
    shape, spacing = (24, 40, 44), (4.0, 4.0, 4.0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = z**2 + y**2 + x**2 < 0.8
    folds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.5) * inside * 8
    place = (-88.0, -80.0, -48.0)
    still = Volume((inside * 3 + folds)[None].astype(np.float32), Grid(shape, spacing, place))
    wide = Grid(shape, (4.0, 4.0, 4.0 * (1 + stretch)), (place[0] * (1 + stretch), *place[1:]))
    return still, Volume((inside * np.exp(-folds))[None].astype(np.float32), wide)


def test_a_stretch_is_found_where_it_is_looked_for() -> None:
    rigid, affine = register(*brains(-0.06)), register(*brains(-0.06), stretched=True)
    assert rigid.stretch == pytest.approx(0, abs=1e-4)
    assert affine.stretch == pytest.approx(0.06, abs=0.01)
    assert affine.degrees < 1, "a stretch is no turn"
    assert affine.after > rigid.after
    assert affine.doubt == ""
    assert "stretched the source by 30%" in _doubt(0.0, 0.0, 0.3, 1.2, 1.0)


def test_what_lies_right_is_not_stretched() -> None:
    found = register(*brains(0.0), stretched=True)
    assert (found.shift_mm, found.stretch) == (0, pytest.approx(0, abs=1e-9))


def test_laid_is_linear_in_space_and_air_where_nothing_reaches() -> None:
    """A ramp in mm is the same ramp on another grid."""
    ramp = np.fromfunction(lambda z, y, x: 2 * z * 9.0 - y * 10.0 + 0.5 * x * 10.0, SHAPE)
    volume = Volume(ramp[None].astype(np.float32), Grid(SHAPE, (9.0, 10.0, 10.0), (0.0, 0.0, 0.0)))
    other = Grid((9, 11, 13), (7.0, 4.0, 5.0), (30.0, 20.0, 40.0))
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(other.shape, other.spacing, strict=True)), indexing="ij")
    np.testing.assert_allclose(laid(volume, other), 2 * (z + 40) - (y + 20) + 0.5 * (x + 30), atol=1e-2)
    away = Grid((2, 2, 2), (1.0, 1.0, 1.0), (-500.0, 0.0, 0.0))
    assert (laid(volume, away, -7.0) == -7).all()
