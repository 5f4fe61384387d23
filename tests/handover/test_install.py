"""Tests of the installation: what is installed, under which name, and what is never replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nndiff.handover.install import install
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART
from tests.archive.made import contents, exported, model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return exported(tmp_path / "made", "low_count.zip")


def test_the_folder_has_exactly_the_parts_of_the_file(path: Path, tmp_path: Path) -> None:
    done = install(path, None, tmp_path / "models")
    assert done.folder == tmp_path / "models" / "low_count"
    assert not done.already
    assert {each.name: each.read_bytes() for each in done.folder.iterdir()} == contents(path)
    assert os.listdir(tmp_path / "models") == ["low_count"]


def test_the_same_content_is_installed_once_and_under_any_name(path: Path, tmp_path: Path) -> None:
    first = install(path, "one", tmp_path / "models")
    before = {each: each.stat().st_mtime_ns for each in first.folder.iterdir()}
    again = install(path, "one", tmp_path / "models")
    assert (again.folder, again.already) == (first.folder, True)
    assert {each: each.stat().st_mtime_ns for each in first.folder.iterdir()} == before
    for name in ("two", "two.zip", "größe 2"):
        assert not install(path, name, tmp_path / "models").already
        assert install(path, name, tmp_path / "models").already


def test_another_model_of_the_same_name_is_refused(path: Path, tmp_path: Path) -> None:
    folder = install(path, "one", tmp_path / "models").folder
    before = contents(path)
    other = exported(tmp_path / "made", "other.zip", folder=model(tmp_path / "again", tuned=False))
    with pytest.raises(NndiffError, match="Another model is installed as 'one'") as caught:
        install(other, "one", tmp_path / "models")
    assert caught.value.where == folder
    assert "--name" in str(caught.value.remedy)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before


def test_an_installed_model_that_is_damaged_is_not_said_to_be_installed(path: Path, tmp_path: Path) -> None:
    folder = install(path, "one", tmp_path / "models").folder
    (folder / "fold_0.safetensors").write_bytes(b"")
    with pytest.raises(NndiffError, match="The installed model is damaged") as caught:
        install(path, "one", tmp_path / "models")
    assert "delete this folder" in str(caught.value.remedy)


def test_a_folder_that_is_no_model_is_not_replaced(path: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "one").mkdir(parents=True)
    (tmp_path / "models" / "one" / "notes.txt").write_text("mine")
    with pytest.raises(NndiffError):
        install(path, "one", tmp_path / "models")
    assert (tmp_path / "models" / "one" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/a", "a\\b", "-x", ".x", " x", "x\n", "x" * 300])
def test_a_name_that_is_no_folder_is_refused(path: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(NndiffError, match="cannot be the name of an installed model") as caught:
        install(path, name, tmp_path / "models")
    assert "--name" in str(caught.value.remedy)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["none.zip", "model.pt"])
def test_only_a_zip_file_is_installed(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(NndiffError, match="installed from a zip file"):
        install(tmp_path / name, None, tmp_path / "models")


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_an_installation_that_fails_leaves_nothing_and_can_be_repeated(path, tmp_path, monkeypatch, step) -> None:
    def full(*_):  # type: ignore[no-untyped-def]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(NndiffError, match="The disk is full"):
            install(path, "one", tmp_path / "models")
    assert os.listdir(tmp_path / "models") == []
    assert not install(path, "one", tmp_path / "models").already


def test_what_a_killed_installation_left_is_swept_away(path: Path, tmp_path: Path) -> None:
    import platform

    left = tmp_path / "models" / f"{PART}{platform.node()}_{2**22 + 1}+one"
    left.mkdir(parents=True)
    (left / "fold_0.json").write_text("half")
    install(path, "one", tmp_path / "models")
    assert os.listdir(tmp_path / "models") == ["one"]
