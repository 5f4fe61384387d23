"""Tests of atomic writing: a file is complete or absent, whatever happens while it is written."""

import errno
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.words import processes
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART, atomic, atomic_folder, demand_writable, dumps, read_json, sweep, write_json
from nndiff.words.names import LONGEST
from nndiff.words.processes import is_over, place, signature


def test_a_file_appears_in_one_step_and_keeps_its_ending(tmp_path):
    path = tmp_path / "new" / "folder" / "volume.nii.gz"
    with atomic(path) as part:
        assert part.parent == path.parent
        assert part.name.startswith(PART)
        assert part.name.endswith(".nii.gz")
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["volume.nii.gz"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), NndiffError("refused")])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "plan.json"
    path.write_text("old")

    def write():
        with atomic(path) as part:
            part.write_text("ha")
            raise error

    with pytest.raises(type(error)) as raised:
        write()
    assert raised.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(NndiffError, match=r"plan\.json"), atomic(tmp_path / "plan.json"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path, monkeypatch, step, code):
    path = tmp_path / "plan.json"
    path.write_text("old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(NndiffError) as raised:
        write_json(path, {"a": 1})
    assert "disk is full" in raised.value.what
    assert raised.value.where == path
    assert "same command again" in raised.value.remedy
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NndiffError, match=r"Cannot write plan\.json") as raised:
        write_json(tmp_path / "file" / "deeper" / "plan.json", {})
    assert "folder for which you have write permission" in raised.value.remedy


def test_a_folder_without_permission_cannot_be_written(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(NndiffError, match="Cannot write") as raised:
        write_json(tmp_path / "plan.json", {})
    assert raised.value.where == tmp_path


# ---------------------------------------------------------------- JSON

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(trees)
def test_law_what_is_laid_out_for_a_person_reads_back_as_it_was(tree):
    assert json.loads(dumps(tree)) == tree


@pytest.mark.parametrize("tree", [math.nan, {"a": math.nan}, [math.inf], [[math.nan]], {"a": {"b": math.inf}}])
def test_a_number_that_json_does_not_have_is_never_written(tree):
    with pytest.raises(ValueError, match="JSON"):
        dumps(tree)


def test_a_tree_is_laid_out_as_a_person_would():
    data = {
        "patch_size": [32, 64],
        "options": {"low": 0},
        "rows": [{"a": "ä"}, {"b": [1, 2]}],
        "pairs": [[1, 2], [3, 4]],
    }
    assert dumps({"plan": data, "empty": {}}).splitlines() == [
        "{",
        '  "plan": {',
        '    "patch_size": [32, 64],',
        '    "options": {"low": 0},',
        '    "rows": [',
        '      {"a": "ä"},',
        "      {",
        '        "b": [1, 2]',
        "      }",
        "    ],",
        '    "pairs": [[1, 2], [3, 4]]',
        "  },",
        '  "empty": {}',
        "}",
    ]


def test_reading_says_what_is_wrong_and_where(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(NndiffError, match=r"plan\.json is missing") as raised:
        read_json(path, "plan it first")
    assert raised.value.remedy == "plan it first"
    path.write_text('{"a": 1,}')
    with pytest.raises(NndiffError, match="not valid JSON") as raised:
        read_json(path)
    assert "line 1" in str(raised.value.found)
    for hostile in (b"\xff\xfe\x00", b"[" * 10**5, b'{"a":' * 10**5, b'{"a": ' + b"9" * 5000 + b"}"):
        path.write_bytes(hostile)
        with pytest.raises(NndiffError, match="not valid JSON"):
            read_json(path)


def test_a_file_that_may_not_be_read_is_not_said_to_be_unwritable(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    path.write_text("{}")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", denied)
    with pytest.raises(NndiffError, match=r"Cannot read plan\.json"):
        read_json(path)


def test_a_mark_that_windows_editors_put_first_is_no_error(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text('{"a": "ä"}', encoding="utf-8-sig")
    assert read_json(path) == {"a": "ä"}


# ---------------------------------------------------------------- what the killed leave behind


def test_sweeping_removes_what_dead_processes_of_this_machine_were_writing(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, elsewhere = platform.node(), "another-machine"
    gone = tmp_path / f"{PART}{here}_{dead.pid}+case.npy"
    kept = [
        tmp_path / f"{PART}{here}_{os.getpid()}+case.npy",
        tmp_path / f"{PART}{elsewhere}_{dead.pid}+case.npy",
        tmp_path / "case.npy",
    ]
    number_given_again = tmp_path / f"{PART}{place()}_{os.getpid()}-1+case.npy"  # that process started long ago
    for path in (gone, number_given_again, *kept):
        path.touch()
    with atomic(tmp_path / "new.npy") as part:
        part.touch()
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([part, *kept])
    (tmp_path / "new.npy").unlink()
    sweep(tmp_path / "absent")


@pytest.mark.parametrize("known", [True, False])
def test_a_process_is_over_where_it_ran_alone(monkeypatch, known):
    """Another machine, or a container with this one's name, has other processes under the same numbers."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    marks = []
    for node, space in (("ours", "1"), ("ours", "2"), ("theirs", "1")):
        with monkeypatch.context() as there:
            there.setattr(processes.platform, "node", lambda node=node: node)
            there.setattr(processes, "space", lambda space=space: space)
            there.setattr(processes, "started", lambda _: "123" if known else "")
            there.setattr(os, "getpid", lambda: dead.pid)
            marks.append(signature())
    monkeypatch.setattr(processes.platform, "node", lambda: "ours")
    monkeypatch.setattr(processes, "space", lambda: "1")
    assert [is_over(mark) for mark in marks] == [True, False, False]
    assert not is_over(signature())


def test_the_longest_names_of_cases_fit_with_what_marks_a_part(monkeypatch):
    monkeypatch.setattr(processes.platform, "node", lambda: "n" * 64)
    monkeypatch.setattr(processes, "started", lambda _: "9" * 10)
    monkeypatch.setattr(os, "getpid", lambda: 2**22)
    assert len(f"{PART}{signature()}+{'x' * LONGEST}_0000.nii.gz") <= 255


def test_what_has_not_changed_for_a_day_is_nobodys(tmp_path):
    day, name = 24 * 3600, f"{PART}another-machine_7-8-9+case"
    for age, kept in ((0, True), (0.9 * day, True), (1.1 * day, False)):
        (tmp_path / f"{name}.npy").touch()
        (tmp_path / name).mkdir()
        for path in tmp_path.iterdir():
            os.utime(path, (time.time() - age,) * 2)
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2 * kept
        shutil.rmtree(tmp_path / name, ignore_errors=True)


@pytest.mark.parametrize("write", [atomic, atomic_folder])
def test_who_writes_into_a_folder_first_sweeps_it(tmp_path, write):
    left = tmp_path / f"{PART}{platform.node()}_{2**22 + 1}+old.npy"  # above the largest process number
    left.touch()
    with write(tmp_path / "new") as part:
        part.touch() if write is atomic else part.mkdir(exist_ok=True)
        assert [path.name for path in tmp_path.iterdir()] == [part.name]


def test_a_folder_that_cannot_be_looked_into_is_refused_in_words(tmp_path, monkeypatch):
    def refused(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("is_dir", "mkdir"):
        monkeypatch.setattr(type(tmp_path), name, refused)
    with pytest.raises(NndiffError, match=r"Permission denied|Cannot write"), atomic(tmp_path / "a" / "b.npy"):
        pass


def test_trying_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    demand_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NndiffError, match=r"Cannot write into below\.") as raised:
        demand_writable(tmp_path / "file" / "below")
    assert raised.value.where == tmp_path / "file" / "below"


def test_numpys_own_word_for_a_full_disk_is_understood(tmp_path):
    with pytest.raises(NndiffError, match="The disk is full"), atomic(tmp_path / "a.npy"):
        raise OSError("319872 requested and 77792 written")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- folders


def test_a_folder_appears_in_one_step_with_all_its_files(tmp_path):
    path = tmp_path / "new" / "folder"
    with atomic_folder(path) as part:
        assert part.parent == path.parent
        (part / "one").write_text("1")
        assert not path.exists()
    assert os.listdir(path.parent) == ["folder"]
    assert (path / "one").read_text() == "1"


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), NndiffError("refused")])
def test_a_folder_that_fails_leaves_nothing(tmp_path, error):
    def write():
        with atomic_folder(tmp_path / "folder") as part:
            (part / "one").write_text("1")
            raise error

    with pytest.raises(type(error)) as raised:
        write()
    assert raised.value is error
    assert os.listdir(tmp_path) == []


def test_a_folder_with_files_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("1")
    with pytest.raises(NndiffError, match="Cannot write folder"), atomic_folder(tmp_path / "folder") as part:
        (part / "theirs").write_text("2")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["mine"]


def test_folders_of_dead_processes_are_swept_away_and_no_others(tmp_path):
    dead = tmp_path / f"{PART}{platform.node()}_{2**22 + 1}+folder"
    alive = tmp_path / f"{PART}{platform.node()}_{os.getpid()}+folder"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "one").write_text("1")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == [alive.name]
