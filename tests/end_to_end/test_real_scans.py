"""End-to-end tests on real PET/CT and MR, if `nndiff_test_data` names a folder with petct/ and mri/.

T1 → FLAIR (anisotropic, one patient twice), PET + CT → PET (with simulated low counts), and generation of CT.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from nndiff.cli.plan_and_preprocess import main
from nndiff.data.prepare import prepare
from nndiff.imaging import io, store
from nndiff.plans.plan import Plan, load
from nndiff.words import dataset
from nndiff.words.volume import Volume

DATA = Path(os.environ.get("nndiff_test_data", ""))  # noqa: SIM112 - lower case like nndiff's other variables
pytestmark = pytest.mark.skipif(
    "nndiff_test_data" not in os.environ, reason="nndiff_test_data names no folder of real scans"
)

MR_CASES = ("patient01_s1", "patient01_s2", "patient04_s1", "patient12_s1")
PET_CASES = tuple(f"STS_{i:03d}" for i in range(1, 11))


def raw_dataset(root: Path, name: str, **words) -> None:
    folder = root / "raw" / name
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", **words}))


def t1_to_flair(root: Path) -> str:
    files = {
        case: {"images": [f"{DATA}/mri/{case}_T1.nii.gz"], "targets": [f"{DATA}/mri/{case}_FLAIR.nii.gz"]}
        for case in MR_CASES
    }
    groups = {case: case[:9] for case in MR_CASES}
    raw_dataset(
        root,
        "Dataset001_T1toFLAIR",
        channel_names={"0": "T1"},
        target_names={"0": "FLAIR"},
        dataset=files,
        groups=groups,
    )
    return "Dataset001_T1toFLAIR"


def petct_to_pet(root: Path) -> str:
    """Counts drawn in the image: enough to plan on."""
    rng = np.random.default_rng(0)
    files = {}
    for case in PET_CASES:
        pet = io.read([DATA / "petct" / f"{case}_PET_SUV.nii.gz"])
        gain = 20 / np.percentile(pet.array, 90)
        noisy = rng.poisson(np.clip(pet.array, 0, None) * gain).astype(np.float32) / gain
        low = root / f"{case}_low.nii.gz"
        io.write(Volume(noisy, pet.grid, pet.layout), low)
        files[case] = {
            "images": [str(low), f"{DATA}/petct/{case}_CT.nii.gz"],
            "targets": [f"{DATA}/petct/{case}_PET_SUV.nii.gz"],
        }
    raw_dataset(
        root, "Dataset002_PETCT", channel_names={"0": "PET", "1": "CT"}, target_names={"0": "PET"}, dataset=files
    )
    return "Dataset002_PETCT"


def ct(root: Path) -> str:
    files = {case: {"targets": [f"{DATA}/petct/{case}_CT.nii.gz"]} for case in PET_CASES}
    raw_dataset(root, "Dataset003_CT", target_names={"0": "CT"}, dataset=files, task="generation")
    return "Dataset003_CT"


@pytest.mark.parametrize("make", [t1_to_flair, petct_to_pet, ct])
def test_the_command_runs_to_the_end_and_every_volume_comes_back(make, tmp_path, capsys) -> None:
    name = make(tmp_path)
    roots = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "pre")]
    assert main(["-d", name, "-gpu_memory_target", "8", "-np", "2", *roots]) == 0
    assert "Traceback" not in capsys.readouterr().err

    plan = load(Plan, tmp_path / "pre" / name / "plan.json")
    raw = dataset.read(tmp_path / "raw" / name)
    for configuration in plan.configurations:
        folder = tmp_path / "pre" / name / configuration
        assert store.cases(folder) == [case.name for case in raw.cases]
        assert all("target" in store.open_case(folder, case.name) for case in raw.cases)
    for case in raw.cases:
        _comes_back(case, plan)


def _comes_back(case, plan: Plan) -> None:
    """On its own grid; to float32's rounding without resampling, below a hundredth of a per cent rms with it."""
    configuration = next(iter(plan.configurations))
    source = io.read(case.source) if case.source else None
    target = io.read(case.target)
    prepared = prepare(source, target, None, plan.preparation(configuration))
    home = prepared.undo(prepared.target)
    assert home.grid == (source or target).grid
    assert home.layout == (source or target).layout
    inside = (slice(None), *prepared.undo.box.slices)
    scale = prepared.undo.maps[0].scale
    error = (home.array[inside] - target.array[inside]) / scale
    resampled = prepared.undo.resampled.shape != prepared.undo.box.shape
    cut = any(n > m for n, m in zip(prepared.undo.resampled.shape, prepared.grid.shape, strict=True))
    if cut:
        return  # the rim of a volume larger than generation's one shape is lost, and the command said so
    if not resampled:
        largest = max(scale, float(np.abs(target.array).max()))
        assert np.abs(error).max() <= 2.0**-22 * largest / scale
    elif plan.task == "translation":
        assert np.sqrt(np.mean(error**2)) <= 1e-4
