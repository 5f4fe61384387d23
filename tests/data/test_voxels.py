"""Tests of the voxels that are counted for memory and for the disk before cases are preprocessed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nndiff.data.preprocess import _voxels
from tests.prediction.trained import plan_of


@dataclass(frozen=True)
class OneFile:
    files: tuple[Path, ...]


@pytest.mark.parametrize(
    ("spacing", "volume_shape", "held", "stored"),
    [
        ((2.0, 2.0, 2.0), None, 4000, 500),  # coarser: the raw scan is the larger number, and little is stored
        ((0.5, 0.5, 0.5), None, 32000, 32000),
        ((2.0, 2.0, 2.0), (4, 4, 4), 4000, 64),  # generation: the raw scan is read all the same
        ((2.0, 2.0, 2.0), (20, 20, 20), 8000, 8000),
    ],
)
def test_memory_counts_the_larger_volume_and_the_disk_the_stored_one(tmp_path, spacing, volume_shape, held, stored):
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((10, 20, 20), np.float32)), str(path))
    plan = plan_of()
    preparation = replace(plan.preparation("bridge"), spacing=spacing, volume_shape=volume_shape)
    assert _voxels([OneFile((path,))], preparation) == (held, stored)
