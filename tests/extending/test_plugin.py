"""Test of a package that extends every extension point: it is installed and used from planning to evaluation.

The package is nndiff_example, beside this file, with one module per extension point.
documentation/explanation/extending.md explains it.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nndiff import checkpoint
from nndiff.cli import evaluate, plan_and_preprocess, predict, train
from nndiff.plans.plan import load_plan
from nndiff.walk.rules import RULES
from nndiff.words.files import read_json
from nndiff.words.paths import Paths
from tests.conftest import make_raw_dataset

HERE = Path(__file__).parent
PACKAGE = HERE / "nndiff_example"


def install(site: Path) -> Path:
    """Lay the package out as pip would: its modules, and the metadata that names its entry points."""
    shutil.copytree(PACKAGE, site / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    points: dict[str, dict[str, str]] = {}
    exec((PACKAGE / "__init__.py").read_text(), points)
    groups = points["ENTRY_POINTS"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in rows.items()) for group, rows in groups.items()]
    info = site / "nndiff_example-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nndiff-example\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("\n\n".join(lines) + "\n")
    return site


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = install(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] == "nndiff_example"]:
        del sys.modules[name]


def test_a_method_a_network_a_rule_a_loss_an_objective_and_a_metric_of_another_package_train_and_predict(
    installed: Path, roots: Paths, run_cli
) -> None:
    make_raw_dataset(roots.raw, cases=3, sources=("Ultrasound",), targets=("Ultrasound",))
    planned = run_cli(plan_and_preprocess.main, "-d", 1, "-c", "example", "-np", 0)
    assert planned.code == 0, planned.err
    assert "three convolutions" in planned.out
    plan = load_plan(roots.preprocessed / "Dataset001_Tiny" / "plan.json")
    configuration = plan.configurations["example"]
    assert configuration.network.name == "plain"
    assert configuration.sampler.rule.name == "euler"
    assert configuration.prediction == "correction"
    assert plan.source_channels[0].kind.name == "us"

    settings = ("--set", "training_steps=4", "warmup_steps=1", "batch_size=1")
    trained = run_cli(train.main, 1, "example", 0, *settings, "-np", 0, "-device", "cpu", "--no_tune")
    assert trained.code == 0, trained.err
    fold = roots.results / "Dataset001_Tiny" / "example" / "fold_0"
    found = checkpoint.load(fold / "checkpoint_latest.pt")
    assert set(found.objectives) == {"0.chart.weight", "0.chart.bias"}
    assert found.planned.stages[0].objective.name == "charted"

    scans, out = roots.raw / "Dataset001_Tiny" / "imagesTr", roots.results / "out"
    base = ("-i", scans, "-m", fold, "-device", "cpu", "--disable_progress_bar")
    plain = run_cli(predict.main, *base, "-o", out)
    assert plain.code == 0, plain.err
    parts = ("--start", "smooth:voxels=5", "--ts", 400, "--steps", 4, "--times", "squares", "--rule", "euler:pace=0.9")
    more = ("--part", "mirrors:images=2", "answers:every=2", "within:distance=0.05")
    other = run_cli(predict.main, *base, "-o", roots.results / "other", *parts, *more)
    assert other.code == 0, other.err
    sampler = read_json(roots.results / "other" / "predict.json")["sampler"]
    assert sampler["start"] == {"name": "smooth", "voxels": 5}
    assert sampler["times"] == {"name": "squares", "first": 400, "steps": 4}
    assert [row["name"] for row in sampler["layers"]] == ["tiles", "shifts", "mirrors"]
    assert {"name": "answers", "every": 2} in sampler["caches"]
    assert sampler["guides"] == [{"name": "within", "distance": 0.05}]
    volumes = [(roots.results / name / "case_0_0000.nii.gz").read_bytes() for name in ("out", "other")]
    assert volumes[0] != volumes[1]

    measured = run_cli(evaluate.main, roots.raw / "Dataset001_Tiny" / "targetsTr", out, "-o", out, "-np", 0)
    assert measured.code == 0, measured.err
    assert "P95" in measured.out
    with open(out / "metrics.csv", encoding="utf-8") as stream:
        assert all(np.isfinite(float(row["P95_error"])) for row in csv.DictReader(stream))


def test_a_command_in_a_process_of_its_own_finds_the_package(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    code = "from nndiff.cli.predict import main; main(['-h'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{site}:{HERE.parent.parent}", "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "euler" in done.stdout


def test_without_the_package_its_rows_are_unknown() -> None:
    assert "euler" not in RULES


def test_each_seam_is_one_file_of_the_package() -> None:
    points: dict[str, dict[str, dict[str, str]]] = {}
    exec((PACKAGE / "__init__.py").read_text(), points)
    modules = [place.partition(":")[0] for rows in points["ENTRY_POINTS"].values() for place in rows.values()]
    assert len(modules) == len(set(modules))
    for path in PACKAGE.glob("[a-z]*.py"):
        others = {f"nndiff_example.{other.stem}" for other in PACKAGE.glob("[a-z]*.py")} - {
            f"nndiff_example.{path.stem}"
        }
        named = {name for name in others if name in path.read_text()}
        assert not named or path.stem == "method", f"{path.name} needs {named}: a seam is one file"
