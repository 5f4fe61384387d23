"""Every stage that works on cases gives on a Dask cluster the bytes that it gives on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import nndiff
from nndiff.cli import evaluate, extract_fingerprint, plan_and_preprocess, predict, preprocess
from nndiff.resources import cluster
from nndiff.words.crew import Crew
from nndiff.words.errors import NndiffError
from tests.conftest import make_raw_dataset
from tests.dask_here import two_workers
from tests.prediction.trained import contents, model_folder, scans

RANDOM = {"steps": 2, "eta": 1.0, "quiet": True, "device": "cpu"}


@pytest.fixture(scope="module")
def crew():
    with two_workers() as here:
        yield here


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_dataset_is_planned_and_prepared_as_here(tmp_path, roots, run_cli, crew) -> None:
    make_raw_dataset(roots.raw, cases=3)
    here, there, elsewhere = tmp_path / "here", tmp_path / "there", ("--scheduler", crew.scheduler)
    for main, *words in (
        (plan_and_preprocess.main, "-c", "bridge", "--preprocessed", here, "-np", 0),
        (extract_fingerprint.main, "--preprocessed", there, *elsewhere),
        (preprocess.main, "--preprocessed", there, *elsewhere),
    ):
        if main == preprocess.main:
            shutil.copy(here / "Dataset001_Tiny" / "plan.json", there / "Dataset001_Tiny")
        outcome = run_cli(main, "-d", 1, *words)
        assert outcome.code == 0, outcome.err
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_a_folder_is_translated_and_measured_as_here(tmp_path, run_cli, trained, crew) -> None:
    scans(tmp_path / "in", 10)
    nndiff.predict(tmp_path / "in", tmp_path / "here", trained, **RANDOM)
    outcome = run_cli(
        predict.main,
        *("-i", tmp_path / "in", "-o", tmp_path / "there", "-m", trained, "--steps", 2, "--eta", 1),
        *("--device", "cpu", "--scheduler", crew.scheduler),
    )
    assert outcome.code == 0, outcome.err
    assert "10 volumes written" in outcome.out
    assert "predict_part_*_of_8.json" in outcome.out
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    tables = []
    for name, flags in (("one", ["-np", 0]), ("two", ["--scheduler", crew.scheduler])):
        measured = run_cli(evaluate.main, tmp_path / "here", tmp_path / "there", "-o", tmp_path / name, *flags)
        assert measured.code == 0, measured.err
        tables.append((tmp_path / name / "metrics.csv").read_bytes())
    assert tables[0] == tables[1]


def test_a_part_whose_worker_dies_begins_again(tmp_path, trained, crew) -> None:
    scans(tmp_path / "in", 4)
    nndiff.predict(tmp_path / "in", tmp_path / "here", trained, **RANDOM)
    killed = threading.Thread(target=kill_a_worker_at_the_first_output, args=(tmp_path / "there", crew))
    killed.start()
    summary = nndiff.predict(tmp_path / "in", tmp_path / "there", trained, crew=crew, **RANDOM)
    killed.join()
    assert sorted(summary.done) == [f"case_{i}" for i in range(4)]
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    again = nndiff.predict(tmp_path / "in", tmp_path / "there", trained, crew=crew, go_on=True, **RANDOM)
    assert (again.done, sorted(again.skipped)) == ([], sorted(summary.done))


def kill_a_worker_at_the_first_output(folder: Path, crew: Crew) -> None:
    workers: dict[str, int] = cluster.connected(crew, 1).run(os.getpid)
    while not list(folder.glob("*.nii.gz")):
        time.sleep(0.01)
    os.kill(next(iter(workers.values())), signal.SIGKILL)


def test_a_bad_scan_fails_alone_and_a_bad_request_is_refused_once(tmp_path, trained, crew) -> None:
    scans(tmp_path / "in", 3)
    (tmp_path / "in" / "bad_0000.nii.gz").write_text("no image")
    with pytest.raises(NndiffError, match=r"1 of 4 cases failed; the others are done\.\n  bad: "):
        nndiff.predict(tmp_path / "in", tmp_path / "out", trained, crew=crew, **RANDOM)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3
    refused: list[tuple[dict[str, Any], str]] = [
        ({"crew": crew, "num_parts": 2}, "splits the folder into parts itself"),
        ({"crew": Crew(2)}, "-np counts the parts"),
        ({"crew": crew, "checkpoint": "none.pt"}, "none.pt"),
    ]
    for words, message in refused:
        with pytest.raises(NndiffError, match=message):
            nndiff.predict(tmp_path / "in", tmp_path / "out", trained, **RANDOM, **words)
