"""Laws of the owner of a folder: one at a time, and one that is gone does not stand in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nndiff.resources import owner as module
from nndiff.resources.owner import LOCK, Owner, owned
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART, sweep

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from nndiff.resources.owner import owned
with owned(Path(sys.argv[1])):
    print("HELD", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that owns the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert process.stdout.readline() == "HELD\n"
    yield process
    process.kill()
    process.wait()


def own(folder: Path, part: str = "") -> None:
    with owned(folder, part):
        pass


def left_by(folder: Path, gone: Owner, age: float = 0.0, part: str = "") -> Path:
    path = folder / f"{LOCK}{part}"
    path.write_text(json.dumps(asdict(gone)))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_while_it_lasts_another_one_is_refused(tmp_path, other) -> None:
    with pytest.raises(NndiffError, match=f"(?s)Another program writes .*process {other.pid} on this machine"):
        own(tmp_path)
    assert (tmp_path / LOCK).exists(), "the owner keeps its lock"


def test_after_a_kill_the_folder_is_free(tmp_path, other) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / LOCK).exists()
    with owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_it_is_given_back_also_after_an_error(tmp_path) -> None:
    folder = tmp_path / "new"
    for _ in range(2):
        with pytest.raises(RuntimeError), owned(folder):
            raise RuntimeError
        assert not folder.exists(), "a folder that was made for it and stayed empty is gone"
    with owned(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_later_process_with_the_same_number_is_no_owner(tmp_path) -> None:
    left_by(tmp_path, replace(Owner.this(tmp_path), started="1"))
    with owned(tmp_path):
        pass


def test_a_copy_of_a_folder_is_nobody_s(tmp_path) -> None:
    with owned(tmp_path / "one"):
        shutil.copytree(tmp_path / "one", tmp_path / "copy")
        own(tmp_path / "copy")
        (tmp_path / "one").rename(tmp_path / "moved")
        with pytest.raises(NndiffError, match="Another program"):
            own(tmp_path / "moved")


@pytest.mark.parametrize(("age", "free"), [(0.0, False), (0.9 * module.DEAD, False), (1.1 * module.DEAD, True)])
@pytest.mark.parametrize("where", [{"host": "elsewhere"}, {"space": "of another container"}])
def test_an_owner_elsewhere_is_gone_when_it_has_been_silent(where, age, free, tmp_path) -> None:
    path = left_by(tmp_path, replace(Owner.this(tmp_path), process=2**22 + 1, **where), age)
    if free:
        with owned(tmp_path):
            assert json.loads(path.read_text())["process"] == os.getpid()
    else:
        with pytest.raises(NndiffError, match="Another program"):
            own(tmp_path)


SLURM, TORCHRUN = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"), ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")


@pytest.mark.parametrize("names", [SLURM, TORCHRUN])
@pytest.mark.parametrize(
    ("before", "now", "free"),
    [
        (("7", ""), ("7", "1"), True),
        (("7", "1"), ("7", "2"), True),
        (("7", "1"), ("7", "1"), False),  # two programs of one job
        (("7", "2"), ("7", "1"), False),
        (("7", "0"), ("8", "1"), False),
        (("7", "0"), ("", "1"), False),
        (("", "0"), ("", "1"), False),
    ],
)
def test_a_job_that_its_scheduler_begins_again_elsewhere_owns_what_it_owned(
    names, before, now, free, tmp_path, monkeypatch
) -> None:
    def in_job(values: tuple[str, str]) -> Owner:
        for name, value in zip(names, values, strict=True):
            monkeypatch.setenv(name, value)
        return Owner.this(tmp_path)

    left_by(tmp_path, replace(in_job(before), host="elsewhere"))
    in_job(now)
    if free:
        own(tmp_path)
    else:
        with pytest.raises(NndiffError, match="Another program writes"):
            own(tmp_path)


def test_work_of_a_name_begins_again_later(tmp_path) -> None:
    left_by(tmp_path, replace(Owner.this(tmp_path, "part"), host="elsewhere"))
    with pytest.raises(NndiffError, match="Another program writes"), owned(tmp_path, job="other part"):
        pass
    with owned(tmp_path, job="part"):
        pass


def test_an_owner_is_not_silent(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)
    with owned(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        for _ in range(3000):
            if (tmp_path / LOCK).stat().st_mtime > time.time() - module.DEAD:
                return
            time.sleep(0.01)
        raise AssertionError("no beat")


@pytest.mark.parametrize("text", ["", "{", '{"host": "a"}', "[]", "\0" * 100])
def test_a_lock_that_cannot_be_read_stands_in_the_way_for_minutes(text, tmp_path) -> None:
    """As a full disk or a crash of the machine leaves it."""
    path = tmp_path / LOCK
    path.write_text(text)
    with pytest.raises(NndiffError, match="cannot be read"):
        own(tmp_path)
    os.utime(path, (time.time() - 2 * module.DEAD,) * 2)
    own(tmp_path)


def test_parts_share_a_folder_and_the_whole_does_not(tmp_path) -> None:
    with owned(tmp_path, "_part_0_of_2"), owned(tmp_path, "_part_1_of_2"):
        for part in ("", "_part_1_of_2"):
            with pytest.raises(NndiffError, match="Another program"):
                own(tmp_path, part)
    with owned(tmp_path), pytest.raises(NndiffError, match="Another program"):
        own(tmp_path, "_part_0_of_2")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_begins_at_the_same_moment_stops_the_whole(tmp_path, monkeypatch) -> None:
    written = module._written

    def part_too(path: Path, own: Owner) -> bool:
        left_by(tmp_path, Owner.this(tmp_path), part="_part_0_of_2")
        return written(path, own)

    monkeypatch.setattr(module, "_written", part_too)
    with pytest.raises(NndiffError, match="Another program"):
        own(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{LOCK}_part_0_of_2"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_begin_together_one_owns_the_folder(links, tmp_path, monkeypatch) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", no_links)
    together, inside, most, owners = threading.Barrier(8), [0], [0], list[int]()

    def begin(number: int) -> None:
        together.wait()
        try:
            with owned(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.05)
                inside[0] -= 1
                owners.append(number)
        except NndiffError:
            pass

    for _ in range(5):
        left_by(tmp_path, replace(Owner.this(tmp_path), started="1"))
        threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1
    assert len(owners) >= 5, "each time one"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(NndiffError, match="Cannot write"):
        own(tmp_path)


def test_what_a_killed_program_leaves_beside_a_lock_is_swept(tmp_path) -> None:
    name = module._beside(tmp_path / LOCK).name
    assert name.startswith(PART)
    (tmp_path / name.replace(str(os.getpid()), str(2**22 + 1))).touch()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
