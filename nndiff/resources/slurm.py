"""Jobs of Slurm: the script of each, and their submission as a chain.

A script is a plain one, to be read and changed. Its commands are steps of the job, so Slurm tells them two minutes
before its time ends, or when it is preempted: the command saves what it has, and its exit code says that it can go on.
Slurm then begins the job again, in whose later life the command goes on (words/lives.py). Several processes of one
command are tasks of the step, each with the variables by which torchrun would tell it its rank. Nothing here decides
when or where a job runs.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nndiff.words.errors import NndiffError
from nndiff.words.stopping import REQUEUE

WARNING = 120  # seconds between the signal and the end of a job's time
RUN = f"""\
# Told to stop, by the time limit or by preemption, a command saves what it has and ends with {REQUEUE}.
run() {{
    srun --kill-on-bad-exit=1 "$@"
    code=$?
    if [ $code = {REQUEUE} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    if [ $code != 0 ]; then exit $code; fi
}}
"""
# Each task of a step is one process of a training, as if torchrun had started it.
TOGETHER = """\
export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
as_rank='RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"'
"""


@dataclass(frozen=True)
class Job:
    """One job, or an array of them; `commands` may hold $SLURM_ARRAY_TASK_ID."""

    name: str
    commands: tuple[str, ...]
    resources: Mapping[str, str] = field(default_factory=dict)  # flag of sbatch → value; '' for one without value
    array: str = ""  # numbers of its tasks, such as 0-4
    together: bool = False  # whether the tasks of a step are the processes of one training

    def flags(self, logs: Path, after: str) -> dict[str, str]:
        which = "%A_%a" if self.array else "%j"
        own = {
            "job-name": self.name,
            "output": f"{logs}/%x_{which}.log",
            "open-mode": "append",
            "requeue": "",
            "signal": f"TERM@{WARNING}",
        }
        if self.array:
            own["array"] = self.array
        if after:
            own |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
        return own | dict(self.resources)


def script(job: Job, place: Sequence[str], logs: Path, after: str = "") -> str:
    """Return the script of a job that begins when the job `after` has succeeded; `place` are lines before its work."""
    flags = [f"#SBATCH --{name}{f'={value}' if value else ''}" for name, value in job.flags(logs, after).items()]
    cores = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]  # steps have had cores of their own since Slurm 22.05
    start, ranks = ('run bash -c "$as_rank" - ', [TOGETHER]) if job.together else ("run ", [])
    work = [start + command for command in job.commands]
    return "\n".join(["#!/bin/bash", *flags, "", *place, *cores, "", *ranks, RUN, *work, ""])


def submit(jobs: Sequence[Job], place: Sequence[str], logs: Path) -> list[str]:
    """Submit a chain of jobs, each after the one before, and return their numbers."""
    logs.mkdir(parents=True, exist_ok=True)
    numbers: list[str] = []
    for job in jobs:
        text = script(job, place, logs, numbers[-1] if numbers else "")
        (logs / f"{job.name}.sh").write_text(text, encoding="utf-8")
        numbers.append(_submitted(text))
    return numbers


def _submitted(text: str) -> str:
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise NndiffError(
            "Slurm is not installed on this machine: there is no command sbatch.",
            remedy="run this on a machine that submits jobs, or write the scripts to a file with --dry-run",
        ) from None
    if done.returncode:
        raise NndiffError(
            "Slurm has refused the job.",
            found=done.stderr.strip(),
            remedy="correct --partition, --account, --time, --gpus, --cpus or --memory, or pass what is missing with "
            "--sbatch",
        )
    return done.stdout.strip().partition(";")[0]


def exports(variables: Mapping[str, object], folders: Sequence[Path]) -> list[str]:
    """Return lines that set variables, and put folders before the others where programs are looked for."""
    path = [f"export PATH={shlex.quote(':'.join(map(str, folders)))}:$PATH"] if folders else []
    return path + [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
