"""Tests of nndiff_doctor: it tells what is wrong with its remedy, and nothing makes it fail itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nndiff.cli import doctor
from nndiff.resources import doctor as examination
from nndiff.resources import installed
from nndiff.resources.installed import Requirement
from nndiff.words.errors import NndiffError
from nndiff.words.paths import Paths
from tests.conftest import make_raw_dataset

GROUPS = ("Versions", "Processor and memory", "GPUs", "Root folders", "Datasets and trainings", "Extras", "Findings")
HERE = str(Path(__file__).parents[2])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nndiff require few libraries, whose imports are fast."""
    needs = [Requirement("torch", ">=2.8"), Requirement("tqdm", ">=4"), Requirement("nowhere", ">=1", "extra")]
    monkeypatch.setattr(installed, "requirements", lambda: needs)


def broken(folder: Path, name: str, code: str) -> Path:
    """A package that stands in the way of the real one."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code + "\n")
    return folder


def test_a_sound_machine_has_no_problem_that_stops_work(roots: Paths, run_cli, few: None) -> None:
    make_raw_dataset(roots.raw, cases=2)
    done = run_cli(doctor.main)
    assert (done.code, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if line in GROUPS] == list(GROUPS)
    assert "cpu, bf16         ok: " in done.out
    assert "translation, 2 cases; raw only" in done.out
    assert "missing: nowhere" in done.out
    assert "-m pip install" in done.out
    assert "case_0" not in done.out
    # A path is not broken in two.
    assert [line for line in done.out.splitlines() if len(line) > 80 and max(map(len, line.split())) < 50] == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "ImportError: libcudart.so.12: cannot open"),
        ("import os; os.abort()", "its process crashed (SIGABRT)"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_torch_is_a_finding(
    code: str, why: str, tmp_path: Path, roots: Paths, run_cli, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots.raw.mkdir()
    monkeypatch.syspath_prepend(broken(tmp_path / "site", "torch", code))
    done = run_cli(doctor.main)
    assert done.code == 1
    assert why in " ".join(done.out.split())
    assert "--force-reinstall" in done.out
    assert "works             tqdm" in done.out
    assert [line for line in done.out.splitlines() if line in GROUPS] == list(GROUPS)
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_the_command_begins_and_ends_without_a_library(name: str, tmp_path: Path) -> None:
    """In a process of its own, as after an installation that went wrong."""
    site = broken(tmp_path / "site", name, "raise ImportError('not here')")
    make_raw_dataset(tmp_path / "raw", cases=2)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), HERE]), "nndiff_raw": str(tmp_path / "raw")}
    words = [sys.executable, "-m", "nndiff.cli.doctor", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=variables, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["libraries"][name] == "broken"
    stopping = [found["what"] for found in report["findings"] if found["stops"]]
    assert any(f"{name} " in what and "not here" in what for what in stopping)
    assert [row["set_by"] for row in report["roots"]] == ["$nndiff_raw", None, None]
    assert "case_0" not in done.stdout


def test_what_is_missing_or_too_old_names_the_command_that_brings_it(
    roots: Paths, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots.raw.mkdir()
    needs = [Requirement("nowhere", ">=1"), Requirement("torch", ">=1000")]
    monkeypatch.setattr(installed, "requirements", lambda: needs)
    monkeypatch.setattr(installed, "needed_python", lambda: ">=4.0")
    report = json.loads(run_cli(doctor.main, "--json").out)
    assert report["libraries"] == {"nowhere": "missing", "torch": "too old"}
    assert report["self_test"] == []
    found = {problem["what"]: problem for problem in report["findings"]}
    assert found["nowhere is missing."]["remedy"].endswith('"nowhere>=1"')
    assert any("nndiff needs Python >=4.0" in what for what in found)
    assert all(problem["stops"] for problem in found.values())


@pytest.mark.parametrize("error", [KeyError("case_0"), NndiffError("case_0"), OSError("case_0"), ImportError("case_0")])
def test_an_error_of_our_own_is_a_finding_without_its_text(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setitem(examination.PROBES, "a dataset", examination.Probe(fails, ""))
    data, (problem,), fine = examination.answer(("a dataset", ()))
    assert (data, fine, problem.stops) == (None, False, True)
    assert "case_0" not in problem.what + problem.remedy
    assert "report it" in problem.remedy or isinstance(error, ImportError)


def test_home_and_login_are_not_told(tmp_path: Path, run_cli, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "someone"
    make_raw_dataset(home / "data" / "raw", cases=2)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("nndiff_raw", str(home / "data" / "raw"))
    done = run_cli(doctor.main)
    assert "~/data/raw ($nndiff_raw)" in done.out
    assert "someone" not in done.out


def test_an_import_is_by_the_name_of_the_distribution() -> None:
    installed.demand_import("typing-extensions")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        installed.demand_import("no-such-library")
