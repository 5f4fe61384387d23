"""The scripts of jobs: what they ask for and run, what happens in them at every exit code, and what is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nndiff.cli import submit
from nndiff.resources import slurm
from nndiff.resources.slurm import Job
from nndiff.words.stopping import REQUEUE
from tests.training.tiny import NAME, prepare, tiny_plan


@pytest.fixture
def scripts(tmp_path, roots, run_cli):
    """scripts(word, …) → the scripts that a dry run prints, by step."""
    prepare(tmp_path, tiny_plan())
    for side in ("imagesTs", "targetsTs"):
        (roots.raw / NAME / side).mkdir(parents=True)

    def run(*words: object) -> dict[str, str]:
        outcome = run_cli(submit.main, 1, "bridge", *words, "--dry-run")
        assert outcome.code == 0, outcome.err
        texts = ["#!/bin/bash" + text for text in outcome.out.split("#!/bin/bash")[1:]]
        return {text.partition("--job-name=nndiff_001_bridge_")[2].partition("\n")[0]: text for text in texts}

    return run


def flags(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def commands(text: str) -> list[str]:
    return [line.removeprefix("run ") for line in text.splitlines() if line.startswith("run ")]


def test_a_chain_of_all_steps_each_after_the_one_before(scripts, roots) -> None:
    found = scripts("0-4", "--steps", *submit.STEPS, "--time", "8h", "--parts", 3, "--account", "us")
    assert list(found) == list(submit.STEPS)
    after = [flags(text).get("dependency") for text in found.values()]
    assert after == [None, *(f"afterok:NUMBER_OF_{step.upper()}" for step in submit.STEPS[:-1])]
    assert {step: flags(text).get("array") for step, text in found.items()} == {
        "plan": None,
        "train": "0-4",
        "tune": "0-4",
        "predict": "0-2",
        "evaluate": None,
    }
    out, raw = roots.results / NAME / "bridge" / "predicted", roots.raw / NAME
    assert [line for text in found.values() for line in commands(text)] == [
        "nndiff_plan_and_preprocess -d 1 -c bridge",
        'nndiff_train 1 bridge "$SLURM_ARRAY_TASK_ID" --no_tune',
        'nndiff_tune 1 bridge "$SLURM_ARRAY_TASK_ID"',
        f"nndiff_predict -i {raw}/imagesTs -o {out} -d 1 -c bridge -f 0 1 2 3 4 --disable_progress_bar",
        f"nndiff_evaluate {raw}/targetsTs {out} -i {raw}/imagesTs -o {out}",
    ]
    for step, text in found.items():
        asked = flags(text)
        assert (asked["time"], asked["account"], asked["cpus-per-task"]) == ("480", "us", "8")
        assert asked.get("gpus-per-node") == (None if step == "evaluate" else "1")
        assert f"export nndiff_results={roots.results}" in text
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize(("folds", "array", "fold"), [("2", None, "2"), ("all", None, "all"), ("0,3", "0,3", "$")])
def test_one_fold_is_no_array(folds, array, fold, scripts) -> None:
    (text,) = scripts(folds).values()
    assert flags(text).get("array") == array
    assert commands(text)[0].startswith(f"nndiff_train 1 bridge {fold}" if fold != "$" else "nndiff_train 1 bridge")


@pytest.mark.parametrize(("folds", "listed"), [("all", "all"), ("2", "2"), ("0-2,4", "0 1 2 4"), ("7,3-3", "7 3")])
def test_a_prediction_averages_the_folds_of_its_chain(folds, listed, scripts) -> None:
    text = scripts(folds, "--steps", "predict")["predict"]
    assert f" -f {listed} --disable" in commands(text)[0]


def test_gpus_and_nodes_train_one_fold_together(scripts) -> None:
    (text,) = scripts("0", "--gpus", 4, "--nodes", 2, "--cpus", 32, "--with=--seed 3 --set batch_size=1").values()
    asked = flags(text)
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"], asked["cpus-per-task"]) == (
        "2",
        "4",
        "4",
        "8",
    )
    assert commands(text) == ['bash -c "$as_rank" - nndiff_train 1 bridge 0 --seed 3 --set batch_size=1']
    assert "export WORLD_SIZE=$SLURM_NTASKS" in text
    assert "export WORLD_SIZE" in scripts("0", "--gpus", 2)["train"]
    assert "WORLD_SIZE" not in scripts("0")["train"]


def test_flags_of_sbatch_and_lines_of_the_user_are_passed_on(scripts) -> None:
    (text,) = scripts("0", "--sbatch", "qos=low", "exclusive", "--before", "module load cuda").values()
    assert (flags(text)["qos"], flags(text)["exclusive"]) == ("low", "")
    assert text.index("module load cuda") < text.index("\nrun nndiff")


RUNS = """
srun() {{ while [ "$1" != "${{1#--}}" ]; do shift; done; "$@"; }}
scontrol() {{ echo "scontrol $*"; }}
SLURM_JOB_ID=7 SLURM_CPUS_PER_TASK=1
{body}
echo ended
"""


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ((0, 0), 0, ["1", "2", "ended"]),
        ((REQUEUE, 0), REQUEUE, ["1", "scontrol requeue 7"]),
        ((1, 0), 1, ["1"]),
        ((0, 130), 130, ["1", "2"]),
    ],
)
def test_what_a_script_does_at_every_exit_code(codes, code, said) -> None:
    commands = tuple(f"bash -c 'echo {i}; exit {code}'" for i, code in enumerate(codes, 1))
    body = slurm.script(Job("job", commands), [], Path("logs"))
    done = subprocess.run(["bash"], input=RUNS.format(body=body), capture_output=True, text=True)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (code, said)


def test_each_task_of_a_step_has_its_rank() -> None:
    body = slurm.script(Job("job", ("printenv RANK LOCAL_RANK WORLD_SIZE MASTER_PORT",), together=True), [], Path("l"))
    told = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    done = subprocess.run(
        ["bash"],
        input=RUNS.format(body=body).replace("SLURM_JOB_ID=7", "export SLURM_JOB_ID=7"),
        capture_output=True,
        text=True,
        env=os.environ | told,
    )
    assert done.stdout.split() == ["3", "1", "4", "20007", "ended"], done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x",), "These are no folds"),
        (("0", "--gpus", "-1"), "--gpus is too small"),
        (("0", "--parts", "0"), "--parts is too small"),
        (("0", "--time", "9m"), "--time is too short"),
    ],
)
def test_what_would_fail_only_in_a_job_is_refused(words, message, tmp_path, roots, run_cli) -> None:
    prepare(tmp_path, tiny_plan())
    outcome = run_cli(submit.main, 1, "bridge", *words, "--dry-run")
    assert outcome.code == 1
    assert message in outcome.err


def test_a_dataset_without_a_plan_or_held_out_scans_is_refused(tmp_path, roots, run_cli) -> None:
    (roots.preprocessed / NAME).mkdir(parents=True)
    assert "add the step plan" in run_cli(submit.main, 1, "bridge", 0, "--dry-run").err
    assert run_cli(submit.main, 1, "bridge", 0, "--steps", "plan", "train", "--dry-run").code == 0
    outcome = run_cli(submit.main, 1, "bridge", 0, "--steps", "plan", "train", "predict", "--dry-run")
    assert "no folder imagesTs" in outcome.err


def test_without_slurm_the_dry_run_is_named(tmp_path, roots, run_cli, monkeypatch) -> None:
    prepare(tmp_path, tiny_plan())
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run_cli(submit.main, 1, "bridge", 0)
    assert outcome.code == 1
    assert "--dry-run" in outcome.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("0-9",), 1, "There is no fold 5."),
        (("0,7",), 1, "There is no fold 7."),
        (("0", "--with=--val"), 2, "does not have nnU-Net's flag -val"),
        (("0", "--with=--sed 1"), 2, "unknown flag --sed: did you mean '--seed'?"),
        (("0", "--with=more"), 2, "too many values: more"),
    ],
)
def test_what_would_fail_only_in_a_job_is_refused_before(scripts, roots, run_cli, words, code, said) -> None:
    assert set(scripts("0-4", "--with=--seed 1")) == {"train"}
    assert scripts("all", "--steps", "plan", "train")  # how many folds there will be is not known
    outcome = run_cli(submit.main, 1, "bridge", *words, "--dry-run")
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert not (roots.preprocessed / NAME / "splits.json").exists(), "a dry run writes nothing"
