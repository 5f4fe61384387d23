"""Predictions of a model that was handed on: from the folder, the file and the installed model they are the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import nndiff
from nndiff.checkpoint import BEST, LATEST
from nndiff.handover.install import install
from nndiff.prediction import models
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json
from tests.archive.made import exported, model
from tests.prediction.trained import contents, scans

QUIET = {"device": "cpu", "quiet": True}


def state(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ({}, {}),
        ({}, {"folds": ("1",)}),
        ({"tuned": False}, {"steps": 2, "eta": 1.0, "samples": 2, "save_samples": True, "save_uncertainty": True}),
        ({"configuration": "ddpm", "tuned": False}, {"steps": 2}),
        ({"configuration": "prdit", "tuned": False}, {"steps": 2}),
    ],
    ids=["tuned", "one fold", "draws", "ddpm", "prdit"],
)
def test_folder_file_and_installed_model_predict_the_same_bytes(tmp_path, words, options) -> None:
    folder = model(tmp_path, **words)
    path = exported(tmp_path / "handed", folder=folder)
    installed = install(path, "one", tmp_path / "models").folder
    inputs = scans(tmp_path / "in", 1)
    before = state(path.parent), state(installed)
    for name, each in (("folder", folder), ("file", path), ("installed", installed)):
        nndiff.predict(inputs, tmp_path / name, each, **QUIET, **options)
    first, *others = (contents(tmp_path / name) for name in ("folder", "file", "installed"))
    assert first
    assert others == [first, first]
    assert (state(path.parent), state(installed)) == before, "nothing is left beside the model"
    records = [read_json(tmp_path / name / "predict.json") for name in ("folder", "file", "installed")]
    for key in ("sampler", "dataset", "configuration", "uncertainty_factor", "precision"):
        assert records[0][key] == records[1][key] == records[2][key], key
    known = [[{key: row[key] for key in ("fold", "step", "weights")} for row in each["model"]] for each in records]
    assert known[0] == known[1] == known[2]
    assert records[1]["model"][-1]["checkpoint"] == "model.zip/fold_1.safetensors"


def test_float16_predicts_nearly_the_same(tmp_path) -> None:
    folder = model(tmp_path, tuned=False)
    inputs = scans(tmp_path / "in", 1)
    whole, half = (exported(tmp_path, f"{half}.zip", folder=folder, half=half) for half in (False, True))
    for name, each in (("whole", whole), ("half", half)):
        nndiff.predict(inputs, tmp_path / name, each, **QUIET)
    assert contents(tmp_path / "whole") != contents(tmp_path / "half")
    from nndiff.imaging import io

    one, other = (io.read([tmp_path / name / "case_0_0000.nii.gz"]).array for name in ("whole", "half"))
    assert abs(one - other).max() < 0.02 * abs(one).max()


def test_a_tuned_sampler_is_handed_on_with_rounded_weights_too(tmp_path) -> None:
    cpu = torch.device("cpu")
    folder = model(tmp_path)
    own = models.load(folder, None, BEST, cpu, None)
    for half in (False, True):
        found = models.load(exported(tmp_path, f"{half}.zip", folder=folder, half=half), None, BEST, cpu, None)
        assert (found.sampler, found.dial, found.drawn, found.seen) == (own.sampler, own.dial, own.drawn, own.seen)
        assert found.sampler.steps == 2


def test_a_prediction_goes_on_with_the_handed_on_model(tmp_path) -> None:
    folder = model(tmp_path)
    path, inputs = exported(tmp_path, folder=folder), scans(tmp_path / "in", 1)
    nndiff.predict(inputs, tmp_path / "out", folder, **QUIET)
    scans(tmp_path / "in", 2)
    again = nndiff.predict(inputs, tmp_path / "out", path, go_on=True, **QUIET)
    assert (again.skipped, again.done) == (["case_0"], ["case_1"])
    half = exported(tmp_path, "half.zip", folder=folder, half=True)
    with pytest.raises(NndiffError, match="made with another model"):
        nndiff.predict(inputs, tmp_path / "out", half, go_on=True, **QUIET)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": ("4",)}, ("no fold 4", "one of 0, 1")),
        ({"checkpoint": LATEST}, ("one checkpoint per fold", "leave out -chk")),
        ({"configuration": "ddpm"}, ("another configuration", "found bridge")),
    ],
    ids=str,
)
def test_what_an_archive_does_not_have_is_refused(tmp_path, options, words) -> None:
    path, inputs = exported(tmp_path), scans(tmp_path / "in", 1)
    with pytest.raises(NndiffError) as caught:
        nndiff.predict(inputs, tmp_path / "out", path, **QUIET, **options)
    for word in words:
        assert word in str(caught.value), caught.value
    assert not (tmp_path / "out").exists()
