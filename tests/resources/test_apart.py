"""Tests of functions in a process apart: results are the same, and crashes, hangs and hunger end in words."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nndiff.resources.apart import Apart
from nndiff.words.errors import NndiffError

PATIENCE = 60.0
HERE = str(Path(__file__).parents[2])


def asked(what):
    if what == "arrays":
        print("a library's own words")
        return {"large": np.arange(3e6, dtype=np.float32).reshape(3, 1000, 1000)[:, ::-1], "small": [np.eye(2), "text"]}
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        time.sleep(3600)
    if what == "words":
        raise NndiffError("It is bad.", found=3, where=Path("there"), remedy="mend it")
    if what == "hunger":
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        return np.empty(limit, np.uint8).nbytes
    if what == "own":
        raise OwnError(1, 2)
    return os.getpid()


class OwnError(Exception):
    def __init__(self, first, second):
        super().__init__("a text")


def test_results_and_errors_are_those_of_the_function():
    with Apart(asked) as apart:
        found, same = apart("arrays", PATIENCE), asked("arrays")
        assert np.array_equal(found["large"], same["large"])
        assert found["large"].dtype == np.float32
        assert np.array_equal(found["small"][0], np.eye(2))
        with pytest.raises(NndiffError) as caught:
            apart("words", PATIENCE)
        assert str(caught.value) == "It is bad.\n  found 3\n  where: there\n  remedy: mend it"
        assert caught.value.remedy == "mend it"
        with pytest.raises(RuntimeError, match="OwnError: a text"):
            apart("own", PATIENCE)
        own = apart("", PATIENCE)
        assert apart("", PATIENCE) == own != os.getpid()


@pytest.mark.parametrize(("what", "patience", "word"), [("crash", PATIENCE, "SIGSEGV"), ("hang", 0.5, "no answer")])
def test_a_crash_or_a_hang_ends_in_words_and_the_next_call_is_answered(what, patience, word):
    with Apart(asked) as apart:
        apart("", PATIENCE)
        with pytest.raises(NndiffError, match=word):
            apart(what, patience)
        own = apart("", PATIENCE)
    with pytest.raises(ProcessLookupError):
        os.kill(own, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps to the limit")
def test_more_memory_than_is_free_is_an_error_of_that_call():
    with Apart(asked) as apart:
        with pytest.raises(MemoryError):
            apart("hunger", PATIENCE)
        assert apart("", PATIENCE)


def test_the_process_ends_with_the_program_even_in_the_middle_of_a_call():
    code = (
        "from nndiff.resources.apart import Apart\n"
        "from tests.resources.test_apart import asked\n"
        "with Apart(asked) as apart:\n"
        "    print(apart('', 60), flush=True)\n"
        "    apart('hang', 600)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=HERE)
    assert program.stdout is not None
    own = int(program.stdout.readline())
    program.kill()
    program.wait()
    while Path(f"/proc/{own}").exists() and Path(f"/proc/{own}/stat").read_text().split()[2] != "Z":
        time.sleep(0.05)


def test_ctrl_c_ends_a_call_that_another_thread_waits_for():
    code = (
        "import time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from nndiff.resources.apart import Apart\n"
        "from tests.resources.test_apart import asked\n"
        "with Apart(asked) as apart, ThreadPoolExecutor(1) as pool:\n"
        "    apart('', 60)\n"
        "    pool.submit(apart, 'hang', 600)\n"
        "    time.sleep(0.2)\n"
        "    print('waits', flush=True)\n"
        "    time.sleep(600)\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # nohup ignores it
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "waits\n"
    os.killpg(program.pid, signal.SIGINT)
    _, words = program.communicate()
    assert "KeyboardInterrupt" in words


@pytest.mark.parametrize(("option", "code"), [("error", 1), ("ignore", 0)])
def test_warnings_are_treated_as_the_program_treats_them(option, code):
    text = (
        "import warnings\n"
        "from nndiff.resources.apart import Apart\n"
        "with Apart(warnings.warn) as apart:\n"
        "    apart('odd', 60)\n"
    )
    run = subprocess.run([sys.executable, "-W", option, "-c", text], capture_output=True, text=True, cwd=HERE)
    assert (run.returncode, "UserWarning: odd" in run.stderr) == (code, bool(code))


def test_a_script_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from nndiff.resources.apart import Apart\n"
        "from os.path import basename\n"
        "print('once')\n"
        "with Apart(basename) as apart:\n"
        "    print(apart('/a/b', 60))\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=HERE)
    assert run.stdout == "once\nb\n"
