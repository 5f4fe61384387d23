"""Jobs in a real Slurm: submitted, preempted, told to stop, begun again, and finished as if nothing had happened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import LATEST
from nndiff.cli import submit
from tests.conftest import make_raw_dataset
from tests.slurm.conftest import state, told, until
from tests.training.tiny import NAME, prepare, tiny_plan

LONG = 60  # steps of a training that is disturbed


def submitted(run_cli, *words: object) -> list[str]:
    outcome = run_cli(submit.main, 1, "bridge", *words, "--gpus", 0, "--cpus", 1)
    assert outcome.code == 0, outcome.err
    return re.findall(r"job (\d+)", outcome.out)


def succeeded(job: str) -> bool:
    found = state(job)
    assert found not in ("FAILED", "CANCELLED", "NODE_FAIL"), told("scontrol", "show", "job", job)
    return found == "COMPLETED"


def lives(job: str) -> int:
    return int(told("scontrol", "show", "job", job, "--oneliner").partition("Restarts=")[2].partition(" ")[0])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the weights that a training has that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(folder, tiny_plan(training_steps=LONG))
    words = ["1", "bridge", "all", "--no_tune", "--results", folder, "--preprocessed", folder / "preprocessed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "nndiff.cli.train", *words], check=True, env=environment)
    return checkpoint.load(folder / NAME / "bridge" / "fold_all" / LATEST).weights


@pytest.mark.parametrize("how", ["preempted", "told"])
def test_a_fold_that_is_disturbed_ends_as_one_that_is_not(how, slurm, tmp_path, roots, run_cli, undisturbed) -> None:
    prepare(tmp_path, tiny_plan(training_steps=LONG))
    (job,) = submitted(run_cli, "all", "--with=--no_tune", "--before", "export OMP_NUM_THREADS=1")
    fold, logs = roots.results / NAME / "bridge" / "fold_all", roots.results / NAME / "slurm"
    until(lambda: (fold / "log.txt").exists() and "step " in (fold / "log.txt").read_text(), "a first epoch")
    if how == "preempted":
        other = told("sbatch", "--parsable", "-p", "high", "-c", 2, "-o", tmp_path / "other.log", "--wrap", "sleep 1")
        until(lambda: succeeded(other), "the other job")
    else:
        told("scancel", "--signal=TERM", job)  # as before its time ends
    until(lambda: lives(job) == 1 and state(job) == "PENDING", "a second life")
    time.sleep(5)  # for what is left of the first one
    told("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm waits for two minutes
    until(lambda: succeeded(job), "the training")
    assert lives(job) == 1
    log = (logs / f"nndiff_001_bridge_train_{job}.log").read_text()
    assert "Stopped by SIGTERM. Finished work is kept." in log
    assert "Traceback" not in log
    found = checkpoint.load(fold / LATEST)
    assert found.step == LONG
    for name, value in undisturbed.items():
        assert torch.equal(value, found.weights[name]), name


def test_two_processes_train_one_fold(slurm, tmp_path, roots, run_cli, undisturbed) -> None:
    """Each computes one of the two samples of a step."""
    prepare(tmp_path, tiny_plan(training_steps=LONG, batch_size=1, accumulate=2))
    words = ("--nodes", 1, "--gpus", 2, "--sbatch", "gpus-per-node=0")  # there are none; the processes remain
    before = ("--before", "export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=")
    outcome = run_cli(submit.main, 1, "bridge", "all", "--cpus", 2, "--with=--no_tune", *words, *before)
    assert outcome.code == 0, outcome.err
    (job,) = re.findall(r"job (\d+)", outcome.out)
    until(lambda: succeeded(job), "the training")
    found = checkpoint.load(roots.results / NAME / "bridge" / "fold_all" / LATEST)
    assert (found.step, found.run.samples_a_step) == (LONG, 2)
    for name, value in undisturbed.items():
        torch.testing.assert_close(value, found.weights[name], rtol=1e-2, atol=1e-2)


SHORT = "--with=--no_tune --set training_steps=3 network.width=8"


def test_from_a_dataset_to_its_figures(slurm, tmp_path, roots, run_cli) -> None:
    raw = make_raw_dataset(roots.raw, cases=4)
    for side in ("images", "targets"):
        (raw / f"{side}Ts").mkdir()
        for scan in sorted((raw / f"{side}Tr").iterdir())[:2]:
            (raw / f"{side}Ts" / scan.name).write_bytes(scan.read_bytes())
    steps = ("plan", "train", "predict", "evaluate")
    jobs = submitted(run_cli, "0-1", "--steps", *steps, SHORT, "--parts", 2, "--time", "1h")
    logs = roots.results / raw.name / "slurm"
    for step, job in zip(steps, dict.fromkeys(jobs), strict=True):
        until(lambda job=job: all(succeeded(task) for task in tasks(job)), f"{step}\n{text_of(logs)}")
    predicted = roots.results / raw.name / "bridge" / "predicted"
    assert sorted(path.name for path in predicted.glob("*.nii.gz")) == ["case_0_0000.nii.gz", "case_1_0000.nii.gz"]
    assert len(list(predicted.glob("predict_part_*_of_2.json"))) == 2
    assert (predicted / "metrics.csv").exists()
    assert {path.name for path in logs.glob("*.sh")} == {f"nndiff_001_bridge_{step}.sh" for step in steps}


def test_dask_starts_workers_in_slurm(slurm, tmp_path, roots, run_cli) -> None:
    prepared = roots.preprocessed / NAME
    make_raw_dataset(roots.raw, cases=3)
    words = ("-d", 1, "--preprocessed")
    for folder, flags in ((tmp_path / "here", ["-np", 0]), (roots.preprocessed, ["--cluster", "slurm", "-np", 2])):
        command = [sys.executable, "-m", "nndiff.cli.extract_fingerprint", *words, folder, *flags]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (prepared / "fingerprint.json").read_bytes() == (tmp_path / "here" / NAME / "fingerprint.json").read_bytes()
    assert "Waiting for workers in slurm" in done.stderr
    assert "Traceback" not in done.stderr
    until(lambda: not told("squeue", "-h", "--name=dask-worker"), "the end of the workers")


def tasks(job: str) -> list[str]:
    """Return the tasks of an array, or the job itself."""
    lines = told("scontrol", "show", "job", job, "--oneliner").splitlines()
    return [line.partition("JobId=")[2].partition(" ")[0] for line in lines]


def text_of(logs: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(logs.glob("*.log")))


def test_what_slurm_refuses_is_said_in_words(slurm, tmp_path, roots, run_cli) -> None:
    prepare(tmp_path, tiny_plan())
    outcome = run_cli(submit.main, 1, "bridge", 0, "--gpus", 0, "--partition", "none")
    assert outcome.code == 1
    assert "Slurm has refused the job" in outcome.err
    assert "invalid partition" in outcome.err
    assert "Traceback" not in outcome.err


def test_after_a_job_that_fails_those_that_wait_for_it_are_not_run(slurm, tmp_path, roots, run_cli) -> None:
    raw = make_raw_dataset(roots.raw, cases=2)
    (raw / "imagesTr" / "case_0_0000.nii.gz").write_text("no image")
    first, second = submitted(run_cli, "0", "--steps", "plan", "train")[:2]
    until(lambda: state(first) == "FAILED", "the plan")
    gone = subprocess.run(["scontrol", "show", "job", second], capture_output=True, text=True).stdout
    until(lambda: "CANCELLED" in told("scontrol", "show", "job", second), gone)
