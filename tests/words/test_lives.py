"""Lives of a job, as schedulers tell them."""

from __future__ import annotations

import pytest

from nndiff.words.lives import MOST, Life, life

SLURM, RUN = {"SLURM_JOB_ID": "7"}, {"TORCHELASTIC_RUN_ID": "a"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Life()),
        ({"SLURM_RESTART_COUNT": "2"}, Life()),
        (SLURM, Life("SLURM_JOB_ID=7", 0)),
        (SLURM | {"SLURM_RESTART_COUNT": "2"}, Life("SLURM_JOB_ID=7", 2)),
        (RUN | {"TORCHELASTIC_RESTART_COUNT": "1"}, Life("TORCHELASTIC_RUN_ID=a", 1)),
        (
            RUN | {"TORCHELASTIC_RESTART_COUNT": "1"} | SLURM | {"SLURM_RESTART_COUNT": "2"},
            Life("SLURM_JOB_ID=7 TORCHELASTIC_RUN_ID=a", 2 * MOST + 1),
        ),
        (SLURM | {"SLURM_RESTART_COUNT": "x"}, Life("SLURM_JOB_ID=7", 0)),
    ],
)
def test_a_job_and_its_life(variables, expected) -> None:
    assert life(variables) == expected
    assert expected.later == (expected.number > 0)


def test_without_words_the_environment_tells(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "4")
    assert life() == Life("SLURM_JOB_ID=9", 4)


def test_a_later_life_of_the_job_is_later_than_all_of_its_torchrun() -> None:
    before = life(SLURM | RUN | {"TORCHELASTIC_RESTART_COUNT": "9"})
    after = life(SLURM | RUN | {"SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": "0"})
    assert before.job == after.job
    assert before.number < after.number
