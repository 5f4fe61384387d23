"""Tests of loading models for prediction: which checkpoints are used, and the errors about unusable ones."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import nndiff
from nndiff import checkpoint
from nndiff.checkpoint import BEST, LATEST, Step
from nndiff.imaging import io
from nndiff.prediction import models
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json
from nndiff.words.scheme import Scheme
from tests.prediction.trained import model_folder, plan_of, save_trained, scans

CPU = torch.device("cpu")


def load(folder, folds=None, name=BEST, configuration=None):
    return models.load(folder, folds, name, CPU, configuration)


def folds_of(trained):
    return [source["fold"] for source in trained.sources]


def refused(*words, folder, **options):
    with pytest.raises(NndiffError) as caught:
        load(folder, **options)
    for word in words:
        assert word in str(caught.value), caught.value


# ---------------------------------------------------------------- which


def test_all_numbered_folds_are_taken_or_those_asked_for(tmp_path):
    folder = model_folder(tmp_path, folds=(0, 1, 2, "all"))
    assert folds_of(load(folder)) == ["0", "1", "2"]
    assert folds_of(load(folder, ["2", "0"])) == ["2", "0"]
    assert folds_of(load(folder, ["all"])) == ["all"]


def test_fold_all_is_taken_where_there_is_no_other(tmp_path):
    assert folds_of(load(model_folder(tmp_path, folds=("all",)))) == ["all"]


def test_a_folds_own_folder_is_a_model(tmp_path):
    folder = model_folder(tmp_path, folds=(0, 1))
    assert folds_of(load(folder / "fold_1")) == ["1"]


# ---------------------------------------------------------------- whose training has not ended


@pytest.fixture
def one_of_three(tmp_path):
    """Three folds of ten steps; the second has three left."""
    folder = model_folder(tmp_path, folds=(0, 1, 2))
    for fold, step in ((0, 10), (1, 7), (2, 10)):
        save_trained(folder / f"fold_{fold}" / LATEST, plan_of(), step=step)
    return folder


def test_an_unfinished_fold_is_left_out_and_it_is_said(one_of_three):
    found = load(one_of_three)
    assert folds_of(found) == ["0", "2"]
    assert found.oddities == ("the training of fold_1 has not ended: 3 steps are left, so it is left out",)


@pytest.mark.parametrize("folds", [["1"], ["0", "1"]])
def test_an_unfinished_fold_that_is_asked_for_is_refused(one_of_three, folds):
    refused("fold_1 has not ended: 3 steps are left", "--allow_unfinished", folder=one_of_three, folds=folds)


def test_a_model_of_unfinished_folds_alone_is_refused(one_of_three):
    refused("has not ended", "--allow_unfinished", folder=one_of_three / "fold_1")
    for fold in (0, 2):
        save_trained(one_of_three / f"fold_{fold}" / LATEST, plan_of(), step=9)
    refused("fold_0", "fold_1", "fold_2", "--allow_unfinished", folder=one_of_three)


def test_where_it_is_allowed_an_unfinished_fold_is_used_and_it_is_said(one_of_three):
    found = models.load(one_of_three, None, BEST, CPU, None, allow_unfinished=True)
    assert folds_of(found) == ["0", "1", "2"]
    assert found.oddities == ("the training of fold_1 has not ended: 3 steps are left",)


def test_where_it_cannot_be_told_whether_a_training_has_ended_it_is_said(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "fold_0" / LATEST).write_bytes(b"PK")
    found = load(folder)
    assert folds_of(found) == ["0"]
    assert "fold_0 has ended is not known" in found.oddities[0]


def test_a_training_that_has_not_validated_its_last_epoch_has_not_ended(tmp_path):
    folder = model_folder(tmp_path)
    path = save_trained(folder / "fold_0" / LATEST, plan_of(), step=10)
    assert folds_of(load(folder)) == ["0"]
    steps = tuple(Step(number, 0.1, 1.0, 1e-4, 0.1, 0.0) for number in (9, 10))
    checkpoint.save(path, replace(checkpoint.load(path), taken=steps))
    refused("has not ended", folder=folder)


# ---------------------------------------------------------------- what


def test_the_weights_that_predict_are_the_averaged_ones(tmp_path):
    path = save_trained(tmp_path / "fold_0" / BEST, plan_of(), seed=0)
    found = checkpoint.load(path)
    ema = {name: value + 1 for name, value in found.weights.items()}
    checkpoint.save(path, replace(found, ema=ema))
    (network,) = load(tmp_path).model.networks
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, ema[name], rtol=0, atol=0)


def test_several_folds_answer_with_their_mean(tmp_path):
    """Of one step from the source, where the answer is the estimate."""
    folder, inputs = model_folder(tmp_path, folds=(0, 1, 2)), scans(tmp_path / "in", 1)

    def answer(name, folds):
        nndiff.predict(inputs, tmp_path / name, folder, folds=folds, device="cpu", quiet=True)
        return io.read([tmp_path / name / "case_0_0000.nii.gz"]).array

    each = [answer(fold, (fold,)) for fold in "012"]
    assert np.abs(each[0] - each[1]).max() > 0.1
    np.testing.assert_allclose(answer("together", None), np.mean(each, axis=0), atol=1e-5)
    np.testing.assert_allclose(answer("two", ("0", "2")), (each[0] + each[2]) / 2, atol=1e-5)
    assert [row["fold"] for row in read_json(tmp_path / "two" / "predict.json")["model"]] == ["0", "2"]


# ---------------------------------------------------------------- refused


def test_a_model_that_is_not_there(tmp_path):
    refused("There is no such model", str(tmp_path / "none"), "train it first", folder=tmp_path / "none")


def test_a_folder_without_a_checkpoint(tmp_path):
    (tmp_path / "fold_0").mkdir()
    refused(f"No fold of the model contains {BEST}", "no trained fold", str(tmp_path), folder=tmp_path)


def test_a_fold_that_is_not_there(tmp_path):
    folder = model_folder(tmp_path, folds=(0, 1))
    refused(f"fold_3 contains no {BEST}", "expected one of fold_0, fold_1", "-f", folder=folder, folds=["0", "3"])


def test_only_another_checkpoint_is_there_and_the_remedy_names_it(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "fold_0" / BEST).unlink()
    save_trained(folder / "fold_0" / LATEST, plan_of(), step=10)
    refused(f"found {LATEST}", f"-chk {LATEST}", folder=folder)
    refused(f"fold_0 contains no {BEST}", f"-chk {LATEST}", folder=folder, folds=["0"])
    assert folds_of(load(folder, name=LATEST)) == ["0"]


def test_only_another_checkpoint_is_in_a_folds_own_folder_and_the_remedy_names_it(tmp_path):
    save_trained(tmp_path / "fold_0" / LATEST, plan_of())
    refused(f"found {LATEST}", f"-chk {LATEST}", folder=tmp_path / "fold_0")


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": (3.0, 3.0, 3.0)},
        {"puzzle_factor": (1, 1, 1)},
        {"source_distance": 0.9},
        {"open_part": 0.9},
        {"open_curve": (((0.0, 0.3), (1.0, 2.0)),)},
        {"grain": 0.9},
        {"prediction": "residual"},
        {"process": Scheme("rectified", {})},
        "range",
        "network",
    ],
    ids=str,
)
def test_folds_of_two_plans_are_not_averaged(tmp_path, changes):
    if changes == "network":
        changes = {"network": replace(plan_of().configurations["bridge"].network, width=8)}
    plan = plan_of(**(changes if isinstance(changes, dict) else {}))
    if changes == "range":
        plan = replace(plan, target_range=((-3.0, 3.0),))
    folder = model_folder(tmp_path)
    save_trained(folder / "fold_1" / BEST, plan)
    refused("trained with different plans", str(folder / "fold_1" / BEST), "each fold separately (-f)", folder=folder)
    assert folds_of(load(folder, ["1"])) == ["1"]


def test_folds_that_only_trained_differently_are_averaged(tmp_path):
    folder = model_folder(tmp_path)
    save_trained(folder / "fold_1" / BEST, plan_of(learning_rate=1e-3, training_steps=11))
    assert folds_of(load(folder)) == ["0", "1"]


def test_a_checkpoint_of_another_configuration(tmp_path):
    folder = model_folder(tmp_path, configuration="ddpm")
    refused("another configuration", "expected bridge; found ddpm", "-c ddpm", folder=folder, configuration="bridge")
    assert load(folder, configuration="ddpm").configuration == load(folder).configuration == "ddpm"


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.999])
def test_a_checkpoint_that_is_cut_short(tmp_path, kept):
    path = save_trained(tmp_path / "fold_0" / BEST, plan_of())
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refused("is damaged or incomplete", str(path), "copy it again", folder=tmp_path)


@pytest.mark.parametrize("contents", [{"state_dict": {}}, [1], torch.zeros(3)], ids=["dict", "list", "tensor"])
def test_another_programs_checkpoint(tmp_path, contents):
    (tmp_path / "fold_0").mkdir()
    torch.save(contents, tmp_path / "fold_0" / BEST)
    refused("not a checkpoint of nndiff", str(tmp_path), folder=tmp_path)


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    path = save_trained(tmp_path / "fold_0" / BEST, plan_of())
    found = checkpoint.load(path)
    ema = {name: value[:1] if value.ndim else value for name, value in found.ema.items()}
    checkpoint.save(tmp_path / "other" / "fold_0" / BEST, replace(found, ema=ema))
    refused("weights do not fit the network", folder=tmp_path / "other")


def test_one_broken_fold_is_refused_and_the_others_predict(tmp_path):
    folder = model_folder(tmp_path, folds=(0, 1))
    (folder / "fold_1" / BEST).write_bytes(b"garbage")
    refused("is damaged or incomplete", "fold_1", folder=folder)
    shutil.rmtree(folder / "fold_1")
    assert folds_of(load(folder)) == ["0"]


def test_folds_that_start_from_different_sources_are_not_averaged(tmp_path):
    plan = plan_of(sources=("PET", "PET"))
    for fold, anchor in ((0, (0,)), (1, (1,))):
        save_trained(tmp_path / f"fold_{fold}" / BEST, replace(plan, anchor=anchor))
    refused("trained with different plans", folder=tmp_path)
