"""The flags of samplers on the command line: each takes `auto`, and refuses what it cannot read."""

from __future__ import annotations

import pytest

import nndiff
from nndiff import prediction
from nndiff.cli import predict
from nndiff.prediction import Request, Summary
from nndiff.walk.sampler import flags
from nndiff.words.errors import NndiffError
from tests.prediction.trained import model_folder, scans


@pytest.mark.parametrize("flag", [flag.name for flag in flags()])
def test_every_flag_of_a_sampler_takes_auto(flag, tmp_path, run_cli) -> None:
    outcome = run_cli(predict.main, "-i", tmp_path, "-o", tmp_path / "out", "-m", tmp_path / "no", f"--{flag}", "auto")
    assert outcome.code == 1
    assert "There is no such model" in outcome.err


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [("order", "3", "1, 2"), ("order", "two", "1, 2"), ("steps", "few", "a whole number"), ("eta", "x", "a number")],
)
def test_a_value_that_a_flag_cannot_read_is_refused_in_words(flag, value, expected, tmp_path, run_cli) -> None:
    outcome = run_cli(predict.main, "-o", tmp_path / "out", f"--{flag}", value)
    assert outcome.code == 2
    assert f"expected auto or {expected}; found {value}" in outcome.err


def test_the_help_of_part_names_every_layer_guide_and_cache(run_cli) -> None:
    out = " ".join(run_cli(predict.main, "-h").out.split())
    assert "tiles, shifts, identity, deep" in out


NAMES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (("0", "0", "1", "4"), (0, 4)),
        (("3", "0", "1", "4"), (3, 4)),
        (("10", "4", "3", "3"), (2, 3)),  # --array=4-10:3
        (("", "", "", ""), None),
        (("3", "0", "1", ""), None),
    ],
)
def test_a_task_of_a_slurm_array_takes_its_part(array, part) -> None:
    assert predict.slurm_part(dict(zip(NAMES, array, strict=True))) == part


@pytest.mark.parametrize("array", [("7", "0", "1", "3"), ("5", "4", "3", "3")])
def test_an_array_with_gaps_is_refused(array) -> None:
    with pytest.raises(NndiffError, match="not evenly numbered"):
        predict.slurm_part(dict(zip(NAMES, array, strict=True)))


@pytest.fixture
def asked(tmp_path, run_cli, monkeypatch):
    """asked(flag, …) → the request that the command makes."""
    model = model_folder(tmp_path / "model")
    scans(tmp_path / "in", 1)
    made: list[Request] = []
    monkeypatch.setattr(prediction, "predict", lambda request: made.append(request) or Summary(tmp_path / "x.json"))

    def run(*words: object) -> Request:
        outcome = run_cli(predict.main, "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model, *words)
        assert outcome.code == 0, outcome.err
        return made.pop()

    return run


def test_flags_come_before_the_array_and_a_cluster_splits_by_itself(asked, monkeypatch) -> None:
    for name, value in zip(NAMES, ("2", "0", "1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    found = [asked(), asked("-num_parts", 1), asked("-num_parts", 8, "-part_id", 5), asked("--scheduler", "tcp://a:1")]
    assert [(request.part_id, request.num_parts) for request in found] == [(2, 4), (0, 1), (5, 8), (0, 1)]
    assert found[-1].crew == nndiff.Crew(scheduler="tcp://a:1")


@pytest.mark.parametrize(("restarts", "goes_on"), [(None, False), ("0", False), ("2", True)])
def test_a_later_life_of_a_job_goes_on(restarts, goes_on, asked, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert asked().go_on is goes_on
    assert asked("--continue_prediction").go_on
