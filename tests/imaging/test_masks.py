"""Tests of masks: a body with its arms and without the table, a head with its skull, and doubtful sizes."""

from __future__ import annotations

import numpy as np
import pytest

from nndiff.imaging import crop
from nndiff.imaging.masks import mask
from nndiff.words.kind import CT, MR

SHAPE, SPACING = (24, 60, 70), (4.0, 3.0, 3.0)
Z, Y, X = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")


def ball(z: float, y: float, x: float, *radii: float) -> np.ndarray:
    return ((Z - z) / radii[0]) ** 2 + ((Y - y) / radii[1]) ** 2 + ((X - x) / radii[2]) ** 2 < 1


TRUNK, LUNG, ARM = ball(46, 80, 100, 300, 45, 60), ball(46, 75, 80, 20, 20, 18), ball(46, 80, 185, 300, 14, 14)
TABLE = (np.abs(Y - 131) < 4) & (X > 30)
BODY = TRUNK | ARM


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def ct() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 20, SHAPE)
    return (np.where(BODY & ~LUNG, 40.0, np.where(LUNG, -800.0, np.where(TABLE, 200.0, -1000.0))) + noise).astype(
        np.float32
    )


def test_a_ct_body_has_its_lungs_and_arms_and_no_table() -> None:
    found, doubt = mask(ct(), CT, SPACING, "body")
    assert doubt == ""
    assert agreement(found, BODY) > 0.96
    assert found[LUNG].all()
    assert found[ball(46, 80, 185, 30, 8, 8)].all()
    assert not found[TABLE].any()


def test_a_head_is_one_part_and_has_what_lies_behind_its_dark_skull() -> None:
    head, skull, brain = (ball(46, 85, 100, *(r, r, r)) for r in (40, 35, 29))
    rng = np.random.default_rng(0)
    image = np.where(brain, 100.0, np.where(skull, 2.0, np.where(head, 60.0, 0.0))) + np.abs(rng.normal(0, 2, SHAPE))
    marker = ball(46, 20, 20, 14, 14, 14)
    image[marker] = 90.0
    found, doubt = mask(image.astype(np.float32), MR, SPACING, "head")
    assert doubt == ""
    assert agreement(found, head) > 0.95
    assert found[skull].all()
    assert not found[marker].any()


def test_a_head_is_the_largest_part_without_what_is_thinner_than_a_centimetre() -> None:
    """A second part of half its size and a sheet of 6 mm that touches it do not belong to it."""
    head, other = ball(46, 85, 70, 38, 38, 38), ball(46, 85, 160, 30, 30, 30)
    sheet = (np.abs(Y - 85) < 3) & (X < 40)
    image = np.where(head | other | sheet, 100.0, 0.0) + np.abs(np.random.default_rng(0).normal(0, 2, SHAPE))
    found, _ = mask(image.astype(np.float32), MR, SPACING, "head")
    assert agreement(found, head) > 0.95
    assert not found[other].any()
    assert not found[:, :, :8].any()


@pytest.mark.parametrize(("planes", "doubted"), [(0.7, False), (0.94, False), (0.97, True)])
def test_a_mask_of_more_than_95_per_cent_is_doubted(planes: float, doubted: bool) -> None:
    image = np.full((100, 20, 20), -1000.0, np.float32)
    image[: round(100 * planes)] = 40.0
    found, doubt = mask(image, CT, (4.0, 3.0, 3.0), "body")
    assert found.mean() == pytest.approx(planes, abs=0.005)
    assert (doubt != "") is doubted


@pytest.mark.parametrize(("radius", "doubted"), [(20.0, True), (27.0, False)])
def test_a_mask_of_less_than_one_per_cent_is_doubted(radius: float, doubted: bool) -> None:
    """Of a volume of 3630 ml, balls of 34 and 82 ml."""
    image = np.where(ball(46, 85, 100, radius, radius, radius), 40.0, -1000.0).astype(np.float32)
    assert (mask(image, CT, SPACING, "body")[1] != "") is doubted


def test_nothing_and_everything_are_doubted() -> None:
    wires = np.full(SHAPE, -1000.0, np.float32)
    wires[:, 10, 10] = 500.0
    assert "covers 0.0% of the volume" in mask(wires, CT, SPACING, "body")[1]
    assert "covers 100.0% of the volume" in mask(np.full(SHAPE, 40.0, np.float32), CT, SPACING, "body")[1]


def test_a_large_volume_is_looked_at_in_part_and_gets_a_mask_of_its_size(monkeypatch) -> None:
    whole, _ = mask(ct(), CT, SPACING, "body")
    monkeypatch.setattr(crop, "SAMPLE", 30_000)
    found, _ = mask(ct(), CT, SPACING, "body")
    assert found.shape == SHAPE
    assert not np.array_equal(found, whole)
    assert agreement(found, whole) > 0.9


@pytest.mark.parametrize("spacing", [(4.0, 3.0, 3.0), (8.0, 6.0, 6.0)])
def test_thickness_is_meant_in_mm(spacing) -> None:
    """A sheet of two voxels is a table at 3 mm, and no more where voxels are twice as large."""
    found, _ = mask(ct(), CT, spacing, "body")
    assert found[TABLE].any() == (spacing[0] > 4)
