"""Tests of the model that comes with nndiff: what it is, and that it improves a scan that it has not seen."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import nndiff.demo
from nndiff.cli import demo
from nndiff.demo.cases import FIRST

MODEL = Path(nndiff.demo.__file__).with_name("model.zip")
LARGEST = 5_000_000  # bytes


def test_it_is_small_and_the_file_that_its_page_names() -> None:
    content = MODEL.read_bytes()
    assert len(content) < LARGEST
    assert hashlib.sha256(content).hexdigest() in MODEL.with_suffix(".md").read_text(encoding="utf-8")


def test_the_first_look_beats_the_best_filter_and_shows_it(tmp_path: Path, run_cli: Any) -> None:
    code, out, err = run_cli(demo.main, "-o", str(tmp_path / "demo"), "--only_first", "-device", "cpu")
    assert code == 0, err
    first = tmp_path / "demo" / "first"
    assert f"Picture: {first / 'first.png'}" in out
    assert (first / "first.png").read_bytes().startswith(b"\x89PNG")
    with open(first / "fidelity" / "metrics.csv", newline="") as stream:
        psnr = {row["method"]: float(row["PSNR"]) for row in csv.DictReader(stream) if row["case"] == FIRST}
    assert psnr["prediction"] > psnr["best Gaussian"] + 1 > psnr["input"] + 1
    assert not (tmp_path / "demo" / "raw").exists()
