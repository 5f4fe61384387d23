"""Tests of a Dask cluster as a crew: its outcomes are those of this machine, and what dies or is missing ends in words.

The cluster is real: a scheduler and two workers, each a process with a nanny that starts it again.
"""

import os
import time
from pathlib import Path

import pytest

from nndiff.resources import cluster
from nndiff.resources.workers import run
from nndiff.words.crew import Crew, crew_of
from nndiff.words.errors import NndiffError
from nndiff.words.version import VERSION
from tests.dask_here import two_workers
from tests.resources.test_workers import CASES, crash_on_two, fail_on_two, hang_on_two, square

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'nndiff[cluster]'")


@pytest.fixture(scope="module")
def here():
    with two_workers() as crew:
        yield crew


def outcomes(function, crew, cases=CASES):
    return {case.name: outcome for case, outcome in run(function, cases, crew, 1, "Test")}


def where_it_runs(case):
    return os.getpid()


def folder(case):
    return Path("here").resolve()


def test_a_cluster_gives_what_this_machine_gives(here):
    assert outcomes(square, here) == outcomes(square, 0)
    assert outcomes(square, here, []) == {}
    assert os.getpid() not in outcomes(where_it_runs, here).values()


def test_a_relative_path_means_the_same_there(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(outcomes(folder, here).values()) == {tmp_path / "here"}


def test_a_folder_that_workers_do_not_see_is_told(here, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(Path, "cwd", lambda: gone)
    found = outcomes(square, here)
    assert all("does not see the folder" in failure.message for failure in found.values()), found


def in_words(found):
    return {name: getattr(outcome, "message", outcome) for name, outcome in found.items()}


def test_the_others_go_on_past_a_bad_case_there(here):
    assert in_words(outcomes(fail_on_two, here)) == in_words(outcomes(fail_on_two, 0))


def test_a_case_that_kills_its_workers_fails_and_the_others_go_on(here):
    found = outcomes(crash_on_two, here)
    failure = found.pop("case_2")
    assert "every worker that began it died" in failure.message
    assert found == {case.name: case.number for case in CASES if case.number != 2}


def test_of_several_suspects_each_is_tried_alone(here, monkeypatch):
    """Dask blames a case that waits behind one that kills."""
    blamed = {"case_1", "case_2"}
    tried = []

    def outcome(crew, case, future):
        tried.append(case.name)
        guilty = case.name == "case_2" or tried.count(case.name) == 1
        return cluster.KILLED if case.name in blamed and guilty else future.result()

    monkeypatch.setattr(cluster, "_outcome", outcome)
    found = outcomes(square, here)
    assert "died" in found.pop("case_2").message
    assert found == {case.name: case.number**2 for case in CASES if case.number != 2}
    assert sorted(tried[-2:]) == ["case_1", "case_2"]


def test_a_silent_worker_ends_itself(here, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    found = outcomes(hang_on_two, here)
    assert "died" in found.pop("case_2").message
    assert found == {case.name: case.number for case in CASES if case.number != 2}


def times(case):
    begun = time.time()
    time.sleep(0.3)
    return begun, time.time()


def most_at_a_time(found):
    return max(sum(begun <= moment < ended for begun, ended in found.values()) for moment, _ in found.values())


def test_no_more_cases_are_under_way_than_asked_for(here):
    cluster.connected(here, 1).wait_for_workers(2)  # after one that died
    assert most_at_a_time(outcomes(times, Crew(1, here.scheduler))) == 1
    assert most_at_a_time(outcomes(times, here)) == 2


def test_where_gpus_are_counted_each_case_takes_one(here):
    found = dict(cluster.outcomes(here, where_it_runs, CASES, 1, gpu=True))
    assert len(found) == len(CASES)
    assert cluster._counts_gpus(cluster.connected(here, 1))


def other_version():
    return "0.0.1"


def test_a_prediction_may_take_as_long_as_it_likes(here, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    found = dict(cluster.outcomes(here, times, CASES[:2], 1, gpu=True))
    assert all(ended - begun > 0.1 for begun, ended in found.values())


def test_workers_of_another_version_are_refused(here, monkeypatch):
    cluster._connected.cache_clear()
    monkeypatch.setattr(cluster, "_version", other_version)
    with pytest.raises(NndiffError, match="another version of nndiff") as caught:
        outcomes(square, here)
    assert VERSION in str(caught.value)


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    with pytest.raises(NndiffError, match="No Dask scheduler answers there"):
        outcomes(square, Crew(scheduler="tcp://127.0.0.1:1"))
    with pytest.raises(NndiffError, match="No Dask scheduler answers there"):
        outcomes(square, Crew(scheduler="nonsense://"))


def test_a_scheduler_without_workers_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "ARRIVE", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        pytest.raises(NndiffError, match="has no workers"),
    ):
        outcomes(square, Crew(scheduler=empty.scheduler_address))


def test_a_cluster_that_ends_ends_the_command_in_words(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as brief:
        stream = run(times, CASES, Crew(scheduler=brief.scheduler_address), 1, "Test")
        next(stream)
    with pytest.raises(NndiffError, match="The cluster is gone"):
        list(stream)


def test_a_case_that_the_cluster_has_forgotten_is_its_end():
    class Future:
        status = "cancelled"

    with pytest.raises(NndiffError, match="The cluster is gone"):
        cluster._outcome(Crew(scheduler="tcp://a:1"), CASES[0], Future())


def test_without_dask_the_extra_is_named(monkeypatch):
    with pytest.raises(NndiffError, match=r"nndiff\[cluster\]"):
        cluster._imported("no_such_module")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"scheduler": "tcp://a:1", "batch_system": "slurm"}, "named in one way"),
        ({"batch_system": "cron"}, "cannot start workers there"),
        ({"most": 0, "scheduler": "tcp://a:1"}, "needs workers"),
    ],
)
def test_a_crew_that_cannot_be_is_refused(words, message):
    with pytest.raises(NndiffError, match=message):
        Crew(**words)


def test_a_number_is_a_crew_of_this_machine():
    assert crew_of(3) == Crew(3)
    assert crew_of(None) == Crew()
    assert not crew_of(3).elsewhere
    assert crew_of(Crew(scheduler="tcp://a:1")).elsewhere
