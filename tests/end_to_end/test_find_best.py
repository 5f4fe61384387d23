"""End to end: checkpoints of two configurations → predictions and figures of held-out cases → best.json → predict."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

import nndiff
from nndiff import evaluation
from nndiff.checkpoint import BEST, LATEST
from nndiff.cli import predict as predict_command
from nndiff.cli.find_best_configuration import main
from nndiff.imaging import io
from nndiff.prediction import held_out, pipeline
from nndiff.words import best, dataset
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import encode
from tests.conftest import make_phantom, make_raw_dataset, save_volume
from tests.prediction.trained import contents, plan_of, save_trained, scans
from tests.walks import changed

CASES = [f"case_{i}" for i in range(4)]
NAME = "Dataset001_Tiny"
FLAGS = ("-np", "0", "-device", "cpu")


pytestmark = pytest.mark.usefixtures("small_scales")


@pytest.fixture
def work(monkeypatch):
    """The cases that are translated and measured, in order."""
    done = []
    computed, scored = pipeline.Computation.__call__, evaluation.Scorer.__call__

    def compute(self, case, read, on_progress):
        done.append(("translate", self.trained.configuration, case.name))
        return computed(self, case, read, on_progress)

    def score(self, case):
        done.append(("measure", case.prediction[0].parent.parent.parent.name, case.name))
        return scored(self, case)

    monkeypatch.setattr(pipeline.Computation, "__call__", compute)
    monkeypatch.setattr(evaluation.Scorer, "__call__", score)
    return done


def trained(roots, configuration="bridge", fold="0", seed=0, training=("case_2", "case_3"), **words):
    path = roots.results / NAME / configuration / f"fold_{fold}" / BEST
    return save_trained(path, plan_of(configuration, **words), seed, training=training)


@pytest.fixture
def two(roots):
    """A raw dataset of four cases, two folds of bridge that hold out two each, and one fold of ddpm."""
    make_raw_dataset(roots.raw, cases=4)
    trained(roots, steps=1)
    trained(roots, fold="1", seed=1, training=("case_0", "case_1"), steps=1)
    trained(roots, "ddpm", steps=2)
    return roots.results / NAME


def test_two_configurations_are_compared_on_the_cases_that_both_held_out(two, run_cli) -> None:
    code, out, err = run_cli(main, "1", *FLAGS)
    assert code == 0, err
    found = best.load(two)
    assert list(found.cases) == ["case_0", "case_1"]
    assert found.left_out == dict.fromkeys(["case_2", "case_3"], "not held out by ddpm")
    rows = {row.configuration: row for row in found.rows}
    assert {name: [(fold.fold, fold.cases) for fold in row.folds] for name, row in rows.items()} == {
        "bridge": [("0", 2), ("1", 2)],
        "ddpm": [("0", 2)],
    }
    for name, folds in (("bridge", ("0", "1")), ("ddpm", ("0",))):
        for fold in folds:
            assert (two / name / "crossval" / f"fold_{fold}" / "metrics.csv").exists()
    assert max(map(len, out.splitlines()[:8])) <= 80
    assert f"Wrote {two / best.FILE}" in out
    assert "bridge, fold 1: 2 held-out cases" in err


def test_figures_are_those_of_the_fold_alone_on_the_files_own_grid(two, tmp_path) -> None:
    found = nndiff.find_best_configuration("1", ["bridge"], ["1"], device="cpu", workers=0)
    raw = two.parent.parent / "raw" / NAME
    alone = tmp_path / "alone"
    for case in ("case_2", "case_3"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{case}_0000.nii.gz").symlink_to(raw / "imagesTr" / f"{case}_0000.nii.gz")
    nndiff.predict(tmp_path / "in", alone, two / "bridge" / "fold_1", device="cpu", quiet=True)
    assert contents(alone) == {
        name: data for name, data in contents(two / "bridge" / "crossval" / "fold_1").items() if name.startswith("case")
    }
    errors = []
    for case in ("case_2", "case_3"):
        truth, estimate = (io.read([folder / f"{case}_0000.nii.gz"]).array for folder in (raw / "targetsTr", alone))
        errors.append(np.abs(truth - estimate).mean())
    assert found.rows[0].figures.mae == pytest.approx(np.mean(errors), rel=1e-4)


def test_a_second_run_computes_nothing_and_prints_the_same(two, run_cli, work) -> None:
    first = run_cli(main, "1", *FLAGS, "--json")
    assert first.code == 0, first.err
    assert len(work) == 2 * 6  # translations and measurements of 4 + 2 cases
    assert json.loads(first.out) == json.loads((two / best.FILE).read_text()) == encode(best.load(two))
    before = {path: path.stat().st_mtime_ns for path in two.rglob("crossval/**/*")}
    work.clear()
    second = run_cli(main, "1", *FLAGS, "--json")
    assert (second.code, second.out, work) == (0, first.out, [])
    assert {path: path.stat().st_mtime_ns for path in two.rglob("crossval/**/*")} == before


def test_a_killed_run_goes_on(two, run_cli, work, monkeypatch) -> None:
    write = pipeline.Writer.__call__

    def stop(self, case, computed):
        if case.name == "case_1":
            raise KeyboardInterrupt
        return write(self, case, computed)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.Writer, "__call__", stop)
        assert run_cli(main, "1", *FLAGS).code == 130
    assert not (two / best.FILE).exists()
    work.clear()
    assert run_cli(main, "1", *FLAGS).code == 0
    assert ("translate", "bridge", "case_0") not in work
    assert work.count(("translate", "bridge", "case_1")) == 1


def test_what_changed_is_computed_again_and_nothing_else(two, roots, run_cli, work) -> None:
    def again():
        work.clear()
        outcome = run_cli(main, "1", *FLAGS)
        assert outcome.code == 0, outcome.err
        return set(work)

    again()
    trained(roots, "ddpm", seed=5, steps=2)
    assert again() == {(what, "ddpm", case) for what in ("translate", "measure") for case in ("case_0", "case_1")}
    target = roots.raw / NAME / "targetsTr" / "case_3_0000.nii.gz"
    newer(target, two)
    assert again() == {("measure", "bridge", case) for case in ("case_2", "case_3")}
    source = roots.raw / NAME / "imagesTr" / "case_0_0000.nii.gz"
    save_volume(source, make_phantom(77, noise=0.2))
    newer(source, two)
    assert {what for what in again() if what[0] == "translate"} == {
        ("translate", name, "case_0") for name in ("bridge", "ddpm")
    }


def newer(path, folder):
    """Set the time of a file just above those of all files in the folder, but below those of files to come."""
    now = max(other.stat().st_mtime_ns for other in folder.rglob("*"))
    os.utime(path, ns=(now + 1, now + 1))


def test_a_tuned_sampler_that_changed_is_measured_again(two, run_cli, work, monkeypatch) -> None:
    assert run_cli(main, "1", *FLAGS, "-c", "bridge").code == 0
    work.clear()
    load = held_out.inference.load

    def tuned(folder, name, planned, weights):
        found = load(folder, name, planned, weights)
        assert found is None
        return SimpleNamespace(sampler=changed(planned, steps=2), dial=(), drawn=None)

    monkeypatch.setattr(held_out.inference, "load", tuned)
    assert run_cli(main, "1", *FLAGS, "-c", "bridge").code == 0
    assert {case for what, _, case in work if what == "translate"} == set(CASES)


def test_a_dataset_in_place_with_masks_and_patients(roots, run_cli) -> None:
    groups = {"case_0": "anna", "case_1": "anna", "case_2": "bert", "case_3": "anna"}
    make_raw_dataset(roots.raw, cases=5, in_place=True, masks=True, groups=groups)
    trained(roots, training=("case_2",), steps=1)
    trained(roots, "ddpm", training=("case_3",), steps=1)  # has seen anna, so holds out bert and case_4
    assert run_cli(main, "1", *FLAGS).code == 0
    found = best.load(roots.results / NAME)
    assert found.cases == {"case_4": "case_4"}
    assert found.left_out == {
        **dict.fromkeys(["case_0", "case_1", "case_3"], "not held out by ddpm"),
        "case_2": "not held out by bridge",
    }
    summary = json.loads((roots.results / NAME / "ddpm" / "crossval" / "fold_0" / "summary.json").read_text())
    assert summary["cases"] == 2
    raw = roots.raw / NAME
    (case,) = (case for case in dataset.read(raw).cases if case.name == "case_4")
    mask = io.read([case.mask]).array > 0.5
    for row in found.rows:
        estimate = io.read([roots.results / NAME / row.configuration / "crossval/fold_0/case_4_0000.nii.gz"]).array
        assert row.figures.mae == pytest.approx(np.abs(estimate - io.read(case.target).array)[mask].mean(), rel=1e-4)


def test_a_case_that_fails_is_left_out_with_its_reason(two, roots, run_cli) -> None:
    (roots.raw / NAME / "imagesTr" / "case_0_0000.nii.gz").write_bytes(b"no image")
    outcome = run_cli(main, "1", *FLAGS)
    assert outcome.code == 0, outcome.err
    found = best.load(two)
    assert list(found.cases) == ["case_1"]
    assert found.left_out["case_0"].startswith("failed in ")
    assert "Predict: 1 of 2 cases failed" in outcome.err


# ---------------------------------------------------------------- which folds


def test_unfinished_folds_and_those_without_held_out_cases_are_left_out_in_words(two, roots, run_cli) -> None:
    unfinished = two / "bridge" / "fold_1"
    (unfinished / BEST).rename(unfinished / "moved")
    trained(roots, fold="1", seed=1, training=("case_0",), steps=1)
    (unfinished / LATEST).write_bytes((unfinished / BEST).read_bytes())  # step 7 of 10
    trained(roots, fold="2", training=CASES, steps=1)
    trained(roots, "prdit", fold="all", training=CASES)
    outcome = run_cli(main, "1", *FLAGS)
    assert outcome.code == 0, outcome.err
    assert "training of fold_1 has not ended" in outcome.err
    assert "bridge, fold 2: 0 held-out cases, so it is left out" in outcome.err
    assert "prdit is left out. The folds of this configuration have trained on every case" in outcome.err
    assert [row.configuration for row in best.load(two).rows if len(row.folds) != 1] == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-c", "bridg"), ("'bridg' has not been trained", "did you mean 'bridge'?")),
        (("-c", "ddpm", "-f", "1"), ("fold_1 contains no", "train this fold first")),
        (("-f", "7"), ("No configuration has a fold that can be compared",)),
        (("-f", "1", "-c", "bridge", "ddpm"), ("fold_1 contains no",)),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(flags, words, two, run_cli) -> None:
    code, _, err = run_cli(main, "1", *flags, *FLAGS)
    assert code == 1
    for word in words:
        assert word in err
    assert not (two / best.FILE).exists()


def test_without_a_trained_configuration(roots, run_cli) -> None:
    make_raw_dataset(roots.raw, cases=2)
    code, _, err = run_cli(main, "1", *FLAGS)
    assert code == 1
    assert "No configuration is trained" in err


def test_configurations_that_generate_are_refused_with_the_other_command(roots, run_cli) -> None:
    make_raw_dataset(roots.raw, cases=2, sources=())
    code, _, err = run_cli(main, "1", *FLAGS)
    assert code == 1
    assert "nndiff_evaluate_generation" in err


# ---------------------------------------------------------------- -c best


@pytest.fixture
def predict(tmp_path, run_cli):
    scans(tmp_path / "in", 1)

    def run(name, *flags):
        return run_cli(
            predict_command.main, "-i", tmp_path / "in", "-o", tmp_path / name, "-d", "1", *flags, "-device", "cpu"
        )

    return run


def test_best_predicts_the_bytes_of_the_configuration_that_was_chosen(two, tmp_path, run_cli, predict) -> None:
    assert run_cli(main, "1", *FLAGS).code == 0
    chosen = best.load(two).configuration
    for name, flags in (("a", ("-c", "best")), ("b", ("-c", chosen))):
        outcome = predict(name, *flags)
        assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != {}


def test_best_uses_the_folds_that_were_compared(two, tmp_path, run_cli, predict) -> None:
    assert run_cli(main, "1", *FLAGS, "-c", "bridge", "-f", "1").code == 0
    assert "Fold 1, step 7 of 10" in predict("a", "-c", "best").err
    assert "Averaging folds 0, 1, steps 7, 7 of 10" in predict("b", "-c", "bridge").err
    assert "Fold 0, step 7 of 10" in predict("c", "-c", "best", "-f", "0").err


def test_best_is_refused_once_the_checkpoint_has_changed(two, roots, tmp_path, run_cli, predict) -> None:
    assert run_cli(main, "1", *FLAGS, "-c", "bridge").code == 0
    trained(roots, fold="1", seed=9, training=("case_0",), steps=1)
    outcome = predict("a", "-c", "best")
    assert outcome.code == 1
    assert "The checkpoint of fold 1 has changed" in outcome.err
    assert "pass -c bridge instead" in outcome.err
    assert not (tmp_path / "a").exists()


def test_best_without_a_comparison_names_the_command(two, predict) -> None:
    outcome = predict("a", "-c", "best")
    assert outcome.code == 1
    assert "best.json is missing" in outcome.err
    assert "nndiff_find_best_configuration" in outcome.err


def test_a_named_fold_that_trained_on_everything_is_refused(roots) -> None:
    make_raw_dataset(roots.raw, cases=2)
    trained(roots, fold="all", training=("case_0", "case_1"))
    with pytest.raises(NndiffError, match="trained on every case"):
        nndiff.find_best_configuration("1", ["bridge"], device="cpu", workers=0)
