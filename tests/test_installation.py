"""Tests of the installation: one bound of Python, pins that agree with it, a whole wheel, and recipes that are true."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nndiff.words.version import VERSION

ROOT = Path(__file__).parents[1]
PACKAGES = ("nndiff", "dataset_conversion")
BUILT_FROM = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def of_setup(keyword: str) -> Any:
    """Return what setup.py passes to setup()."""
    calls = [node for node in ast.walk(ast.parse(text("setup.py"))) if isinstance(node, ast.Call)]
    return next(ast.literal_eval(word.value) for call in calls for word in call.keywords if word.arg == keyword)


LEAST = of_setup("python_requires").removeprefix(">=")
EXTRAS: dict[str, list[str]] = of_setup("extras_require")
SCRIPTS = dict(row.split(" = ") for row in of_setup("entry_points")["console_scripts"])


# ---------------------------------------------------------------- the bound of Python


def pins() -> dict[str, str]:
    return dict(row.split("==") for row in text("constraints.txt").split())


def installed_pins() -> dict[str, SpecifierSet]:
    """Return, for each pin that is installed here in its pinned version, the Python versions that it needs."""
    found = {}
    for name, version in pins().items():
        try:
            own = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another extra
            continue
        if own.version.partition("+")[0] == version:
            found[name] = SpecifierSet(own.metadata.get("Requires-Python") or "")
    return found


def test_the_pinned_versions_need_exactly_the_python_that_is_promised() -> None:
    found = installed_pins()
    if len(found) < len(pins()) / 3:
        pytest.skip("the pinned versions are not installed here")
    assert [name for name, needs in found.items() if not needs.contains(LEAST)] == []
    major, minor = LEAST.split(".")
    before = f"{major}.{int(minor) - 1}"
    assert not all(needs.contains(before) for needs in found.values()), f"the pins work with Python {before} too"


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Makefile", r"^LEAST\s*:= (\S+)"),
        ("pyproject.toml", r'python_version = "(\S+)"'),
        ("README.md", r"Python (\S+) or later"),
        ("documentation/getting-started.md", r"Python (\S+) or later"),
        (".ci/run", r"python3 \((\S+) or later\)"),
        ("Dockerfile", r"^ARG PYTHON=(\S+)"),
        ("environment.yml", r"- python=(\S+)"),
    ],
)
def test_the_bound_of_python_is_the_same_everywhere(file: str, pattern: str) -> None:
    assert re.findall(pattern, text(file), re.MULTILINE) == [LEAST]
    assert f'target-version = "py{LEAST.replace(".", "")}"' in text("pyproject.toml")


def test_every_requirement_is_pinned_within_its_range() -> None:
    known = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins().items()}
    for row in [*of_setup("install_requires"), *(row for rows in EXTRAS.values() for row in rows)]:
        need = Requirement(row)
        assert need.specifier.contains(known[re.sub(r"[-_.]+", "-", need.name).lower()]), row


# ---------------------------------------------------------------- extras and recipes


def test_the_table_of_extras_is_that_of_setup() -> None:
    section = text("documentation/getting-started.md").partition("### Extras")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", section, re.MULTILINE)
    names = {extra: [Requirement(row).name for row in needs] for extra, needs in EXTRAS.items()}
    assert {extra: re.findall(r"`([^`]+)`", packages) for extra, packages in rows} == names


def test_dev_holds_what_users_can_add() -> None:
    assert set(EXTRAS["dicom"] + EXTRAS["cluster"]) <= set(EXTRAS["dev"])


@pytest.mark.parametrize(
    "file", ["Dockerfile", "environment.yml", "README.md", "Makefile", "documentation/getting-started.md"]
)
def test_extras_and_pins_that_a_recipe_names_exist(file: str) -> None:
    named = re.findall(r"\.\[([\w,]+)\]", text(file))
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)
    assert "-c constraints.txt" in text(file)


def test_the_image_holds_all_that_an_installation_needs() -> None:
    copied = [row.split()[1:-1] for row in text("Dockerfile").splitlines() if row.startswith("COPY ")]
    names = {name for row in copied for name in row}
    assert names == {"constraints.txt", *BUILT_FROM, *PACKAGES}
    ignored = text(".dockerignore").splitlines()
    assert {row[1:] for row in ignored if row.startswith("!")} == names
    assert re.findall(r'ENTRYPOINT \["(\w+)"\]', text("Dockerfile")) == ["nndiff"]
    assert re.findall(r"nndiff_(\w+)=", text("Dockerfile")) == ["raw", "preprocessed", "results"]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Dockerfile", r"^# .* nndiff (\w+)"),
        ("Makefile", r"(?:BIN\)/nndiff_|echo \"  nndiff )(\w+)"),
        ("README.md", r"(?:bin/nndiff |\bnndiff_)(\w+)"),
        ("documentation/getting-started.md", r"(?:^ {4}nndiff |`nndiff |\bnndiff_|/data nndiff )(\w+)"),
    ],
)
def test_the_commands_of_a_recipe_exist(file: str, pattern: str) -> None:
    words = re.findall(pattern, text(file), re.MULTILINE)
    known = {name.removeprefix("nndiff_") for name in SCRIPTS} | {"raw", "preprocessed", "results"}
    assert set(words) <= known
    assert words


# ---------------------------------------------------------------- make setup


def made(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("setup.py", "constraints.txt"):
        (folder / name).touch()
    variables = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run([make, *words], cwd=folder, env=variables, capture_output=True, text=True, timeout=120)


def interpreter(folder: Path, code: str) -> Path:
    """A program in place of Python, which tells what it is called with in `calls`."""
    path = folder / "some_python"
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


PIP = """\
case "$*" in
    -m\\ venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/pip;;
    install*) echo "$@" >> calls; case "$*" in *unreachable*) exit 1;; esac;;
esac"""


def test_a_machine_that_lacks_something_gets_one_sentence(tmp_path: Path) -> None:
    done = made(tmp_path, "setup", "PYTHON=no_such_python")
    assert done.returncode != 0
    assert f"There is no no_such_python: install Python {LEAST} or later" in done.stdout

    old = interpreter(tmp_path, '[ "$1" = -V ] && echo Python 3.6.15 && exit; exit 1')
    done = made(tmp_path, "setup", f"PYTHON={old}")
    assert f"needs Python {LEAST} or later, and {old} is Python 3.6.15" in done.stdout

    bare = interpreter(tmp_path, f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"')
    done = made(tmp_path, "setup", f"PYTHON={bare}")
    assert "apt-get install python3-venv" in done.stdout
    assert not (tmp_path / ".venv").exists()

    fails = interpreter(tmp_path, PIP.replace("*unreachable*", "*"))
    done = made(tmp_path, "setup", f"PYTHON={fails}")
    assert done.returncode != 0
    assert "install a compiler" in done.stdout
    assert "Next:" not in done.stdout


@pytest.mark.parametrize(
    ("driver", "index", "asked"),
    [
        (False, None, "https://download.pytorch.org/whl/cpu"),
        (True, None, ""),
        (False, "", ""),
        (True, "https://example.org/cu", "https://example.org/cu"),
        (False, "https://unreachable.org", "https://unreachable.org"),
    ],
)
def test_setup_takes_the_build_of_torch_that_fits(driver: bool, index: str | None, asked: str, tmp_path: Path) -> None:
    if driver:
        (tmp_path / "nvidia-smi").touch(0o755)
    elif shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has an NVIDIA driver")
    words = [] if index is None else [f"TORCH_INDEX={index}"]
    program = interpreter(tmp_path, PIP)
    done = made(tmp_path, "setup", f"PYTHON={program}", *words, PATH=f"/usr/bin:/bin:{tmp_path}")
    assert done.returncode == 0, done.stderr
    first, *rest = (tmp_path / "calls").read_text().splitlines()
    if asked:
        assert f"--index-url {asked} torch" in first
        assert "--no-deps" in first
        first, *rest = rest
    assert first.endswith("-c constraints.txt -e .[dev]")
    assert rest == []
    assert ("cannot be reached" in done.stdout) == ("unreachable" in asked)
    assert "Next:" in done.stdout
    assert "nndiff doctor" in done.stdout


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy of it, without a network."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(source)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def ran(words: list[str], site: Path, folder: Path) -> str:
    """Return what a program prints that runs apart from this tree, where Python sees `site` before all else."""
    variables = {"PYTHONPATH": str(site)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_the_marker_of_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert here - names == set()
    assert "nndiff/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    (own,) = metadata.distributions(path=[str(wheel)])
    assert own.version == VERSION
    assert own.metadata["Requires-Python"] == f">={LEAST}"
    assert set(own.metadata.get_all("Provides-Extra")) == set(EXTRAS)
    assert {point.name: point.value for point in own.entry_points} == SCRIPTS


def test_every_entry_point_of_the_wheel_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import nndiff; from importlib.metadata import distributions\n"
        f"(own,) = distributions(path=[{str(wheel)!r}])\n"
        "print(nndiff.__file__, *(callable(point.load()) for point in own.entry_points))"
    )
    where, *callables = ran([sys.executable, "-c", code], wheel, tmp_path).split()
    assert where.startswith(str(wheel))
    assert callables == ["True"] * len(SCRIPTS)


def test_python_m_nndiff_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    assert ran([sys.executable, "-m", "nndiff", "--version"], wheel, tmp_path) == f"nndiff {VERSION}\n"


def test_the_wheel_can_be_installed_and_its_programs_run(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    words = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True, timeout=300)
    assert {path.name for path in (site / "bin").iterdir()} == set(SCRIPTS)
    for name in ("nndiff", "nndiff_train", "nndiff_convert"):
        assert ran([str(site / "bin" / name), "--version"], site, tmp_path) == f"nndiff {VERSION}\n"
