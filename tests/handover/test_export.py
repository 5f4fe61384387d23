"""Tests of the export: which folds, what float16 changes, what the model card says, and what is refused."""

from __future__ import annotations

import errno
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nndiff import archive, checkpoint, folds
from nndiff.checkpoint import BEST, LATEST, seen_of
from nndiff.data import fingerprint
from nndiff.handover import Request, export
from nndiff.handover.card import NO_LICENCE
from nndiff.handover.halving import change, rounded
from nndiff.plans.plan import save
from nndiff.prediction import models
from nndiff.words import dataset
from nndiff.words.errors import NndiffError
from tests.archive.made import NAMES, TRAINING, contents, exported, model
from tests.conftest import make_raw_dataset
from tests.prediction.trained import plan_of, save_trained


def card(path: Path) -> str:
    return contents(path)["MODEL_CARD.md"].decode()


def refused(request: Request, *words: str) -> None:
    with pytest.raises(NndiffError) as caught:
        export(request)
    for word in words:
        assert word in str(caught.value), caught.value
    assert not request.output.exists()


# ---------------------------------------------------------------- which folds


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    folder = model(tmp_path, tuned=False)
    for fold, step in ((0, 10), (1, 7)):
        save_trained(folder / f"fold_{fold}" / LATEST, plan_of(), step=step)
    return folder


def test_only_finished_folds_are_exported_unless_it_is_asked_for(tmp_path: Path, unfinished: Path) -> None:
    done = export(Request(unfinished, tmp_path / "a.zip"))
    assert done.folds == ("0",)
    assert done.oddities == ("the training of fold_1 has not ended: 3 steps are left, so it is left out",)
    assert done.bytes == done.path.stat().st_size
    refused(Request(unfinished, tmp_path / "b.zip", folds=("1",)), "has not ended", "--allow_unfinished")
    done = export(Request(unfinished, tmp_path / "c.zip", folds=("1", "1"), allow_unfinished=True))
    assert done.folds == ("1",)
    assert "the training of fold_1 has not ended: 3 steps are left" in card(done.path)
    found = models.load(done.path, None, BEST, torch.device("cpu"), None)
    assert found.oddities == ("the training of fold_1 had not ended: 3 steps were left",)


def test_what_cannot_be_one_model_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path)
    refused(Request(folder, tmp_path / "model.tar"), "ends in .zip", "found model.tar")
    refused(Request(tmp_path / "none", tmp_path / "a.zip"), "There is no such model")
    refused(Request(folder, tmp_path / "a.zip", configuration="ddpm"), "another configuration", "found bridge")
    refused(Request(exported(tmp_path, folder=folder), tmp_path / "a.zip"), "exported already")
    shutil.copytree(folder / "fold_0", folder / "fold_7")
    refused(Request(folder, tmp_path / "a.zip"), "Two folders contain the same fold", "fold_0 and fold_7", "-f")
    save_trained(folder / "fold_1" / BEST, plan_of(spacing=(3.0, 3.0, 3.0)))
    (folder / "fold_1" / "inference.json").unlink()
    refused(Request(folder, tmp_path / "a.zip", folds=("0", "1")), "different plans")


def test_a_model_that_could_not_be_read_again_is_not_exported(tmp_path: Path) -> None:
    folder = model(tmp_path, tuned=False, folds=(0,))
    found = checkpoint.load(folder / "fold_0" / BEST)
    checkpoint.save(folder / "fold_0" / BEST, replace(found, seen=()))
    refused(Request(folder, tmp_path / "out" / "a.zip"), "could not be read back", "one entry per source channel")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    folder = model(tmp_path)
    path = exported(tmp_path / "out", folder=folder)
    before = path.read_bytes()

    def full(*_):  # type: ignore[no-untyped-def]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nndiff.archive.writing._write", full)
    with pytest.raises(NndiffError, match="The disk is full"):
        exported(tmp_path / "out", folder=folder)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


# ---------------------------------------------------------------- float16


def test_the_change_by_float16_is_measured_and_said(tmp_path: Path) -> None:
    folder = model(tmp_path)
    done = export(Request(folder, tmp_path / "half.zip", half=True))
    text = card(done.path)
    assert len(done.changes) == 2
    for fold, each in zip(done.folds, done.changes, strict=True):
        assert 0 < each.rms < each.largest < 0.1
        assert f"Fold {fold}: its weights were rounded to float16." in text
        assert str(each) in text
    assert "(float16)" in text
    assert done.bytes < 0.75 * exported(tmp_path, folder=folder).stat().st_size
    exact = export(Request(folder, tmp_path / "whole.zip"))
    assert exact.changes == ()
    assert "rounded to float16" not in card(exact.path)


def test_the_change_is_that_of_the_output(tmp_path: Path) -> None:
    """Weights of another seed change the output by about its own size; the same weights by nothing."""
    one, two = (folds.read(path) for path in sorted(model(tmp_path, tuned=False).glob(f"*/{BEST}")))
    assert change(one, one.weights).rms == change(one, one.weights).largest == 0
    far = change(one, two.weights)
    near = change(one, {name: value * (1 + 1e-6) for name, value in one.weights.items()})
    assert far.rms > 0.1
    assert far.largest > far.rms
    assert 0 < near.rms < 1e-4
    assert change(one, two.weights) == far


@pytest.mark.parametrize("configuration", ["ddpm", "prdit"])
def test_every_method_can_be_halved(tmp_path: Path, configuration: str) -> None:
    (path,) = model(tmp_path, tuned=False, folds=(0,), configuration=configuration).glob(f"*/{BEST}")
    fold = folds.read(path)
    assert 0 < change(fold, rounded(fold)).rms < 0.1


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path, tuned=False)
    path = folder / "fold_1" / BEST
    found = checkpoint.load(path)
    name = next(iter(found.ema))
    checkpoint.save(path, replace(found, ema={**found.ema, name: found.ema[name] + 7e4}))
    refused(Request(folder, tmp_path / "a.zip", half=True), "too large for float16", name, "without --half")
    export(Request(folder, tmp_path / "a.zip"))


# ---------------------------------------------------------------- the model card


def test_the_card_has_every_section_and_no_name(tmp_path: Path) -> None:
    text = card(exported(tmp_path, licence="CC BY 4.0", folder=model(tmp_path)))
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles == [
        "What it does",
        "Intended use",
        "Not intended",
        "Training data",
        "Figures",
        "Limits",
        "What is inside",
        "Software",
        "Licence",
    ]
    assert text.endswith("## Licence\n\nCC BY 4.0\n")
    for words in (
        "PET (PET in SUV) → PET (PET in SUV)",
        "not a medical device",
        "2 cases in the training of the folds together",
        "fold 1: 2 training cases, 1 for validation (held out); 7 of 10 steps",
        "| 0 | 1 | yes | 31.25 | 25.5 | 0.9 | 0.01 | 0.1 |",
        "| 1 | two steps, measured | 1 | no | 32.5 | 0.9 | 0.01 |  |",
        "source PET: P99.99 of 1 to 10, minimum of 0 SUV",
        "names of cases",
    ):
        assert words in text, words
    assert not [name for name in NAMES if name in text]
    assert "None" not in text


def test_what_was_not_recorded_is_said_so(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    save_trained(folder / "fold_0" / BEST, plan_of())
    text = card(exported(tmp_path, folder=folder))
    assert "No validation was recorded" in text
    assert "The sampler was not tuned." in text
    assert NO_LICENCE in text


def test_a_generating_model_says_what_it_can_repeat(tmp_path: Path) -> None:
    folder = tmp_path / "generates"
    save_trained(folder / "fold_0" / BEST, plan_of("ddpm", sources=()))
    text = card(exported(tmp_path, folder=folder))
    assert "It generates volumes" in text
    assert "can repeat what it was trained on" in text


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Path, Path]:
    """A model and the folder of preprocessed datasets that contains the fingerprint of its data."""
    raw = make_raw_dataset(tmp_path / "raw", cases=3, groups={"case_0": "one", "case_1": "one"})
    found, _ = fingerprint.extract(dataset.read(raw), 0)
    folder = model(tmp_path)
    for path in folder.glob(f"*/{BEST}"):
        saved = checkpoint.load(path)
        run = replace(saved.run, training=("case_0", "case_1"), validation=("case_2",))
        checkpoint.save(path, replace(saved, run=run, seen=seen_of(found)))
    save(tmp_path / "preprocessed" / found.dataset / "fingerprint.json", found)
    return folder, tmp_path / "preprocessed"


def test_the_fingerprint_tells_patients_spacings_and_shapes(tmp_path: Path, measured: tuple[Path, Path]) -> None:
    folder, preprocessed = measured
    text = card(exported(tmp_path, folder=folder, preprocessed=preprocessed))
    for words in ("of 1 patient\n", "spacings: 2 x 2 x 2 mm", "shapes: 14 x 16 x 18 voxels", "target PET: P99.99 of"):
        assert words in text, words
    assert "case_" not in text


@pytest.mark.parametrize("change", ["ranges", "cases", "absent", "damaged"])
def test_a_fingerprint_of_other_data_is_not_believed(tmp_path: Path, measured: tuple[Path, Path], change: str) -> None:
    folder, preprocessed = measured
    path = preprocessed / "Dataset001_Tiny" / "fingerprint.json"
    if change == "absent":
        path.unlink()
    if change == "damaged":
        path.write_text("{")
    for saved in folder.glob(f"*/{BEST}"):
        found = checkpoint.load(saved)
        if change == "ranges":
            found = replace(found, seen=(replace(found.seen[0], peaks=(0.0, 1.0)),))
        if change == "cases":
            found = replace(found, run=replace(found.run, training=TRAINING))
        checkpoint.save(saved, found)
    text = card(exported(tmp_path, folder=folder, preprocessed=preprocessed))
    assert "patients, spacings and shapes: not known here" in text
    assert "fingerprint.json" in text
    assert "spacings: 2 x" not in text


def test_the_card_is_a_part_like_any_other(tmp_path: Path) -> None:
    path = exported(tmp_path)
    with archive.opened(path) as parts:
        assert archive.card_of(parts) == card(path)
