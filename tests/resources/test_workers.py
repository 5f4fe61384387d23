"""Tests of worker processes: results do not depend on their number, and failures and crashes end cleanly."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from nndiff.resources import processes, workers
from nndiff.resources.outcomes import Failure, demand_success
from nndiff.resources.workers import run, worker_count
from nndiff.words.errors import NndiffError


@dataclass(frozen=True)
class Case:
    name: str
    number: int


CASES = [Case(f"case_{i}", i) for i in range(5)]


def square(case):
    return case.number**2


def fail_on_two(case):
    if case.number == 2:
        raise NndiffError("Case 2 is bad.", remedy="mend it")
    if case.number == 3:
        raise ZeroDivisionError("our own bug")
    if case.number == 4:
        raise MemoryError
    return case.number


def die_on_two(case):
    if case.number == 2:
        os._exit(9)
    return case.number


def threads(case):
    return os.environ["OMP_NUM_THREADS"], os.getpid()


def outcomes(function, count):
    return {case.name: outcome for case, outcome in run(function, CASES, count, 1, "Test")}


def test_the_results_do_not_depend_on_the_number_of_workers():
    serial = outcomes(square, 0)
    assert serial == {f"case_{i}": i**2 for i in range(5)}
    assert outcomes(square, 2) == serial


def test_serial_keeps_the_order_and_stays_in_this_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = list(run(threads, CASES, 0, 1, "Test"))
    assert [case for case, _ in found] == CASES
    assert {outcome for _, outcome in found} == {("7", os.getpid())}


def test_workers_have_one_thread_each_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    for threads_there, pid in outcomes(threads, 1).values():
        assert threads_there == "1"
        assert pid != os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("count", [0, 2])
def test_the_others_go_on_past_a_bad_case(count):
    found = outcomes(fail_on_two, count)
    assert (found["case_0"], found["case_1"]) == (0, 1)
    expected, bug, memory = found["case_2"], found["case_3"], found["case_4"]
    assert isinstance(expected, Failure)
    assert expected.expected
    assert expected.message == "Case 2 is bad.\n  remedy: mend it"
    assert not bug.expected
    assert bug.message == "ZeroDivisionError: our own bug"
    assert "fail_on_two" in bug.trace
    assert "out of memory" in memory.message
    assert "-np" in memory.message


def crash_on_two(case):
    if case.number == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    return case.number


def be_killed_on_one_and_three(case):
    if case.number in (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return case.number


def hang_on_two(case):
    if case.number == 2:
        time.sleep(600)
    return case.number


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("function", "dead", "words"),
    [
        (die_on_two, {"case_2"}, ("code 9",)),
        (crash_on_two, {"case_2"}, ("SIGSEGV", "may be damaged")),
        (be_killed_on_one_and_three, {"case_1", "case_3"}, ("SIGKILL", "out of memory", "-np")),
    ],
)
def test_a_worker_that_dies_is_its_cases_failure_and_the_others_go_on(count, function, dead, words):
    found = outcomes(function, count)
    assert {name for name, outcome in found.items() if isinstance(outcome, Failure)} == dead
    assert {name: outcome for name, outcome in found.items() if name not in dead} == {
        case.name: case.number for case in CASES if case.name not in dead
    }
    for name in dead:
        assert all(word in found[name].message for word in words), found[name].message


def test_a_worker_that_is_silent_is_killed_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(processes, "CHECK", 0.05)
    monkeypatch.setattr(processes, "PATIENCE", 3.0)
    found = outcomes(hang_on_two, 2)
    assert "no answer within" in found.pop("case_2").message
    assert found == {case.name: case.number for case in CASES if case.number != 2}


def take_long_on_two(case):
    time.sleep(3 if case.number == 2 else 0)
    return case.number


def test_a_worker_that_waits_for_work_is_not_silent(monkeypatch):
    """The other one has been done for longer than a case may take."""
    monkeypatch.setattr(processes, "CHECK", 0.05)
    monkeypatch.setattr(processes, "_killed_if_silent", only_the_idle)
    assert outcomes(take_long_on_two, 2) == {case.name: case.number for case in CASES}


def only_the_idle(processes, notes):
    """As if 2 s were too long, but for the case that takes long."""
    idle = {pid for pid in processes if (notes / str(pid)).exists() and "case_2" not in (notes / str(pid)).read_text()}
    late = {pid for pid in idle if time.time() - (notes / str(pid)).stat().st_mtime > 2}
    for pid in late:
        os.kill(pid, signal.SIGKILL)
    return late


DIE_AT_ONCE = """
from tests.resources.test_workers import CASES, square
from nndiff.resources.workers import run
import os
if __name__ == "__mp_main__":
    os._exit(3)
if __name__ == "__main__":
    list(run(square, CASES, 2, 1, "Test"))
"""


def test_workers_that_die_before_any_case_end_the_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DIE_AT_ONCE)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert "A worker process died" in done.stderr
    assert "case_0" in done.stderr
    assert "__name__" in done.stderr


def test_no_case_is_no_work():
    assert list(run(square, [], 2, 1, "Test")) == []


def test_stopping_early_leaves_no_worker_behind():
    stream = run(square, CASES, 1, 1, "Test")
    next(stream)
    stream.close()


NEWBORNS = """
import os, time
from tests.resources.test_workers import CASES, square
from nndiff.resources.workers import run
if __name__ == "__mp_main__":
    print(os.getpid(), flush=True)
    time.sleep(1)
if __name__ == "__main__":
    list(run(square, CASES[:2], 2, 1, "Test"))
"""
ORPHANS = """
import os, time
from tests.resources.test_workers import CASES
from nndiff.resources.workers import run
def announce(case):
    if case.number == 1:
        time.sleep(0.3)
        print(os.getpid(), flush=True)
        time.sleep(20)
if __name__ == "__main__":
    list(run(announce, CASES[:2], 2, 1, "Test"))
"""
BUSY = """
import os, time
from tests.resources.test_workers import CASES
from nndiff.resources.workers import run
def work(case):
    print(os.getpid(), flush=True)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        sum(range(10000))
if __name__ == "__main__":
    list(run(work, 4 * CASES, 1, 1, "Test"))
"""


@pytest.mark.parametrize(
    ("text", "kill", "again"),
    [
        (ORPHANS, signal.SIGKILL, None),
        (ORPHANS, signal.SIGINT, None),
        (NEWBORNS, signal.SIGINT, None),
        (BUSY, signal.SIGINT, 0.002),
        (BUSY, signal.SIGINT, 0.05),
    ],
)
def test_workers_do_not_outlive_the_process_that_started_them(tmp_path, text, kill, again):
    """Nor do they print their own tracebacks when a person presses Ctrl-C, be it while they are still starting; and
    pressing it twice ends it as well."""
    script = tmp_path / "script.py"
    script.write_text(text)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    worker = int(process.stdout.readline())
    if kill == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, kill)  # what a terminal does
        if again:
            time.sleep(again)
            os.killpg(process.pid, kill)
    _, errors = process.communicate(timeout=20)
    deadline = time.monotonic() + 5
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)
    assert again or errors.count("Traceback") <= (
        kill == signal.SIGINT
    )  # the script's own, which no command would show
    assert "SpawnProcess" not in errors


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("wanted", "cases", "cores", "fit", "count"),
    [
        (0, 100, 8, 100, 0),  # serial
        (None, 100, 8, 100, 8),  # cores
        (3, 100, 8, 100, 3),  # the person
        (16, 100, 8, 100, 16),  # a person may ask for more than cores
        (None, 2, 8, 100, 2),  # cases
        (None, 100, 8, 5, 4),  # RAM, of which a fifth is left alone
        (8, 100, 8, 0, 1),  # at least one, whatever the RAM
        (None, 0, 8, 100, 1),
    ],
)
def test_as_many_workers_as_cores_cases_and_memory_allow(monkeypatch, wanted, cases, cores, fit, count):
    monkeypatch.setattr(workers, "available_cores", lambda: cores)
    monkeypatch.setattr(workers, "free_ram", lambda: fit * 1000)
    assert worker_count(wanted, cases, 1000) == count


def test_failures_are_listed_with_their_cases():
    demand_success([], 5, "Preprocess")
    rows = [Failure("a", "NaN", "", True), Failure("b", "cut short", "", True)]
    with pytest.raises(NndiffError, match="2 of 5 cases failed") as raised:
        demand_success(rows, 5, "Preprocess")
    assert "a: NaN" in str(raised.value)
    assert "b: cut short" in str(raised.value)
    assert "same command again" in raised.value.remedy
