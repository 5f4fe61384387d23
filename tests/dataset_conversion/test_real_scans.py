"""Tests of the converters on real scans, if `nndiff_test_data` names a folder of them with petct/ and mri/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion import ljubljana_mri, sarcoma_petct
from nndiff.data.integrity import examine
from nndiff.imaging import io
from nndiff.metrics.image import psnr
from nndiff.words import dataset
from nndiff.words.files import read_json
from nndiff.words.volume import Box
from tests.imaging.series import DOSE, HALF_LIFE, WAITED, WEIGHT, write_series

DATA = Path(os.environ.get("nndiff_test_data", ""))  # noqa: SIM112 - lower case like nndiff's other variables
pytestmark = pytest.mark.skipif(
    "nndiff_test_data" not in os.environ, reason="nndiff_test_data names no folder of real scans"
)

PATIENTS = ("STS_031", "STS_033")


def test_sarcoma_patients_become_noisy_as_calibrated_and_lie_where_they_lay(tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in PATIENTS:
        for ending in (sarcoma_petct.PET, sarcoma_petct.CT):
            (folder / f"{name}{ending}").symlink_to(DATA / "petct" / f"{name}{ending}")
    raw = tmp_path / "raw"
    assert sarcoma_petct.main(["-i", str(folder), "--raw", str(raw), "--held_out", "1", "-np", "0"]) == 0
    for name in ("Dataset910_SarcomaPET", "Dataset911_SarcomaNAC"):
        read = dataset.read(raw / name)
        assert read.findings == ()
        assert examine(read.cases[0], read).findings == ()
        ((case, top),) = read_json(raw / name / "ceiling.json").items()
        source, target = (io.read([raw / name / f"{kind}Ts" / f"{case}_0000.nii.gz"]) for kind in ("images", "targets"))
        pet = io.read([folder / f"{case}{sarcoma_petct.PET}"])
        assert source.grid == target.grid
        start = (np.array(source.grid.origin) - pet.grid.origin) @ pet.grid.matrix / pet.grid.spacing
        first = tuple(round(n) for n in start)
        box = Box(first, tuple(a + n for a, n in zip(first, source.grid.shape, strict=True)))
        assert source.grid.difference(pet.grid.cropped(box)) is None
        assert box.shape[0] == pet.grid.shape[0]
        assert all(a >= 0 and b <= n for a, b, n in zip(box.start, box.stop, pet.grid.shape, strict=True))
        if "NAC" not in name:
            quality = psnr(source.array[0], target.array[0], (0.0, float(target.array.max())))
            assert 26 < quality < 32
            assert quality + 8 < top < quality + 11
        assert target.array.mean() == pytest.approx(pet.array[(..., *box.slices)].mean(), rel=0.1)


def test_mr_scans_are_sound_in_place(tmp_path) -> None:
    assert ljubljana_mri.main(["-i", str(DATA / "mri"), "--raw", str(tmp_path)]) == 0
    read = dataset.read(tmp_path / "Dataset920_T1toFLAIR")
    assert read.findings == ()
    assert len({case.group for case in read.cases}) == 3 < len(read.cases)
    assert all(not [f for f in examine(case, read).findings if f.severity == "error"] for case in read.cases[:2])


@pytest.mark.parametrize("modality", ["PT", "CT"])
def test_real_scans_go_through_dicom_and_back(tmp_path, modality) -> None:
    """Geometry within 1e-3 mm; SUV within 0.1 % of each slice's largest, HU within half a unit."""
    ending = sarcoma_petct.PET if modality == "PT" else sarcoma_petct.CT
    volume = io.read([DATA / "petct" / f"{PATIENTS[0]}{ending}"])
    truth, activity = volume.array[0], DOSE * 2 ** (-WAITED / HALF_LIFE) / (1000 * WEIGHT)
    write_series(tmp_path / "series", truth * (activity if modality == "PT" else 1), volume.grid, modality)
    found = io.read([tmp_path / "series"])
    np.testing.assert_allclose(found.grid.origin, volume.grid.origin, atol=1e-3)
    np.testing.assert_allclose(found.grid.spacing, volume.grid.spacing, atol=1e-3)
    np.testing.assert_allclose(found.grid.matrix, volume.grid.matrix, atol=1e-6)
    off = np.abs(found.array[0] - truth).max(axis=(1, 2))
    assert (off <= (1e-3 * np.abs(truth).max(axis=(1, 2)) if modality == "PT" else 0.501)).all()
