"""The lives of a job. Schedulers begin a program again, with the same words, when its machine died or was taken away.

    Slurm: a requeued job          torchrun: processes that are started again because one of them died

In a later life a command goes on where the earlier one ended, and what the job owned is still its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLES = (
    ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
    ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
)
MOST = 10**6  # lives of a torchrun in one life of its job


@dataclass(frozen=True)
class Life:
    """One life of a job; without a scheduler there is no job, and one life."""

    job: str = ""
    number: int = 0

    @property
    def later(self) -> bool:
        return self.number > 0


def life(variables: Mapping[str, str] | None = None) -> Life:
    """Return which job this program belongs to, and in which of its lives it is: each is a number, from 0.

    A torchrun inside a Slurm job counts its lives anew in each of the job's.
    """
    known = os.environ if variables is None else variables
    jobs, number = [], 0
    for name, count in VARIABLES:
        if known.get(name, ""):
            jobs.append(f"{name}={known[name]}")
            restarts = known.get(count, "")
            number = MOST * number + (int(restarts) if restarts.isdecimal() else 0)
    return Life(" ".join(jobs), number)
