"""End-to-end test of a new modality: one object from another package, used from the fingerprint to the evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from nndiff.cli import evaluate as command
from nndiff.data import fingerprint
from nndiff.data.prepare import prepare
from nndiff.evaluation import evaluate
from nndiff.imaging import io
from nndiff.imaging.crop import foreground
from nndiff.planning import planner
from nndiff.plans import plan as plans
from nndiff.words import dataset
from nndiff.words.errors import NndiffError
from nndiff.words.kind import Kind, Lowest, kind_by_values, kind_of
from nndiff.words.scheme import Scheme
from tests.conftest import make_phantom, make_raw_dataset, save_volume
from tests.prediction.trained import BUDGET, cheap

ULTRASOUND = Kind(
    name="us",
    units="dB",
    meaning="decibels are absolute",
    source=Scheme("fixed", {"low": -60.0, "high": 0.0}),
    source_reason="one window of 60 dB",
    foreground=Scheme("above", {"level": -50.0}),
    words=("US", "BMODE"),
    background=-60.0,
    window=Scheme("fixed", {"low": -60.0, "high": 10.0}),
    ratios=False,
    lowest=Lowest(certain=-1e6, doubtful=-40.0, because="nothing echoes nothing"),
    dtype=np.int16,
    metric_range=(-60.0, 20.0),
    contrast_varies=True,
)


@pytest.fixture(autouse=True)
def offered(offer) -> None:
    offer("kind", us=ULTRASOUND)


def decibels(seed: int) -> np.ndarray:
    """A body of about -20 dB in -60 dB of nothing."""
    return 40 * np.clip(make_phantom(seed), 0, 1) - 60


@pytest.fixture
def raw(tmp_path):
    """Two cases of B-mode and of what a better probe would have seen."""
    folder = make_raw_dataset(tmp_path, cases=2, sources=("US",), targets=("bmode",))
    for case in range(2):
        save_volume(folder / "imagesTr" / f"case_{case}_0000.nii.gz", decibels(case) - 1)
        save_volume(folder / "targetsTr" / f"case_{case}_0000.nii.gz", decibels(case))
    return folder


@pytest.fixture
def planned(raw):
    found, warnings = fingerprint.extract(dataset.read(raw), 0)
    assert not warnings
    return planner.plan(found, BUDGET, ["bridge"], {"configurations.bridge.network.width": 4}, predict=cheap)


def test_a_name_announces_it_and_leaves_the_others_theirs() -> None:
    assert kind_of("US") is kind_of("bmode raw") is ULTRASOUND
    assert [kind_of(name).name for name in ("PET/CT", "CT", "T1", "STATUS")] == ["pet", "ct", "mr", "mr"]
    assert kind_by_values(-2e6) is ULTRASOUND


def test_the_fingerprint_finds_the_foreground_by_its_rule(raw) -> None:
    found, _ = fingerprint.extract(dataset.read(raw), 0)
    expected = (decibels(0) > -50).mean()
    assert found.cases[0].target[0].foreground == pytest.approx(expected, abs=1e-4)
    assert 0.1 < expected < 0.9


def test_the_integrity_check_knows_its_lowest_values(raw) -> None:
    save_volume(raw / "imagesTr" / "case_0_0000.nii.gz", decibels(0) + 60)
    _, warnings = fingerprint.extract(dataset.read(raw), 0)
    (what,) = [warning for warning in warnings if "is named" in warning.what]
    assert "is named US" in what.what
    assert "nothing echoes nothing" in what.what
    assert "convert the values to dB" in what.remedy


def test_the_plan_takes_its_maps_its_background_and_its_reasons(planned) -> None:
    (source,), (target,) = planned.source_channels, planned.target_channels
    assert source == plans.Channel("US", ULTRASOUND, ULTRASOUND.source, -60.0)
    assert target == plans.Channel("bmode", ULTRASOUND, ULTRASOUND.window, -60.0)
    reasons = {decision.name: decision.reason for decision in planned.decisions}
    assert reasons["source_channels.0"] == "decibels are absolute: one window of 60 dB"
    assert reasons["target_channels.0"].startswith("decibels are absolute: [-60, 10] for every case")
    assert "US contrast differs" in reasons["augmentation"]


def test_a_plan_holds_its_name_alone(planned, tmp_path, monkeypatch) -> None:
    plans.save(tmp_path / "plan.json", planned)
    assert json.loads((tmp_path / "plan.json").read_text())["source_channels"][0]["kind"] == "us"
    assert plans.load(plans.Plan, tmp_path / "plan.json") == planned
    monkeypatch.setattr("nndiff.words.registry.entry_points", lambda group: [])
    with pytest.raises(NndiffError, match=r"no kind named 'us' \(in source_channels\[0\].kind\)") as raised:
        plans.load(plans.Plan, tmp_path / "plan.json")
    assert raised.value.expected == "ct or pet or mr"


def test_outside_the_crop_lies_its_background(planned, raw) -> None:
    source = io.read([raw / "imagesTr" / "case_0_0000.nii.gz"])
    preparation = replace(planned.preparation("bridge"), crop=plans.Crop(True, 0.0))
    prepared = prepare(source, None, None, preparation)
    back = prepared.undo(np.zeros_like(prepared.source)).array[0]
    inside = np.zeros(back.shape, bool)
    inside[prepared.undo.box.slices] = True
    assert not inside.all()
    assert (back[~inside] == -60).all()
    assert not foreground(source.array[0], ULTRASOUND)[~inside].any()


def test_metrics_are_measured_in_its_range(tmp_path, run_cli) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"target_names": {"0": "BMODE"}}))
    save_volume(tmp_path / "truth" / "a_0000.nii.gz", decibels(0))
    save_volume(tmp_path / "made" / "a_0000.nii.gz", decibels(0) + 1)
    found = evaluate(tmp_path / "truth", tmp_path / "made", tmp_path / "out", workers=0)
    (row,) = found.rows
    assert (row.kind, row.bounds) == (ULTRASOUND, (-60.0, 20.0))
    assert row.scores["PSNR"] == pytest.approx(20 * np.log10(80), abs=1e-3)
    assert found.summary["settings"]["bounds"]["us"] == "-60 to 20 dB"
    folders = tmp_path / "truth", tmp_path / "made"
    done = run_cli(command.main, *folders, "-o", tmp_path / "typed", "--kind", "us", "-np", 0)
    assert (done.code, "Channel 0, us, 1 case, range -60 to 20 dB" in done.out) == (0, True)
