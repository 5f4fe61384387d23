"""End-to-end test from files on disk to translated scans: a converter, the plan, a few training steps, prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch

from dataset_conversion import any_folder, synthrad, udpet
from nndiff.checkpoint import BEST, LATEST
from nndiff.cli import plan_and_preprocess, predict, train
from nndiff.imaging import io
from nndiff.words.files import read_json
from nndiff.words.version import VERSION, versions
from nndiff.words.volume import Grid
from tests.conftest import SHAPE
from tests.imaging.series import write_series

GRID = Grid(SHAPE, (3.0, 2.0, 2.0), (-30.0, 12.5, 100.0))
SMALL = ["network.width=8", "network.multipliers=[1,1]", "network.kernels=[[3,3,3],[3,3,3]]"]
SMALL += ["network.strides=[[1,1,1],[2,2,2]]", "network.blocks=1", "patch_size=[14,16,18]", "training_steps=3"]


@pytest.fixture
def udpet_tree(tmp_path, phantom) -> tuple[Any, list[Any], Path]:
    for seed in range(3):
        for name, noise in (("Full_dose", 0.0), ("1-20 dose", 0.4)):
            activity = 1e4 * phantom(seed, noise=noise)
            write_series(tmp_path / "in" / "Subject_1-3" / f"scan{seed}" / name, activity, GRID, "PT")
    return udpet.main, ["-i", tmp_path / "in", "--drf", 20], tmp_path / "in" / "Subject_1-3" / "scan0" / "1-20 dose"


@pytest.fixture
def synthrad_tree(tmp_path, phantom, save) -> tuple[Any, list[Any], Path]:
    for seed in range(3):
        folder = tmp_path / "in" / "Task1" / "HN" / f"1HNA00{seed}"
        for kind, name in (("mr", "mr"), ("ct", "ct")):
            save(folder / f"{name}.mha", phantom(seed, kind=kind, noise=0.1))
        save(folder / "mask.mha", phantom(seed) > 0.5)
    save(tmp_path / "new" / "anna_0000.mha", phantom(7, kind="mr", noise=0.1))
    return synthrad.main, ["-i", tmp_path / "in", "--task", 1], tmp_path / "new"


@pytest.fixture
def folder_tree(tmp_path, phantom, save) -> tuple[Any, list[Any], Path]:
    for seed in range(3):
        for name in ("t1", "flair"):
            save(tmp_path / "in" / f"p{seed}" / f"{name}.nii.gz", phantom(seed, kind="mr", noise=0.1))
    save(tmp_path / "new" / "anna_0000.nii.gz", phantom(7, kind="mr", noise=0.1))
    start = f"{tmp_path / 'in'}/{{case}}"
    flags = ["-d", 44, "-n", "Flair", "--source", f"{start}/t1.nii.gz", "--target", f"{start}/flair.nii.gz"]
    return any_folder.main, flags, tmp_path / "new"


@pytest.mark.parametrize("tree", ["udpet_tree", "synthrad_tree", "folder_tree"])
def test_what_lies_on_a_disk_is_trained_on_and_translated(tree, tmp_path, roots, run_cli, request) -> None:
    convert, flags, new = request.getfixturevalue(tree)
    number = {"udpet_tree": 936, "synthrad_tree": 930, "folder_tree": 44}[tree]
    settings = [f"configurations.bridge.{word}" for word in SMALL]
    out, series = tmp_path / "out", ["--dicom_out"] if tree == "udpet_tree" else []
    for main, *words in (
        (convert, *flags),
        (plan_and_preprocess.main, "-d", number, "-c", "bridge", "-np", 0, "--set", *settings),
        (train.main, number, "bridge", 0, "--no_tune", "-device", "cpu", "-np", 0),
        (
            predict.main,
            "-i",
            new,
            "-o",
            out,
            "-d",
            number,
            "-f",
            0,
            "-device",
            "cpu",
            "--disable_progress_bar",
            *series,
        ),
    ):
        outcome = run_cli(main, *words)
        assert outcome.code == 0, outcome.err
    source = new if tree == "udpet_tree" else next(new.iterdir())
    (made,) = [path for path in out.iterdir() if path.suffix in (".gz", ".mha")]
    assert io.read([made]).grid.difference(io.read([source]).grid) is None
    assert not series or io.read([out / "dicom" / "1-20 dose_0000"]).array.shape == (1, *SHAPE)
    demand_origins(made, [out / "predict.json", *roots.preprocessed.glob("*/*.json"), *roots.results.rglob("*.pt")])


def demand_origins(volume: Path, others: list[Path]) -> None:
    """Law: whatever is made says by which software."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(volume))
    reader.ReadImageInformation()
    assert f"nndiff {VERSION}" in reader.GetMetaData("ITK_FileNotes")
    assert {path.name for path in others} >= {"plan.json", "fingerprint.json", "predict.json", LATEST, BEST}
    for path in others:
        stored = torch.load(path, weights_only=True) if path.suffix == ".pt" else read_json(path)
        if path.name == "fingerprint.json":
            assert stored["versions"] == {"nndiff": VERSION}  # the same bytes on every machine
        elif path.name != "splits.json":
            assert stored["versions"] == versions(), path
        if path.suffix == ".pt":
            assert f"nndiff {VERSION}, torch" in (path.parent / "log.txt").read_text()
